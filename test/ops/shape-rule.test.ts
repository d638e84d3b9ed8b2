/**
 * Shape rules. Every row's output types are what the row says; and every change to a row's inputs (one missing, another
 * dtype, another rank, one more along an axis) is either refused by the rule with ERR_SHAPE or ERR_DTYPE, or is a program
 * that the backend accepts: a rule may not be laxer than the kernels, or the error would come late and without a path.
 */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import { LatheError } from '../../src/errors';
import { printType } from '../../src/graph/print';
import type { OpDef } from '../../src/graph/op-def';
import type { Attributes, TensorType } from '../../src/graph/tensor';
import { apply, input, output, trace } from '../../src/graph/trace';
import { OPS } from '../../src/ops';
import { Session } from '../../src/runtime/session';
import { concrete, runsOf, type OpCase } from './case';
import { FAMILY_TABLES, TABLES } from './tables';

let session: Session;
beforeAll(() => {
  session = Session.create({ threads: 1 });
});
afterAll(() => session.close());

test('every op has a row with its output types', () => {
  const rows = Object.values(TABLES).flat();
  expect([...OPS.keys()].filter((op) => !rows.some((row) => row.op === op && row.out))).toEqual([]);
  const names = rows.map((row) => `${row.op}: ${row.name}`);
  expect(names.filter((name, i) => names.indexOf(name) !== i)).toEqual([]);
});

describe.each(FAMILY_TABLES)('%s', (_family, rows) => {
  const cases = rows.filter((row) => row.out).map((row): [string, OpCase] => [`${row.op}: ${row.name}`, row]);

  test.each(cases)('%s', (_name, row) => {
    for (const run of runsOf(row)) {
      const printed = concrete(row, run).outputs.map(printType);
      expect(printed).toEqual(row.out!.map((type) => type.replace('float', run)));
    }
  });

  test.each(cases)('%s, wrong inputs', (_name, row) => {
    const c = concrete(row, 'f32');
    for (const { what, types } of mutations(c.types)) {
      const problem = outcome(c.def, types, c.attributes);
      expect([what, problem]).toEqual([what, null]);
    }
  });
});

function* mutations(types: readonly TensorType[]): Generator<{ what: string; types: TensorType[] }> {
  const swap = (i: number, type: TensorType): TensorType[] => types.map((t, j) => (j === i ? type : t));
  if (types.length > 0) yield { what: 'the last input is missing', types: types.slice(0, -1) };
  yield { what: 'an input too many', types: [...types, { shape: [1], dtype: 'f32' }] };
  for (const [i, t] of types.entries()) {
    for (const dtype of ['f32', 'bf16', 'f16', 'i32', 'u8'] as const)
      if (dtype !== t.dtype) yield { what: `input ${i} is ${dtype}`, types: swap(i, { ...t, dtype }) };
    yield { what: `input ${i} has another rank`, types: swap(i, { ...t, shape: [...t.shape, 2] }) };
    yield { what: `input ${i} has another rank by an axis of 1`, types: swap(i, { ...t, shape: [1, ...t.shape] }) };
    for (let axis = 0; axis < t.shape.length; axis++)
      yield {
        what: `input ${i} is longer along ${axis}`,
        types: swap(i, { ...t, shape: t.shape.map((n, k) => (k === axis ? n + 1 : n)) }),
      };
  }
}

/** null when the rule refused with a proper error or the backend takes the program; otherwise what went wrong. */
function outcome(def: OpDef, types: readonly TensorType[], attributes: Attributes): string | null {
  try {
    def.infer(types, attributes);
  } catch (error) {
    const proper = error instanceof LatheError && (error.code === 'ERR_SHAPE' || error.code === 'ERR_DTYPE');
    return proper ? null : `refused by ${String(error)}`;
  }
  if (def.view) return null;
  try {
    const graph = trace('wrong', () =>
      apply(
        def,
        types.map((t, i) => input(`x${i}`, t.shape, t.dtype)),
        attributes,
      ).forEach((y, i) => output(`y${i}`, y)),
    );
    session.releaseProgram(session.loadProgram(compile(graph, { device: deviceSpec('cpu', 1) }).bytes));
    return null;
  } catch (error) {
    return `accepted by the rule: ${String(error)}`;
  }
}
