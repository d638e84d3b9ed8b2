/**
 * Variable-length attention over flat rows: the only attention there is, so packing cannot leak between documents.
 *
 * Flash attention (arXiv 2307.08691): O and the log-sum-exp are kept, the backward pass recomputes the scores.
 * GQA (arXiv 2305.13245): query head h reads key/value head floor(h * kv_heads / heads). Legend: T tokens, H query
 * heads, G key/value heads, K head_dim, S documents.
 */
import { apply } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import type { Attributes, Tensor, TensorType } from '../graph/tensor';
import type { DeviceSpec } from '../graph/device';
import {
  expectCount,
  expectFloat,
  expectIndices,
  expectLike,
  expectRank,
  expectShape,
  expectType,
  ndArray,
  numberOf,
  onlyFirst,
  shapeError,
} from './expect';

const MAX_FLOAT = 3.4028234663852886e38;

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  headDim: number;
  scale: number;
  causal: boolean;
  /** Keys visible to the left, itself included; 0 = all. */
  window?: number;
  /** cap * tanh(score / cap); 0 = none. */
  softcap?: number;
}

function attributesOf(o: AttentionShape): Attributes {
  return {
    heads: o.heads,
    kv_heads: o.kvHeads,
    head_dim: o.headDim,
    scale: o.scale,
    causal: o.causal ? 1 : 0,
    window: o.window ?? 0,
    softcap: o.softcap ?? 0,
  };
}

function checkHeads(op: string, q: TensorType, k: TensorType, v: TensorType, a: Attributes): void {
  const heads = numberOf(op, a, 'heads');
  const kvHeads = numberOf(op, a, 'kv_heads');
  const headDim = numberOf(op, a, 'head_dim');
  expectRank(op, 'q', q, 2);
  expectFloat(op, 'q', q);
  const t = q.shape[0];
  expectShape(op, 'q', q, [t, heads * headDim]);
  expectType(op, 'k', k, q.dtype, [t, kvHeads * headDim]);
  expectLike(op, 'v', v, k);
  if (heads % kvHeads !== 0) throw shapeError(op, `heads divisible by kv_heads`, `${heads} and ${kvHeads}`);
}

/** Scores that are computed. Lengths are data, so T rows in at most S documents are taken for S documents of the same length. */
function scorePairs(t: number, cuSeqlens: TensorType, a: Attributes): number {
  const documents = Math.max(1, cuSeqlens.shape[0] - 1);
  const length = t / documents;
  const window = a.window as number;
  const full = a.causal ? (length * (length + 1)) / 2 : length * length;
  return documents * (window > 0 ? Math.min(full, length * window) : full);
}

const attentionDef: OpDef = {
  name: 'attention',
  infer(x, a) {
    expectCount('attention', x, 4);
    checkHeads('attention', x[0], x[1], x[2], a);
    expectIndices('attention', 'cu_seqlens', x[3]);
    return [x[0], { shape: [a.heads as number, x[0].shape[0]], dtype: 'f32' }];
  },
  vjp({ inputs: [q, k, v, cu], outputs: [o, lse], attributes, cotangents }) {
    return [...apply(attentionGradDef, [onlyFirst('attention', cotangents), q, k, v, o, lse, cu], attributes), null];
  },
  reference: ([q, k, v, cu], a) => attentionReference(q, k, v, cu, a),
  cost(x, a) {
    const t = x[0].shape[0];
    return {
      flops: 4 * scorePairs(t, x[3], a) * (a.heads as number) * (a.head_dim as number),
      bytes: 2 * t * (x[0].shape[1] * 2 + x[1].shape[1] * 2),
    };
  },
  scratchBytes: (x, a, d) => (d.kind === 'cuda' ? 0 : attentionScratchBytes(x[0].shape[0], a, d)),
  recompute: 'keep',
};

const attentionGradDef: OpDef = {
  name: 'attention_grad',
  infer(x, a) {
    expectCount('attention_grad', x, 7);
    const [dO, q, k, v, o, lse, cu] = x;
    checkHeads('attention_grad', q, k, v, a);
    expectLike('attention_grad', 'do', dO, q);
    expectLike('attention_grad', 'o', o, q);
    expectType('attention_grad', 'lse', lse, 'f32', [a.heads as number, q.shape[0]]);
    expectIndices('attention_grad', 'cu_seqlens', cu);
    return [q, k, v];
  },
  reference: ([dO, q, k, v, , , cu], a) => attentionGradReference(dO, q, k, v, cu, a),
  cost(x, a) {
    const t = x[1].shape[0];
    return {
      flops: 10 * scorePairs(t, x[6], a) * (a.heads as number) * (a.head_dim as number),
      bytes: 2 * t * (x[1].shape[1] * 4 + x[2].shape[1] * 4),
    };
  },
  // CUDA: a float per row and head, in bf16 only (native/cuda/attention.cu).
  scratchBytes: (x, a, d) =>
    d.kind === 'cuda'
      ? x[1].dtype === 'bf16'
        ? 4 * (a.heads as number) * x[1].shape[0]
        : 0
      : attentionGradScratchBytes(x[1].shape[0], a, d),
};

const attentionDecodeDef: OpDef = {
  name: 'attention_decode',
  infer(x, a) {
    expectCount('attention_decode', x, 4);
    const [q, k, v, lengths] = x;
    const width = numberOf('attention_decode', a, 'kv_heads') * numberOf('attention_decode', a, 'head_dim');
    expectIndices('attention_decode', 'lengths', lengths);
    expectFloat('attention_decode', 'q', q);
    expectShape('attention_decode', 'q', q, [
      lengths.shape[0],
      numberOf('attention_decode', a, 'heads') * (a.head_dim as number),
    ]);
    expectRank('attention_decode', 'k_cache', k, 3);
    expectType('attention_decode', 'k_cache', k, q.dtype, [q.shape[0], k.shape[1], width]);
    expectLike('attention_decode', 'v_cache', v, k);
    return [q];
  },
  reference([q, k, v, lengths], a) {
    const out = ndArray(q.shape);
    const [heads, groups, dim] = [a.heads, a.kv_heads, a.head_dim] as number[];
    const s = k.shape[1];
    for (let b = 0; b < q.shape[0]; b++) {
      const n = lengths.data[b];
      const from = (a.window as number) > 0 ? Math.max(0, n - (a.window as number)) : 0;
      for (let h = 0; h < heads; h++) {
        const g = Math.floor((h * groups) / heads);
        const row = (j: number): number => (b * s + j) * groups * dim + g * dim;
        const scores: number[] = [];
        for (let j = from; j < n; j++) scores.push(score(q, (b * heads + h) * dim, k, row(j), dim, a));
        const p = softmax(scores);
        for (let j = from; j < n; j++)
          for (let d = 0; d < dim; d++) out.data[(b * heads + h) * dim + d] += p[j - from] * v.data[row(j) + d];
      }
    }
    return [out];
  },
  cost: (x, a) => ({
    flops: 4 * x[1].shape[0] * x[1].shape[1] * (a.heads as number) * (a.head_dim as number),
    bytes: 4 * x[1].shape[0] * x[1].shape[1] * x[1].shape[2],
  }),
  scratchBytes: (_x, a, d) => (d.kind === 'cuda' ? 0 : attentionDecodeScratchBytes(a, d)),
};

function score(q: NdArray, qi: number, k: NdArray, ki: number, dim: number, a: Attributes): number {
  let s = 0;
  for (let d = 0; d < dim; d++) s += q.data[qi + d] * k.data[ki + d];
  s *= a.scale as number;
  const cap = a.softcap as number;
  return cap > 0 ? cap * Math.tanh(s / cap) : s;
}

function softmax(scores: readonly number[]): number[] {
  const max = scores.reduce((m, s) => Math.max(m, s), -Infinity);
  const e = scores.map((s) => Math.exp(s - max));
  const total = e.reduce((x, y) => x + y, 0);
  return e.map((v) => v / total);
}

/** Calls `visit(row, firstKey, lastKey + 1)` for every real query row. */
function eachQuery(cu: NdArray, a: Attributes, visit: (i: number, from: number, to: number) => void): void {
  for (let s = 0; s + 1 < cu.data.length; s++) {
    const [begin, end] = [cu.data[s], cu.data[s + 1]];
    const window = a.window as number;
    for (let i = begin; i < end; i++) {
      visit(
        i,
        window > 0 ? Math.max(begin, i - window + 1) : begin,
        a.causal ? i + 1 : window > 0 ? Math.min(end, i + window) : end,
      );
    }
  }
}

function attentionReference(q: NdArray, k: NdArray, v: NdArray, cu: NdArray, a: Attributes): NdArray[] {
  const [heads, groups, dim] = [a.heads, a.kv_heads, a.head_dim] as number[];
  const t = q.shape[0];
  const o = ndArray(q.shape);
  // Rows of no document: the largest float, so that e^(score - lse) is 0 and a check for finite values passes.
  const lse = ndArray([heads, t], () => MAX_FLOAT);
  eachQuery(cu, a, (i, from, to) => {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor((h * groups) / heads);
      const scores: number[] = [];
      for (let j = from; j < to; j++) scores.push(score(q, (i * heads + h) * dim, k, (j * groups + g) * dim, dim, a));
      const max = Math.max(...scores);
      lse.data[h * t + i] = max + Math.log(scores.reduce((s, x) => s + Math.exp(x - max), 0));
      const p = softmax(scores);
      for (let j = from; j < to; j++)
        for (let d = 0; d < dim; d++)
          o.data[(i * heads + h) * dim + d] += p[j - from] * v.data[(j * groups + g) * dim + d];
    }
  });
  return [o, lse];
}

function attentionGradReference(
  dO: NdArray,
  q: NdArray,
  k: NdArray,
  v: NdArray,
  cu: NdArray,
  a: Attributes,
): NdArray[] {
  const [heads, groups, dim] = [a.heads, a.kv_heads, a.head_dim] as number[];
  const [dq, dk, dv] = [ndArray(q.shape), ndArray(k.shape), ndArray(v.shape)];
  const cap = a.softcap as number;
  eachQuery(cu, a, (i, from, to) => {
    for (let h = 0; h < heads; h++) {
      const g = Math.floor((h * groups) / heads);
      const qi = (i * heads + h) * dim;
      const key = (j: number): number => (j * groups + g) * dim;
      const scores: number[] = [];
      for (let j = from; j < to; j++) scores.push(score(q, qi, k, key(j), dim, a));
      const p = softmax(scores);
      const dp: number[] = [];
      let dot = 0;
      for (let j = from; j < to; j++) {
        let s = 0;
        for (let d = 0; d < dim; d++) {
          s += dO.data[qi + d] * v.data[key(j) + d];
          dv.data[key(j) + d] += p[j - from] * dO.data[qi + d];
        }
        dp.push(s);
        dot += s * p[j - from];
      }
      for (let j = from; j < to; j++) {
        let ds = p[j - from] * (dp[j - from] - dot) * (a.scale as number);
        if (cap > 0) ds *= 1 - (scores[j - from] / cap) ** 2;
        for (let d = 0; d < dim; d++) {
          dq.data[qi + d] += ds * k.data[key(j) + d];
          dk.data[key(j) + d] += ds * q.data[qi + d];
        }
      }
    }
  });
  return [dq, dk, dv];
}

const up = (x: number, y: number): number => y * Math.ceil(x / y);

interface Sizes {
  heads: number;
  kvHeads: number;
  group: number;
  dp: number;
  plan: number;
}

function sizes(tokens: number, a: Attributes): Sizes {
  const { heads, kv_heads, head_dim } = a as Record<string, number>;
  return { heads, kvHeads: kv_heads, group: heads / kv_heads, dp: up(head_dim, 16), plan: up(12 * tokens + 8, 64) };
}

// The three formulas restate native/cpu/attention.cpp.

function attentionScratchBytes(tokens: number, a: Attributes, d: DeviceSpec): number {
  const { group, dp, plan } = sizes(tokens, a);
  const u = Math.max(2, Math.min(group, Math.max(1, Math.floor(1024 / dp))));
  return plan + d.threads * up(4 * (288 * dp + 6144 + u * (128 * dp + 320)), 64);
}

function attentionGradScratchBytes(tokens: number, a: Attributes, d: DeviceSpec): number {
  const { heads, kvHeads, group, dp, plan } = sizes(tokens, a);
  const split = d.threads > 1 && group > 1 && kvHeads < 4 * d.threads;
  const worker = 3 * up(tokens, 96) * dp + 416 * dp + 19456 + (split ? 0 : tokens * dp * (group > 1 ? 4 : 2));
  return plan + d.threads * up(4 * worker, 64) + up(4 * (split ? 2 * heads * tokens * dp : 0), 64);
}

function attentionDecodeScratchBytes(a: Attributes, d: DeviceSpec): number {
  const { group, dp } = sizes(0, a);
  return d.threads * up(4 * group * (2 * dp + 68), 64);
}

export const attentionOps = {
  attention: attentionDef,
  attention_grad: attentionGradDef,
  attention_decode: attentionDecodeDef,
};

/** softmax(q k^T * scale) v within each document; q `[T, H*K]`, k and v `[T, G*K]`, cu_seqlens i32 `[S+1]`. */
export const attention = (q: Tensor, k: Tensor, v: Tensor, cuSeqlens: Tensor, o: AttentionShape): Tensor =>
  apply(attentionDef, [q, k, v, cuSeqlens], attributesOf(o))[0];

/** One query per sequence against its cache: q `[B, H*K]`, caches `[B, S, G*K]`, lengths i32 `[B]`. */
export function attentionDecode(q: Tensor, kCache: Tensor, vCache: Tensor, lengths: Tensor, o: AttentionShape): Tensor {
  const { causal: _causal, ...attributes } = attributesOf(o) as Record<string, number>;
  return apply(attentionDecodeDef, [q, kCache, vCache, lengths], attributes)[0];
}
