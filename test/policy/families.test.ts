/** The same names on every side: op families, kernels, element types, and the table in the architecture page. */
import { DTYPES } from '../../src/graph/dtype';
import { FAMILIES, OPS } from '../../src/ops';
import { loadNative } from '../../src/runtime/binding';
import { TABLES } from '../ops/tables';
import { projectFiles, readText, withoutComments } from './source-files';

const files = projectFiles();
const families = Object.keys(FAMILIES);
const stems = (pattern: RegExp): string[] => files.flatMap((file) => pattern.exec(file)?.[1] ?? []).sort();

/** Files of src/ops and native/cpu that are no families, with their reason. */
const HELPERS = {
  ops: ['cuda-scratch', 'expect', 'index', 'quant-tables'],
  cpu: ['backend', 'ggml_blocks', 'pool'],
  cuda: ['backend', 'gemm'],
};

const registered = (file: string, backend: string): string[] =>
  [...withoutComments(readText(file)).matchAll(new RegExp(`^LATHE_${backend}_KERNEL\\((\\w+)`, 'gm'))].map((m) => m[1]);

test('a family has the same name in src/ops, native/cpu and test/ops', () => {
  const sorted = [...families].sort();
  expect(stems(/^src\/ops\/([\w-]+)\.ts$/).filter((s) => !HELPERS.ops.includes(s))).toEqual(sorted);
  expect(stems(/^native\/cpu\/(\w+)\.cpp$/).filter((s) => !HELPERS.cpu.includes(s))).toEqual(sorted);
  expect(stems(/^test\/ops\/([\w-]+)\.cases\.ts$/)).toEqual(sorted);
  expect(Object.keys(TABLES).sort()).toEqual(sorted);
});

test('an op is defined under its own name, in one family', () => {
  for (const [family, ops] of Object.entries(FAMILIES))
    for (const [name, def] of Object.entries(ops)) expect([family, name]).toEqual([family, def.name]);
  expect(OPS.size).toBe(Object.values(FAMILIES).reduce((n, ops) => n + Object.keys(ops).length, 0));
});

test.each(families)('%s: every op has a kernel in the mirrored file, and the other way round', (family) => {
  const ops = Object.values(FAMILIES[family])
    .filter((def) => !def.view)
    .map((def) => def.name);
  expect(registered(`native/cpu/${family}.cpp`, 'CPU').sort()).toEqual(ops.sort());
});

test('the addon that runs has exactly these kernels', () => {
  const ops = [...OPS.values()].filter((def) => !def.view).map((def) => def.name);
  expect([...loadNative().kernels()].sort()).toEqual(ops.sort());
});

test('kernels are registered in family files only, CUDA ones in the mirrored file', () => {
  for (const [backend, extension] of [
    ['cpu', 'cpp'],
    ['cuda', 'cu'],
  ] as const) {
    for (const file of files.filter(
      (f) => f.startsWith(`native/${backend}/`) && !f.startsWith('native/cuda-on-host'),
    )) {
      const names = registered(file, backend.toUpperCase());
      if (names.length === 0) continue;
      const family = new RegExp(`^native/${backend}/(\\w+)\\.${extension}$`).exec(file)?.[1] ?? '';
      expect([file, names.filter((name) => !(name in (FAMILIES[family] ?? {})))]).toEqual([file, []]);
    }
  }
});

test('element types have the same codes and sizes in TypeScript and C++', () => {
  const text = withoutComments(readText('native/include/lathe/types.h'));
  const list = /enum class DType[^{]*\{([^}]*)\}/.exec(text)![1];
  const codes = Object.fromEntries(
    list
      .split(',')
      .map((item) => item.split('=').map((s) => s.trim()))
      .map(([name, code]) => [name.toLowerCase(), Number(code)]),
  );
  expect(codes).toEqual(Object.fromEntries(Object.entries(DTYPES).map(([name, { code }]) => [name, code])));
  expect(text).toContain(`kDTypeCount = ${Object.keys(DTYPES).length}`);
  // dtype_bytes: four bytes for f32 and i32, one for u8, two for the rest.
  expect(text).toMatch(/d == DType::F32 \|\| d == DType::I32 \? 4 : d == DType::U8 \? 1 : 2/);
  expect(Object.entries(DTYPES).map(([name, { bytes }]) => [name, bytes])).toEqual([
    ['f32', 4],
    ['bf16', 2],
    ['f16', 2],
    ['i32', 4],
    ['u8', 1],
  ]);
});

test('the architecture page lists every op', () => {
  const page = readText('docs/architecture.md');
  expect([...OPS.keys()].filter((name) => !page.includes(`\`${name}(`))).toEqual([]);
});
