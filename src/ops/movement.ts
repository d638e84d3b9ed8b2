/** Ops that move values without computing on them. */
import { apply } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import { elementCount, type Tensor } from '../graph/tensor';
import {
  expectCount,
  expectFloat,
  expectIndices,
  expectRank,
  expectType,
  listOf,
  ndArray,
  numberOf,
  shapeError,
  streamCost,
} from './expect';
import { fill } from './elementwise';

const reshapeDef: OpDef = {
  name: 'reshape',
  infer(x, a) {
    expectCount('reshape', x, 1);
    const shape = a.shape as number[];
    if (elementCount(shape) !== elementCount(x[0].shape))
      throw shapeError('reshape', `${elementCount(x[0].shape)} elements`, `[${shape.join(', ')}]`);
    return [{ shape, dtype: x[0].dtype }];
  },
  vjp: ({ inputs: [x], cotangents: [dy] }) => [reshape(dy!, x.shape)],
  reference: ([x], a) => [{ shape: a.shape as number[], data: x.data }],
  cost: () => ({ flops: 0, bytes: 0 }),
  view: true,
  typeAttributes: ['shape'],
  recompute: 'cheap',
};

const transposeDef: OpDef = {
  name: 'transpose',
  infer(x) {
    expectCount('transpose', x, 1);
    expectRank('transpose', 'a', x[0], 2);
    return [{ shape: [x[0].shape[1], x[0].shape[0]], dtype: x[0].dtype }];
  },
  vjp: ({ cotangents: [dy] }) => [transpose(dy!)],
  reference([x]) {
    const [m, n] = x.shape;
    return [ndArray([n, m], (i) => x.data[(i % m) * n + Math.floor(i / m)])];
  },
  cost: (x) => streamCost(x, [x[0]], 0),
};

const gatherRowsDef: OpDef = {
  name: 'gather_rows',
  infer(x) {
    expectCount('gather_rows', x, 2);
    expectRank('gather_rows', 'a', x[0], 2);
    expectIndices('gather_rows', 'rows', x[1]);
    return [{ shape: [x[1].shape[0], x[0].shape[1]], dtype: x[0].dtype }];
  },
  vjp: ({ inputs: [a, rows], cotangents: [dy] }) => [
    apply(scatterRowsDef, [dy!, rows], { rows_out: a.shape[0] })[0],
    null,
  ],
  reference([a, rows]) {
    const cols = a.shape[1];
    return [
      ndArray([rows.shape[0], cols], (i) => {
        const r = rows.data[Math.floor(i / cols)];
        return r < 0 || r >= a.shape[0] ? 0 : a.data[r * cols + (i % cols)];
      }),
    ];
  },
  cost: (x) => ({ flops: 0, bytes: 4 * elementCount([x[1].shape[0], x[0].shape[1]]) }),
};

const scatterRowsDef: OpDef = {
  name: 'scatter_rows',
  infer(x, a) {
    expectCount('scatter_rows', x, 2);
    expectRank('scatter_rows', 'dy', x[0], 2);
    expectFloat('scatter_rows', 'dy', x[0]);
    expectType('scatter_rows', 'rows', x[1], 'i32', [x[0].shape[0]]);
    return [{ shape: [numberOf('scatter_rows', a, 'rows_out'), x[0].shape[1]], dtype: x[0].dtype }];
  },
  vjp: ({ inputs: [, rows], cotangents: [dy] }) => [gatherRows(dy!, rows), null],
  reference([dy, rows], a) {
    const cols = dy.shape[1];
    const out = ndArray([a.rows_out as number, cols]);
    rows.data.forEach((r, i) => {
      if (r >= 0 && r < out.shape[0]) for (let j = 0; j < cols; j++) out.data[r * cols + j] += dy.data[i * cols + j];
    });
    return [out];
  },
  cost: (x, a) => ({ flops: elementCount(x[0].shape), bytes: 4 * (a.rows_out as number) * x[0].shape[1] }),
  scratchBytes: (x, a, d) => (d.kind === 'cuda' ? 0 : 4 * (x[0].shape[0] + (a.rows_out as number))),
};

const splitColsDef: OpDef = {
  name: 'split_cols',
  infer(x, a) {
    expectCount('split_cols', x, 1);
    expectRank('split_cols', 'a', x[0], 2);
    const sizes = listOf('split_cols', a, 'sizes');
    const total = sizes.reduce((s, n) => s + n, 0);
    if (total !== x[0].shape[1])
      throw shapeError('split_cols', `sizes that add up to ${x[0].shape[1]}`, `[${sizes.join(', ')}]`);
    return sizes.map((n) => ({ shape: [x[0].shape[0], n], dtype: x[0].dtype }));
  },
  vjp: ({ outputs, cotangents }) => [concatCols(outputs.map((t, i) => cotangents[i] ?? fill(t.type, 0)))],
  reference([x], a) {
    let start = 0;
    return (a.sizes as number[]).map((width) => {
      const from = start;
      start += width;
      return ndArray([x.shape[0], width], (i) => x.data[Math.floor(i / width) * x.shape[1] + from + (i % width)]);
    });
  },
  cost: (x) => streamCost(x, [x[0]], 0),
  recompute: 'cheap',
};

const concatColsDef: OpDef = {
  name: 'concat_cols',
  infer(x) {
    expectCount('concat_cols', x, 1, Infinity);
    let width = 0;
    for (const t of x) {
      expectRank('concat_cols', 'input', t, 2);
      if (t.shape[0] !== x[0].shape[0] || t.dtype !== x[0].dtype)
        throw shapeError('concat_cols', `rows and dtype of input 0`, `${t.dtype}[${t.shape.join(', ')}]`);
      width += t.shape[1];
    }
    return [{ shape: [x[0].shape[0], width], dtype: x[0].dtype }];
  },
  vjp({ inputs, cotangents: [dy] }) {
    return [
      ...splitCols(
        dy!,
        inputs.map((t) => t.shape[1]),
      ),
    ];
  },
  reference(x) {
    const widths = x.map((t) => t.shape[1]);
    const total = widths.reduce((a, b) => a + b, 0);
    const out = ndArray([x[0].shape[0], total]);
    let start = 0;
    for (const t of x) {
      for (let i = 0; i < t.shape[0]; i++)
        out.data.set(t.data.subarray(i * t.shape[1], (i + 1) * t.shape[1]), i * total + start);
      start += t.shape[1];
    }
    return [out];
  },
  cost: (x) => streamCost(x, [], 0),
};

const cacheWriteDef: OpDef = {
  name: 'cache_write',
  infer(x) {
    expectCount('cache_write', x, 3);
    expectRank('cache_write', 'cache', x[0], 2);
    expectIndices('cache_write', 'rows', x[2]);
    expectType('cache_write', 'x', x[1], x[0].dtype, [x[2].shape[0], x[0].shape[1]]);
    return [x[0]];
  },
  reference([cache, x, rows]) {
    const out: NdArray = { shape: cache.shape, data: Float64Array.from(cache.data) };
    const cols = cache.shape[1];
    rows.data.forEach((r, i) => {
      if (r >= 0 && r < cache.shape[0]) out.data.set(x.data.subarray(i * cols, (i + 1) * cols), r * cols);
    });
    return [out];
  },
  cost: (x) => streamCost([x[1], x[1]], [], 0),
  mayAlias: () => [[0, 0]],
};

export const movementOps = {
  reshape: reshapeDef,
  transpose: transposeDef,
  gather_rows: gatherRowsDef,
  scatter_rows: scatterRowsDef,
  split_cols: splitColsDef,
  concat_cols: concatColsDef,
  cache_write: cacheWriteDef,
};

/** The same bytes under another shape. */
export const reshape = (a: Tensor, shape: readonly number[]): Tensor =>
  apply(reshapeDef, [a], { shape: [...shape] })[0];
export const transpose = (a: Tensor): Tensor => apply(transposeDef, [a])[0];
/** Rows of `[R, D]` by index i32 `[n]`; -1 (or anything outside of [0, R)) gives zeros. */
export const gatherRows = (a: Tensor, rows: Tensor): Tensor => apply(gatherRowsDef, [a, rows])[0];
/** Cuts `[T, D]` into column groups of the given sizes. */
export const splitCols = (a: Tensor, sizes: readonly number[]): readonly Tensor[] =>
  apply(splitColsDef, [a], { sizes: [...sizes] });
export const concatCols = (parts: readonly Tensor[]): Tensor =>
  parts.length === 1 ? parts[0] : apply(concatColsDef, parts)[0];
/** Writes rows of x into a cache `[R, D]`; row -1 is skipped. */
export const cacheWrite = (cache: Tensor, x: Tensor, rows: Tensor): Tensor => apply(cacheWriteDef, [cache, x, rows])[0];
