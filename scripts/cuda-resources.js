/**
 * Holds registers, spills, stack and static shared memory of every CUDA kernel to the limits in native/cuda/resources.json.
 *
 *   node scripts/cuda-resources.js [--write] [--arch sm_90a] [--jobs 2]   compiles every file for one architecture
 *   node scripts/cuda-resources.js [--write] --built DIR                  reads the logs of a build in DIR: what it built
 *
 * It needs nvcc and no GPU: ptxas reports what it gave each kernel. A kernel over its limit, or one that the file does
 * not know, fails; so does one of the file that is gone. --write records the present numbers, to be looked at in the diff.
 * Of architectures without limits, spills are told.
 */
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const ROOT = path.resolve(__dirname, '..');
const FOLDER = path.join(ROOT, 'native', 'cuda');
const LIMITS = path.join(FOLDER, 'resources.json');

function option(name, fallback) {
  const at = process.argv.indexOf(name);
  return at < 0 ? fallback : process.argv[at + 1];
}

function compile(file, arch) {
  const out = path.join(os.tmpdir(), `lathe-resources-${process.pid}-${path.basename(file)}.cubin`);
  const virtual = arch.replace('sm_', 'compute_');
  const args = [
    '-std=c++20',
    '-O3',
    '-cubin',
    `-gencode=arch=${virtual},code=${arch}`,
    '-Xptxas',
    '-v',
    '-I',
    path.join(ROOT, 'native'),
    '-I',
    path.join(ROOT, 'native', 'include'),
    file,
    '-o',
    out,
  ];
  return new Promise((resolve, reject) => {
    const child = spawn('nvcc', args);
    let text = '';
    child.stdout.on('data', (d) => (text += d));
    child.stderr.on('data', (d) => (text += d));
    child.on('error', reject);
    child.on('close', (status) => {
      fs.rmSync(out, { force: true });
      if (status === 0) resolve(text);
      else reject(new Error(`nvcc failed on ${path.basename(file)}:\n${text}`));
    });
  });
}

/** `forward_kernel<128, 64>` of a mangled name; c++filt comes with g++, which nvcc needs anyway. */
function demangle(names) {
  const result = spawnSync('c++filt', names, { encoding: 'utf8' });
  if (result.status !== 0) throw new Error('c++filt was not found');
  return result.stdout
    .trim()
    .split('\n')
    .map((line) => {
      const plain = line
        .replace(/lathe::cuda::|_GLOBAL__N__[0-9a-zA-Z_]+::|\(anonymous namespace\)::|^void /g, '')
        .replace(/\((?:int|bool|unsigned int)\)/g, '');
      // Arguments start at the first parenthesis outside of angle brackets.
      let depth = 0;
      for (let i = 0; i < plain.length; i++) {
        if (plain[i] === '<') depth++;
        else if (plain[i] === '>') depth--;
        else if (plain[i] === '(' && depth === 0) return plain.slice(0, i);
      }
      return plain;
    });
}

/** Kernels that differ only in what a name does not show share an entry, with the larger numbers. */
function larger(a, b) {
  return a ? Object.fromEntries(Object.keys(b).map((key) => [key, Math.max(a[key], b[key])])) : b;
}

/** What ptxas said, as {architecture: {kernel: numbers}}. */
function parse(text, file) {
  const found = [];
  let current;
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line);
    if (entry)
      found.push(
        (current = { mangled: entry[1], arch: entry[2], registers: 0, spillBytes: 0, stackBytes: 0, sharedBytes: 0 }),
      );
    if (!current) continue;
    const stack = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (stack)
      Object.assign(current, { stackBytes: Number(stack[1]), spillBytes: Number(stack[2]) + Number(stack[3]) });
    const used = /Used (\d+) registers/.exec(line);
    if (used) current.registers = Number(used[1]);
    const shared = /(\d+) bytes smem/.exec(line);
    if (shared) current.sharedBytes = Number(shared[1]);
  }
  if (found.length === 0) return {};
  const names = demangle(found.map((k) => k.mangled));
  const byArch = {};
  found.forEach(({ mangled: _mangled, arch, ...numbers }, i) => {
    const name = `${path.basename(file, '.cu')}: ${names[i]}`;
    const kernels = (byArch[arch] ??= {});
    kernels[name] = larger(kernels[name], numbers);
  });
  return byArch;
}

/** The logs that native/cuda/keep_log.sh left in a build folder. */
function* logsIn(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* logsIn(file);
    // A log without its object is of a compilation under way, or of one that failed.
    else if (entry.name.endsWith('.cu.o.log') && fs.existsSync(file.slice(0, -4))) yield file;
  }
}

function merge(into, byArch) {
  for (const [arch, kernels] of Object.entries(byArch)) Object.assign((into[arch] ??= {}), kernels);
}

async function main() {
  if (spawnSync('nvcc', ['--version']).status !== 0) {
    console.log('CUDA resources: skipped, nvcc was not found');
    return;
  }
  const built = option('--built', undefined);
  const files = fs
    .readdirSync(FOLDER)
    .filter((f) => f.endsWith('.cu'))
    .map((f) => path.join(FOLDER, f));
  const found = {};
  if (built) {
    const logs = [...logsIn(built)];
    for (const log of logs) {
      const file = path.basename(log, '.o.log');
      if (files.some((f) => path.basename(f) === file)) merge(found, parse(fs.readFileSync(log, 'utf8'), file));
    }
    if (logs.length < files.length)
      throw new Error(
        `${built} holds logs of ${logs.length} of ${files.length} files: build first (npm run build:cuda)`,
      );
  } else {
    const queue = [...files];
    const arch = option('--arch', 'sm_90a');
    const work = async () => {
      for (let file = queue.shift(); file; file = queue.shift()) merge(found, parse(await compile(file, arch), file));
    };
    await Promise.all(Array.from({ length: Number(option('--jobs', '2')) }, work));
  }
  const limits = fs.existsSync(LIMITS) ? JSON.parse(fs.readFileSync(LIMITS, 'utf8')) : {};
  if (process.argv.includes('--write')) {
    for (const arch of Object.keys(found)) if (arch !== option('--arch', 'sm_90a')) delete found[arch];
    for (const [arch, kernels] of Object.entries(found))
      limits[arch] = Object.fromEntries(Object.entries(kernels).sort(([a], [b]) => (a < b ? -1 : 1)));
    fs.writeFileSync(
      LIMITS,
      `${JSON.stringify(limits, null, 1).replace(/\{\n\s+"registers": (\d+),\n\s+"spillBytes": (\d+),\n\s+"stackBytes": (\d+),\n\s+"sharedBytes": (\d+)\n\s+\}/g, '{ "registers": $1, "spillBytes": $2, "stackBytes": $3, "sharedBytes": $4 }')}\n`,
    );
    for (const [arch, kernels] of Object.entries(found))
      console.log(`CUDA resources: ${Object.keys(kernels).length} kernels of ${arch} recorded`);
    return;
  }
  let failed = 0;
  for (const [arch, kernels] of Object.entries(found)) {
    const problems = [];
    for (const [name, now] of Object.entries(kernels)) {
      const limit = limits[arch]?.[name];
      if (limit)
        for (const [what, value] of Object.entries(now))
          if (value > limit[what]) problems.push(`${name}: ${what} ${value}, limit ${limit[what]}`);
      if (!limit && limits[arch]) problems.push(`${name}: not in native/cuda/resources.json (run with --write)`);
      if (!limits[arch] && now.spillBytes > 0)
        console.log(`${arch}: ${name}: spills ${now.spillBytes} bytes (no limits for this architecture)`);
    }
    for (const name of Object.keys(limits[arch] ?? {}))
      if (!kernels[name]) problems.push(`${name}: in native/cuda/resources.json but not compiled (run with --write)`);
    for (const problem of problems) console.error(`${arch}: ${problem}`);
    console.log(`CUDA resources: ${Object.keys(kernels).length} kernels of ${arch}, ${problems.length} problems`);
    failed += problems.length;
  }
  if (failed > 0 || Object.keys(found).length === 0) process.exitCode = 1;
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
