/** Rules about files: names, exports, sizes, build descriptions, and what compiled variants may contain. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { projectFiles, readText, ROOT, withoutComments } from './source-files';

const files = projectFiles();
const typescript = files.filter((file) => /^(src|test|benchmarks|examples|scripts)\/.*\.ts$/.test(file));

test('no default exports in src', () => {
  expect(
    typescript.filter(
      (file) =>
        file.startsWith('src/') &&
        /^export\s+default\b|\bas\s+default\b|^export\s*=/m.test(withoutComments(readText(file))),
    ),
  ).toEqual([]);
});

test('no file is called utils or helpers', () => {
  expect(
    files.filter((file) => /(^|\/)(utils?|helpers?|common-utils|misc)\.\w+$/i.test(file) && !file.startsWith('data/')),
  ).toEqual([]);
});

test('TypeScript files are kebab-case, C++ files snake_case', () => {
  expect(
    typescript.filter((file) => !/^[a-z0-9]+(-[a-z0-9]+)*(\.(test|cases|d))?\.ts$/.test(path.posix.basename(file))),
  ).toEqual([]);
  const native = files.filter((file) => /^native\/.*\.(cpp|h|inc|cu|cuh)$/.test(file));
  expect(native.filter((file) => !/^[a-z0-9]+(_[a-z0-9]+)*\.\w+$/.test(path.posix.basename(file)))).toEqual([]);
});

test('every source file opens with a comment that says what it is', () => {
  const sources = files.filter(
    (file) => /^(src|native|test|scripts)\/.*\.(ts|cpp|h|cu|cuh|py)$/.test(file) && !file.endsWith('.inc'),
  );
  expect(sources.filter((file) => !/^(#!.*\n)?(\/\*|\/\/|"""|#)/.test(readText(file).trimStart()))).toEqual([]);
});

// npm runs `pretrain` before `train`: a command of that name would start by itself.
test('no npm script is the hook of another by accident', () => {
  const { scripts } = JSON.parse(readText('package.json')) as { scripts: Record<string, string> };
  const names = Object.keys(scripts);
  expect(names.filter((name) => names.some((other) => name === `pre${other}` || name === `post${other}`))).toEqual([]);
});

test('no file is larger than 12 MB', () => {
  const large = files
    .map((file) => ({ file, bytes: statSync(path.join(ROOT, file)).size }))
    .filter(({ bytes }) => bytes > 12e6);
  expect(large).toEqual([]);
});

test('binding.gyp names no source file', () => {
  const text = readText('binding.gyp').replace(/#.*$/gm, '');
  expect(text).not.toMatch(/['"]sources['"]|\.(cpp|cc|cu|c|h)['"]/);
  expect(text).toContain('scripts/build-addon.js');
});

test('CMakeLists.txt names no kernel file: they are found by folder', () => {
  const text = readText('CMakeLists.txt').replace(/#.*$/gm, '');
  expect(text.match(/native\/(cpu|cuda|engine|addon)\/\w+\.(cpp|cu)\b/g) ?? []).toEqual([]);
});

test('package.json ships what it runs', () => {
  const manifest = JSON.parse(readText('package.json')) as { files: string[]; scripts: Record<string, string> };
  const missing = ['native', 'CMakeLists.txt', 'binding.gyp', 'scripts/build-addon.js', 'dist'].filter(
    (name) => !manifest.files.includes(name),
  );
  expect(missing).toEqual([]);
  for (const script of Object.values(manifest.scripts))
    for (const m of script.matchAll(/(?:scripts|src|benchmarks)\/[\w./-]+\.(?:ts|js)/g))
      expect([m[0], existsSync(path.join(ROOT, m[0]))]).toEqual([m[0], true]);
});

describe('objects of instruction-set variants', () => {
  // A weak symbol of a file compiled for a wider instruction set may be the one the linker keeps for everybody, and then an
  // older CPU dies of an illegal instruction. So such files define nothing inline, and instantiate nothing of std.
  const folder = path.join(ROOT, 'build', 'CMakeFiles', 'lathe_core.dir', 'native', 'cpu');
  const objects = existsSync(folder)
    ? (readdirSync(folder, { recursive: true }) as string[]).filter((name) => /_(avx\w*)\.cpp\.o$/.test(name))
    : [];
  const hasNm = spawnSync('nm', ['--version']).status === 0;

  test('define no weak symbols', () => {
    if (objects.length === 0 || !hasNm) {
      process.stdout.write(
        `objects of instruction-set variants: not checked, ${hasNm ? 'there is no build folder' : 'nm is not installed'}\n`,
      );
      return;
    }
    const weak = objects.flatMap((name) =>
      execFileSync('nm', ['--demangle', '--defined-only', path.join(folder, name)], { encoding: 'utf8' })
        .split('\n')
        .filter((line) => /^[0-9a-f]+ [WVuvw] /.test(line))
        .map((line) => `${name}: ${line.slice(19)}`),
    );
    expect(weak).toEqual([]);
  });
});
