/**
 * Rotary position embedding (arXiv 2104.09864) in the rotate_half layout: element j pairs with j + K/2.
 * The cos/sin table is made once per step from the positions and shared by all layers; the backward pass is the
 * same rotation by the negative angle.
 */
import { apply } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import type { Tensor, TensorType } from '../graph/tensor';
import {
  expectCount,
  expectFloat,
  expectIndices,
  expectLike,
  expectRank,
  expectType,
  listOf,
  ndArray,
  numberOf,
  shapeError,
  streamCost,
} from './expect';

const ropeTableDef: OpDef = {
  name: 'rope_table',
  infer(x, a) {
    expectCount('rope_table', x, 1);
    expectIndices('rope_table', 'positions', x[0]);
    numberOf('rope_table', a, 'attention_scaling');
    const type: TensorType = { shape: [x[0].shape[0], listOf('rope_table', a, 'inv_freq').length], dtype: 'f32' };
    return [type, type];
  },
  reference([positions], a) {
    const freq = a.inv_freq as number[];
    const angle = (i: number): number =>
      Math.fround(Math.fround(positions.data[Math.floor(i / freq.length)]) * Math.fround(freq[i % freq.length]));
    const shape = [positions.shape[0], freq.length];
    const s = a.attention_scaling as number;
    return [ndArray(shape, (i) => Math.cos(angle(i)) * s), ndArray(shape, (i) => Math.sin(angle(i)) * s)];
  },
  cost: (x, a) => ({
    flops: 20 * x[0].shape[0] * (a.inv_freq as number[]).length,
    bytes: 8 * x[0].shape[0] * (a.inv_freq as number[]).length,
  }),
};

const ropeDef: OpDef = {
  name: 'rope',
  infer(x, a) {
    expectCount('rope', x, 3);
    expectRank('rope', 'x', x[0], 2);
    expectFloat('rope', 'x', x[0]);
    const k = numberOf('rope', a, 'head_dim');
    if (x[0].shape[1] % k !== 0) throw shapeError('rope', `columns divisible by head_dim ${k}`, String(x[0].shape[1]));
    expectRank('rope', 'cos', x[1], 2);
    expectType('rope', 'cos', x[1], 'f32', [x[0].shape[0], x[1].shape[1]]);
    expectLike('rope', 'sin', x[2], x[1]);
    if (2 * x[1].shape[1] > k) throw shapeError('rope', `at most ${k / 2} frequencies`, String(x[1].shape[1]));
    return [x[0]];
  },
  vjp: ({ inputs: [, cos, sin], attributes: a, cotangents: [dy] }) => [
    apply(ropeDef, [dy!, cos, sin], { ...a, inverse: 1 - (a.inverse as number) })[0],
    null,
    null,
  ],
  reference: ([x, cos, sin], a) => [rotate(x, cos, sin, a.head_dim as number, a.inverse === 1)],
  cost: (x) => streamCost(x, [x[0]], 3),
  mayAlias: () => [[0, 0]],
  recompute: 'cheap',
};

function rotate(x: NdArray, cos: NdArray, sin: NdArray, headDim: number, inverse: boolean): NdArray {
  const half = cos.shape[1];
  const out = { shape: x.shape, data: Float64Array.from(x.data) };
  const cols = x.shape[1];
  for (let t = 0; t < x.shape[0]; t++) {
    for (let h = 0; h < cols; h += headDim) {
      for (let j = 0; j < half; j++) {
        const c = cos.data[t * half + j];
        const s = inverse ? -sin.data[t * half + j] : sin.data[t * half + j];
        const lo = t * cols + h + j;
        const hi = lo + half;
        out.data[lo] = x.data[lo] * c - x.data[hi] * s;
        out.data[hi] = x.data[hi] * c + x.data[lo] * s;
      }
    }
  }
  return out;
}

export const ropeOps = { rope_table: ropeTableDef, rope: ropeDef };

/** cos and sin, f32 `[T, K/2]` each, of positions i32 `[T]`. */
export function ropeTable(
  positions: Tensor,
  invFreq: readonly number[],
  attentionScaling = 1,
): { cos: Tensor; sin: Tensor } {
  const [cos, sin] = apply(ropeTableDef, [positions], { inv_freq: [...invFreq], attention_scaling: attentionScaling });
  return { cos, sin };
}

/** Rotates every head of x `[T, H*K]`. */
export const rope = (x: Tensor, table: { cos: Tensor; sin: Tensor }, headDim: number): Tensor =>
  apply(ropeDef, [x, table.cos, table.sin], { head_dim: headDim, inverse: 0 })[0];
