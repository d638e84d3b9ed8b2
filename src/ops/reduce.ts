/** Reductions. All have a fixed order that does not depend on the thread count (docs/numerics.md). */
import { apply } from '../graph/trace';
import type { OpDef } from '../graph/op-def';
import { elementCount, type Tensor, type TensorType } from '../graph/tensor';
import { expectCount, expectFloat, expectRank, expectType, ndArray, numberOf, streamCost } from './expect';
import { cast, expand } from './elementwise';
import { reshape } from './movement';

/** One f64 per block of 4096 elements. */
const blockSumBytes = (x: readonly TensorType[]): number =>
  x.reduce((n, t) => n + 8 * Math.ceil(elementCount(t.shape) / 4096), 0);

const SCALAR = { shape: [1], dtype: 'f32' } as const;

const sumDef: OpDef = {
  name: 'sum',
  infer(x) {
    expectCount('sum', x, 1);
    expectFloat('sum', 'a', x[0]);
    return [SCALAR];
  },
  vjp({ inputs: [x], cotangents: [dy] }) {
    return [cast(reshape(expand(dy!, elementCount(x.shape)), x.shape), x.dtype)];
  },
  reference: ([x]) => [ndArray([1], () => x.data.reduce((a, b) => a + b, 0))],
  cost: (x) => streamCost(x, [], 1),
  scratchBytes: (x) => blockSumBytes(x),
};

const sumRowsDef: OpDef = {
  name: 'sum_rows',
  infer(x, a) {
    expectCount('sum_rows', x, 1 + numberOf('sum_rows', a, 'addend'));
    expectRank('sum_rows', 'a', x[0], 2);
    expectFloat('sum_rows', 'a', x[0]);
    if (a.addend) expectType('sum_rows', 'addend', x[1], 'f32', [x[0].shape[1]]);
    return [{ shape: [x[0].shape[1]], dtype: 'f32' }];
  },
  reference([x, addend]) {
    const [rows, cols] = x.shape;
    const out = ndArray([cols], (j) => addend?.data[j] ?? 0);
    for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out.data[j] += x.data[i * cols + j];
    return [out];
  },
  cost: (x) => streamCost(x, [], 1),
  mayAlias: (a, n) => (a.addend ? [[0, n - 1]] : []),
};

const globalNormDef: OpDef = {
  name: 'global_norm',
  infer(x) {
    expectCount('global_norm', x, 1, Infinity);
    x.forEach((t, i) => expectFloat('global_norm', `input ${i}`, t));
    return [SCALAR];
  },
  reference: (x) => [ndArray([1], () => Math.sqrt(x.reduce((s, t) => s + t.data.reduce((a, b) => a + b * b, 0), 0)))],
  cost: (x) => streamCost(x, [], 2),
  scratchBytes: (x) => blockSumBytes(x),
};

export const reduceOps = { sum: sumDef, sum_rows: sumRowsDef, global_norm: globalNormDef };

/** Sum of all elements, f32 `[1]`. */
export const sum = (a: Tensor): Tensor => apply(sumDef, [a])[0];
/** Column sums of `[T, D]`, f32 `[D]`. */
export const sumRows = (a: Tensor): Tensor => apply(sumRowsDef, [a], { addend: 0 })[0];
/** Euclidean norm of all inputs together, f32 `[1]`. */
export const globalNorm = (tensors: readonly Tensor[]): Tensor => apply(globalNormDef, tensors)[0];
