/**
 * What the peers need, found or installed outside of the tree, and said aloud when it is not there.
 *
 * Python: a virtual environment at LATHE_PEERS_VENV (default ~/.cache/lathe/peers-venv), made on first use from
 * requirements.txt; LATHE_PEERS_PIP_ARGS goes to pip (an index with CPU builds of torch). tcmalloc: LATHE_TCMALLOC or where
 * distributions put it. node-llama-cpp: a folder with node_modules at LATHE_PEERS_NODE (default ~/.cache/lathe/peers-node),
 * never installed by itself.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { LatheError } from '../../src/errors';
import { ROOT } from '../harness/machine';
import { Worker } from '../harness/worker';

const CACHE = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'lathe');
const REQUIREMENTS = join(ROOT, 'benchmarks', 'peers', 'requirements.txt');
const PYTHON_SOURCES = join(ROOT, 'benchmarks', 'peers', 'python');
const LLAMA_VERSION = '3.22.1';

export interface PythonEnvironment {
  readonly python: string;
  readonly versions: Readonly<Record<string, string>>;
  /** Path of the allocator that is preloaded; null when there is none. */
  readonly tcmalloc: string | null;
}

/** The Python of the peers; makes the environment when it is not there. @throws LatheError ERR_CONFIG */
export function pythonEnvironment(): PythonEnvironment {
  const folder = process.env.LATHE_PEERS_VENV ?? join(CACHE, 'peers-venv');
  const python = join(folder, 'bin', 'python');
  if (!existsSync(python)) install(folder, python);
  const tcmalloc = findTcmalloc();
  if (tcmalloc) console.log(`peers: ${python}, tcmalloc preloaded from ${tcmalloc}`);
  else
    console.log(
      `peers: ${python}; tcmalloc NOT FOUND: the Python figures are not the fair ones. Install it (Debian: libtcmalloc-minimal4) or set LATHE_TCMALLOC`,
    );
  return { python, versions: pythonVersions(python, folder), tcmalloc };
}

function install(folder: string, python: string): void {
  console.log(`peers: making a virtual environment in ${folder} (torch, transformers, peft: some minutes)`);
  mkdirSync(dirname(folder), { recursive: true });
  const run = (command: string, args: readonly string[]): void => {
    const { status, error } = spawnSync(command, args, { stdio: 'inherit' });
    if (status !== 0) {
      throw new LatheError(
        'ERR_CONFIG',
        `${command} ${args.slice(0, 3).join(' ')} failed${error ? `: ${error.message}` : ` with status ${status}`}`,
        {
          at: folder,
          remedy:
            'remove the folder and try again, or set LATHE_PEERS_VENV to an environment with the packages of benchmarks/peers/requirements.txt',
        },
      );
    }
  };
  run('python3', ['-m', 'venv', folder]);
  run(python, [
    '-m',
    'pip',
    'install',
    ...(process.env.LATHE_PEERS_PIP_ARGS?.split(' ').filter(Boolean) ?? []),
    '-r',
    REQUIREMENTS,
  ]);
}

function pythonVersions(python: string, folder: string): Record<string, string> {
  const program = [
    'import json, sys, importlib.metadata as m',
    "print(json.dumps({'python': sys.version.split()[0], **{p: m.version(p) for p in ('torch', 'transformers', 'peft', 'numpy')}}))",
  ].join('\n');
  try {
    return JSON.parse(
      execFileSync(python, ['-c', program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }),
    ) as Record<string, string>;
  } catch (error) {
    const why = String((error as { stderr?: string }).stderr ?? error)
      .trim()
      .split('\n')
      .at(-1);
    throw new LatheError('ERR_CONFIG', `the Python environment lacks a package: ${why}`, {
      at: folder,
      remedy: `install benchmarks/peers/requirements.txt into it, or remove it to have it made anew`,
      cause: error,
    });
  }
}

function findTcmalloc(): string | null {
  const given = process.env.LATHE_TCMALLOC;
  if (given !== undefined) {
    if (existsSync(given)) return given;
    throw new LatheError('ERR_CONFIG', `LATHE_TCMALLOC names '${given}', which is not there`);
  }
  for (const folder of [
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib',
    '/usr/local/lib',
    '/opt/homebrew/lib',
  ]) {
    const names = existsSync(folder) ? readdirSync(folder) : [];
    const name = names.filter((n) => /^libtcmalloc(_minimal)?\.so(\.\d+)?$/.test(n)).sort()[0];
    if (name) return join(folder, name);
  }
  return null;
}

/** A Python child of one of the scripts in python/; fair settings for what torch can be told. */
export function pythonWorker(
  environment: PythonEnvironment,
  name: string,
  script: string,
  config: object,
  threads: number,
): Worker {
  return new Worker({
    name,
    command: environment.python,
    args: [join(PYTHON_SOURCES, script), JSON.stringify(config)],
    env: {
      ...(environment.tcmalloc ? { LD_PRELOAD: environment.tcmalloc } : {}),
      OMP_NUM_THREADS: String(threads),
      OPENBLAS_NUM_THREADS: String(threads),
      HF_HUB_OFFLINE: '1',
      TOKENIZERS_PARALLELISM: 'false',
      PYTHONUNBUFFERED: '1',
      PYTHONDONTWRITEBYTECODE: '1',
    },
  });
}

export interface LlamaPackage {
  /** Entry file of node-llama-cpp. */
  readonly entry: string;
  readonly version: string;
}

/** node-llama-cpp where it was installed, or null, said aloud. */
export function llamaPackage(): LlamaPackage | null {
  const folder = process.env.LATHE_PEERS_NODE ?? join(CACHE, 'peers-node');
  const manifest = join(folder, 'node_modules', 'node-llama-cpp', 'package.json');
  if (!existsSync(manifest)) {
    console.log(
      `SKIPPED: node-llama-cpp is not installed in ${folder}; to compare with it: npm install --prefix ${folder} node-llama-cpp@${LLAMA_VERSION}`,
    );
    return null;
  }
  const { version } = JSON.parse(readFileSync(manifest, 'utf8')) as { version: string };
  return { entry: join(dirname(manifest), 'dist', 'index.js'), version };
}

/** Writes a GGUF with random weights. @throws LatheError ERR_CONFIG when the Python side cannot */
export function makeGguf(environment: PythonEnvironment, config: object, kind: string, out: string): void {
  const { status, stderr } = spawnSync(
    environment.python,
    [join(PYTHON_SOURCES, 'make_gguf.py'), JSON.stringify(config), kind, out],
    { encoding: 'utf8' },
  );
  if (status !== 0)
    throw new LatheError('ERR_CONFIG', `make_gguf.py failed: ${stderr.trim().split('\n').at(-1)}`, {
      remedy: 'install the gguf package into the peers’ Python environment',
    });
}
