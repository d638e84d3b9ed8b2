/**
 * Builds the native addon into build/Release/lathe.node; also package.json's install script.
 *
 *   node scripts/build-addon.js [--force] [--clean] [--out DIR] [--copy-to FILE]
 *
 * It decides between nothing (sources unchanged since the last success), an incremental build and a reconfigure,
 * because `cmake-js build` alone ignores new options. `--force` always calls the build tool, `--clean` starts over.
 * LATHE_BUILD_JOBS caps the parallel compilers. A lock file makes two calls at once wait for each other.
 */
'use strict';

const { spawnSync } = require('node:child_process');
const { createHash } = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const ROOT = path.resolve(__dirname, '..');
// Whatever changes the result without changing a source file.
const OPTIONS = ['LATHE_NATIVE_TESTS', 'LATHE_SANITIZE', 'LATHE_CUDA', 'LATHE_CUDA_ARCHS'];
// What CMake only looks at in an empty build folder.
const TOOLCHAIN = ['CC', 'CXX', 'CFLAGS', 'CXXFLAGS', 'LDFLAGS'];

class BuildError extends Error {}

function parseArguments(argv) {
  const options = { force: false, clean: false, out: path.join(ROOT, 'build'), copyTo: undefined };
  for (let i = 0; i < argv.length; i++) {
    if (argv[i] === '--force') options.force = true;
    else if (argv[i] === '--clean') options.clean = true;
    else if (argv[i] === '--out' && argv[i + 1]) options.out = path.resolve(argv[++i]);
    else if (argv[i] === '--copy-to' && argv[i + 1]) options.copyTo = path.resolve(argv[++i]);
    else throw new BuildError(`unknown argument '${argv[i]}'; known: --force --clean --out DIR --copy-to FILE`);
  }
  return options;
}

/** The release of this platform that npm may have installed as an optional dependency. */
function prebuiltPackage() {
  try {
    return require.resolve(`@lathe/${process.platform}-${process.arch}`, { paths: [ROOT] });
  } catch {
    return undefined;
  }
}

function onPath(name) {
  const candidates = path.isAbsolute(name)
    ? [name]
    : (process.env.PATH ?? '').split(path.delimiter).map((folder) => path.join(folder, name));
  return candidates.some((file) => {
    try {
      fs.accessSync(file, fs.constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function checkTools() {
  if (process.platform === 'win32') throw new BuildError('Windows is not supported; use WSL');
  const install =
    process.platform === 'darwin'
      ? 'xcode-select --install && brew install cmake'
      : 'apt-get install cmake g++ make   (or your distribution’s equivalent)';
  if (!onPath('cmake')) throw new BuildError(`cmake was not found on PATH. Install it:\n  ${install}`);
  const compilers = process.env.CXX ? [process.env.CXX.split(' ')[0]] : ['c++', 'g++', 'clang++'];
  if (!compilers.some(onPath)) {
    throw new BuildError(
      `no C++20 compiler was found on PATH (tried ${compilers.join(', ')}). Install one:\n  ${install}`,
    );
  }
  if (!onPath('ninja') && !onPath('make'))
    throw new BuildError(`neither ninja nor make was found on PATH:\n  ${install}`);
}

function* sourceFiles(folder) {
  for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* sourceFiles(file);
    else if (/\.(cpp|h|inc|map|cu|cuh)$/.test(entry.name)) yield file;
  }
}

/** What the cache depends on; that plus what the configure step does; that plus every source file's size and time. */
function fingerprints(cmakeJs) {
  const values = (names) => names.map((name) => process.env[name] ?? '');
  const toolchain = JSON.stringify([ROOT, cmakeJs, values(TOOLCHAIN)]);
  const configure = createHash('sha256')
    .update(toolchain)
    .update(JSON.stringify(values(OPTIONS)));
  configure.update(fs.readFileSync(path.join(ROOT, 'CMakeLists.txt')));
  const configured = configure.digest('hex');
  const build = createHash('sha256').update(configured);
  for (const file of [...sourceFiles(path.join(ROOT, 'native'))].sort()) {
    const info = fs.statSync(file);
    build.update(`${file}\0${info.size}\0${info.mtimeMs}\n`);
  }
  return { toolchain, configured, built: build.digest('hex') };
}

function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch {
    return {};
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Runs `body` while no other call builds into the same folder. */
function withLock(out, body) {
  fs.mkdirSync(out, { recursive: true });
  const file = path.join(out, '.lathe-build.lock');
  let announced = false;
  for (;;) {
    try {
      fs.writeFileSync(file, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const text = readText(file);
    const age = Date.now() - (fs.statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    // An empty file is a holder between creating and writing it, unless it stays empty.
    if (text === '' ? age > 5000 : text !== undefined && !isAlive(Number(text))) {
      fs.rmSync(file, { force: true });
      continue;
    }
    if (!announced) console.log(`lathe: waiting for another build (process ${text})`);
    announced = true;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
  }
  try {
    return body();
  } finally {
    fs.rmSync(file, { force: true });
  }
}

function readText(file) {
  try {
    return fs.readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function runCmakeJs(cmakeJs, command, out, extra) {
  const args = [cmakeJs, command, '--directory', ROOT, '--out', out, '--log-level', 'warn', ...extra];
  const result = spawnSync(process.execPath, args, { cwd: ROOT, stdio: 'inherit' });
  if (result.error) throw new BuildError(`cmake-js could not be started: ${result.error.message}`);
  if (result.status !== 0) throw new BuildError(`cmake-js ${command} failed; the first error is above`);
}

function build(options) {
  const cmakeJs = require.resolve('cmake-js/bin/cmake-js', { paths: [ROOT] });
  const addon = path.join(options.out, 'Release', 'lathe.node');
  const stampFile = path.join(options.out, 'lathe-build.json');
  return withLock(options.out, () => {
    const now = fingerprints(cmakeJs);
    const stamp = readJson(stampFile);
    if (!options.force && !options.clean && stamp.built === now.built && fs.existsSync(addon)) {
      console.log(`lathe: ${path.relative(ROOT, addon)} is up to date`);
      return addon;
    }
    checkTools();
    const cache = path.join(options.out, 'CMakeCache.txt');
    if (options.clean || stamp.configured !== now.configured || !fs.existsSync(cache)) {
      if (options.clean || stamp.toolchain !== now.toolchain) {
        fs.rmSync(cache, { force: true });
        fs.rmSync(path.join(options.out, 'CMakeFiles'), { recursive: true, force: true });
      }
      runCmakeJs(cmakeJs, 'configure', options.out, []);
      fs.writeFileSync(stampFile, JSON.stringify({ toolchain: now.toolchain, configured: now.configured }));
    }
    const jobs = Number(process.env.LATHE_BUILD_JOBS) || os.availableParallelism();
    runCmakeJs(cmakeJs, 'build', options.out, ['--parallel', String(jobs)]);
    if (!fs.existsSync(addon)) throw new BuildError(`the build finished without writing ${addon}`);
    fs.writeFileSync(stampFile, JSON.stringify(now));
    console.log(`lathe: built ${path.relative(ROOT, addon)}`);
    return addon;
  });
}

function main() {
  try {
    const options = parseArguments(process.argv.slice(2));
    const prebuilt = process.env.npm_lifecycle_event === 'install' ? prebuiltPackage() : undefined;
    if (prebuilt) {
      console.log(`lathe: using the prebuilt addon of ${prebuilt}`);
      return;
    }
    const addon = build(options);
    if (options.copyTo) {
      fs.mkdirSync(path.dirname(options.copyTo), { recursive: true });
      fs.copyFileSync(addon, options.copyTo);
    }
  } catch (error) {
    const message = error instanceof BuildError ? error.message : error.stack;
    console.error(`\nlathe: the native addon was not built: ${message}\n`);
    process.exitCode = 1;
  }
}

main();
