/** What a figure depends on: machine, versions, commit. Goes into every line of results. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, totalmem } from 'node:os';
import { join } from 'node:path';

/** The repository. Children run from a transpiled copy, and are told by LATHE_BENCH_ROOT. */
export const ROOT = process.env.LATHE_BENCH_ROOT ?? join(__dirname, '..', '..');

export interface MachineRecord {
  readonly date: string;
  /** Empty outside of a git work tree. */
  readonly commit: string;
  /** Tracked files differ from the commit. */
  readonly dirty: boolean;
  readonly versions: Readonly<Record<string, string>>;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  /** Load average of the last minute at the start: anything above the benchmark's own threads competes. */
  readonly load: number;
}

export function describeMachine(versions: Readonly<Record<string, string>> = {}): MachineRecord {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  return {
    date: new Date().toISOString(),
    commit: git('rev-parse', '--short=12', 'HEAD'),
    dirty: git('status', '--porcelain', '--untracked-files=no') !== '',
    versions: { lathe: version, node: process.versions.node, ...versions },
    cpu: cpuName(),
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    load: Math.round(loadavg()[0] * 100) / 100,
  };
}

/** One line for people; names a load that would spoil the figures. */
export function machineLine(m: MachineRecord): string {
  const load = m.load > 0.5 ? `; LOAD ${m.load} before the start: other programs are running` : '';
  return `${m.cpu}, ${m.cores} cores; commit ${m.commit || 'none'}${m.dirty ? ' + changes' : ''}; ${Object.entries(
    m.versions,
  )
    .map(([k, v]) => `${k} ${v}`)
    .join(', ')}${load}`;
}

function git(...args: string[]): string {
  try {
    return execFileSync('git', args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return ''; // a package without its repository
  }
}

/** Model name, and what of the instruction set the engine's kernels choose by. */
function cpuName(): string {
  const model = cpus()[0]?.model.trim() ?? process.arch;
  try {
    const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1].split(' '));
    const known = ['amx_bf16', 'avx512_bf16', 'avx512f', 'avx2'].filter((f) => flags.has(f));
    return known.length ? `${model} (${known.join(', ')})` : model;
  } catch {
    return model;
  }
}
