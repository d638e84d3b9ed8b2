/**
 * The same tables under other conditions: 1, 2 and 3 threads give the same bits, and every instruction-set variant that
 * this CPU has passes the tolerances (in child processes, because the variant is chosen once).
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { deserialize, serialize } from 'node:v8';
import type { NdArray } from '../../src/graph/op-def';
import { loadNative } from '../../src/runtime/binding';
import { Session } from '../../src/runtime/session';
import {
  concrete,
  drawInputs,
  referenceOf,
  runsOf,
  toNumbers,
  type Concrete,
  type FloatRun,
  type OpCase,
} from './case';
import { baseVariant, runnable, runOn, sameBits, type Results } from './program';
import { FAMILY_TABLES } from './tables';
import { compare } from './tolerance';

interface Item {
  readonly name: string;
  readonly row: OpCase;
  readonly run: FloatRun;
  readonly c: Concrete;
  readonly x: readonly NdArray[];
}

const items = FAMILY_TABLES.flatMap(([, rows]) => rows)
  .filter((row) => row.op !== 'reshape')
  .flatMap((row) =>
    runsOf(row).map((run): Item => {
      const c = concrete(row, run);
      return { name: `${row.op}: ${row.name} (${run})`, row, run, c, x: drawInputs(row, c) };
    }),
  );

async function runAll(threads: number): Promise<Results[]> {
  const session = Session.create({ threads });
  const all: Results[] = [];
  for (const { c, x } of items) all.push(await runOn(session, runnable(c, x, baseVariant(c), threads)));
  await session.close();
  return all;
}

test('1, 2 and 3 threads give the same bits', async () => {
  const [one, two, three] = [await runAll(1), await runAll(2), await runAll(3)];
  const different = items.flatMap(({ name }, i) =>
    [two, three].flatMap((other, k) =>
      Object.keys(one[i])
        .filter((key) => !sameBits(one[i][key], other[i][key]))
        .map((key) => `${name}: ${key} with ${k + 2} threads`),
    ),
  );
  expect(different).toEqual([]);
});

describe('instruction sets', () => {
  /** Widest first; what the CPU needs for each, by the names of the addon's isa(). */
  const VARIANTS: readonly (readonly [isa: string, needs: readonly string[]])[] = [
    ['avx512bf16', ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq', 'avx512bf16']],
    ['avx512', ['avx512f', 'avx512bw', 'avx512vl', 'avx512dq']],
    ['avx2', ['avx2', 'fma', 'f16c']],
    ['portable', []],
  ];
  const folder = mkdtempSync(path.join(tmpdir(), 'lathe-isa-'));
  const bundle = path.join(folder, 'bundle');
  const features = new Set(
    loadNative()
      .isa()
      .features.map((f) => f.replaceAll('_', '')),
  );
  const references = new Map<Item, NdArray[]>();

  beforeAll(() => {
    writeFileSync(
      bundle,
      serialize({ threads: 2, programs: items.map(({ c, x }) => runnable(c, x, baseVariant(c), 2)) }),
    );
    for (const item of items) references.set(item, referenceOf(item.row, item.c, item.x));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each(VARIANTS)('%s', (isa, needs) => {
    const missing = needs.filter((name) => !features.has(name));
    if (missing.length) {
      process.stdout.write(`instruction set ${isa}: not run, this CPU lacks ${missing.join(', ')}\n`);
      return;
    }
    const results = path.join(folder, isa);
    const child = spawnSync(process.execPath, [path.join(__dirname, 'run-bundle.js'), addonPath(), bundle, results], {
      env: { ...process.env, LATHE_ISA: isa },
      encoding: 'utf8',
    });
    expect([child.status, child.signal, child.stderr]).toEqual([0, null, '']);
    const all = deserialize(readFileSync(results)) as Results[];
    const problems = items.flatMap((item, i) => problemsOf(item, all[i]));
    process.stdout.write(`instruction set ${isa}: ${items.length} rows\n`);
    expect(problems).toEqual([]);
  });

  function problemsOf(item: Item, results: Results): string[] {
    return item.c.outputs.flatMap((type, i) => {
      const bound = (item.run === 'bf16' && item.row.tolerance.inBf16?.[i]) || item.row.tolerance.bounds[type.dtype]!;
      const { ratio, worst } = compare(toNumbers(type.dtype, results[`y${i}`]), references.get(item)![i].data, bound);
      return ratio > 1
        ? [
            `${item.name}: output ${i}[${worst!.index}] is ${worst!.got}, expected ${worst!.want} within ${worst!.allowed}`,
          ]
        : [];
    });
  }
});

/** The addon of this checkout, or the one that LATHE_ADDON_PATH names for this process too. */
function addonPath(): string {
  return path.resolve(
    process.env.LATHE_ADDON_PATH ?? path.join(__dirname, '..', '..', 'build', 'Release', 'lathe.node'),
  );
}
