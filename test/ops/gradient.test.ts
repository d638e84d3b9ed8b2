/**
 * Gradient check: the graph that an op's vjp builds, evaluated in f64 by the reference interpreter, against central
 * differences of the op's reference. The loss is a fixed random combination of the outputs.
 */
import { gradients } from '../../src/autodiff/grad';
import type { NdArray } from '../../src/graph/op-def';
import { elementCount, type Tensor } from '../../src/graph/tensor';
import { apply, input, output, trace, type Graph } from '../../src/graph/trace';
import { add, cast, mul } from '../../src/ops/elementwise';
import { OPS } from '../../src/ops';
import { sum } from '../../src/ops/reduce';
import { concrete, drawFor, drawInputs, type OpCase } from './case';
import { evaluate } from './interpreter';
import { FAMILY_TABLES, TABLES } from './tables';

/** Elements of an input that are perturbed; more add time, not trust. */
const SAMPLES = 24;
const STEP = 1e-5;
// Central differences of f64 values of order 1: h^2 plus 1e-16 / h.
const TOLERANCE = 2e-7;

test('every differentiable op has a row that checks it', () => {
  const checked = new Set(
    Object.values(TABLES).flatMap((rows) => rows.filter((row) => row.grad?.length).map((row) => row.op)),
  );
  // dequantize_4bit and the ops of ints have none.
  expect([...OPS.values()].filter((def) => def.vjp && !checked.has(def.name)).map((def) => def.name)).toEqual([]);
});

/** loss, and its gradients by wanted input, of one row. */
function lossGraph(row: OpCase, differentiate: boolean): Graph {
  const c = concrete(row, 'f32');
  return trace(row.op, () => {
    const x = c.types.map((t, i) => input(`x${i}`, t.shape, t.dtype));
    const y = apply(c.def, x, c.attributes);
    const parts = (row.through ?? [0]).map((i): Tensor =>
      sum(mul(cast(y[i], 'f32'), input(`c${i}`, y[i].shape, 'f32'))),
    );
    const loss = parts.reduce((a, b) => add(a, b));
    output('loss', loss);
    if (!differentiate) return;
    const wanted = row.grad!.map((i) => x[i]);
    gradients(loss, wanted).forEach((g, i) => {
      expect(g.type).toEqual({ shape: wanted[i].shape, dtype: wanted[i].dtype });
      output(`d${row.grad![i]}`, g);
    });
  });
}

function leavesOf(row: OpCase): Map<string, NdArray> {
  const c = concrete(row, 'f32');
  const draw = drawFor(`${row.op}/${row.name}/cotangent`);
  const leaves = new Map(drawInputs(row, c).map((x, i): [string, NdArray] => [`x${i}`, x]));
  for (const i of row.through ?? [0])
    leaves.set(`c${i}`, {
      shape: c.outputs[i].shape,
      data: Float64Array.from({ length: elementCount(c.outputs[i].shape) }, () => 2 * draw() - 1),
    });
  return leaves;
}

/** Indices to perturb, spread over the whole input. */
function samplesOf(n: number): number[] {
  const count = Math.min(n, SAMPLES);
  return Array.from({ length: count }, (_, i) => Math.floor(((i + 0.5) * n) / count));
}

describe.each(FAMILY_TABLES)('%s', (_family, rows) => {
  const cases = rows.filter((row) => row.grad?.length).map((row): [string, OpCase] => [`${row.op}: ${row.name}`, row]);
  if (cases.length === 0) {
    test('has nothing differentiable', () => expect(rows.filter((row) => row.grad?.length)).toEqual([]));
    return;
  }
  test.each(cases)('%s', (_name, row) => {
    const leaves = leavesOf(row);
    const analytic = evaluate(lossGraph(row, true), leaves);
    const forward = lossGraph(row, false);
    const lossAt = (): number => evaluate(forward, leaves).outputs.get('loss')!.data[0];
    for (const i of row.grad!) {
      const x = leaves.get(`x${i}`)!.data;
      const gradient = analytic.outputs.get(`d${i}`)!.data;
      const size = gradient.reduce((m, g) => Math.max(m, Math.abs(g)), 1e-3);
      for (const j of samplesOf(x.length)) {
        const at = x[j];
        const h = STEP * Math.max(1, Math.abs(at));
        x[j] = at + h;
        const high = lossAt();
        x[j] = at - h;
        const low = lossAt();
        x[j] = at;
        const numeric = (high - low) / (2 * h);
        if (!(Math.abs(gradient[j] - numeric) <= TOLERANCE * Math.max(1, size))) {
          throw new Error(`d/d input ${i}[${j}]: ${gradient[j]} by the vjp, ${numeric} by differences`);
        }
      }
    }
  });
});
