/** Rows of attention: documents, padding, grouped heads, windows, caps and tile borders (64 queries, 96 keys). */
import type { NdArray } from '../../src/graph/op-def';
import type { Attributes } from '../../src/graph/tensor';
import { attentionOps } from '../../src/ops/attention';
import { derived, f32, fixed, float, i32, normal, offsets, type OpCase } from './case';
import { tolerance, U_BF16, U_F32 } from './tolerance';

// In bf16 the probabilities are rounded before they meet V; lse is taken before that.
const forward = tolerance('online softmax in fp32', { rel: 16 * U_F32, ofMax: 32 * U_F32 });
const forwardBf16 = {
  ...forward,
  bounds: { ...forward.bounds, bf16: { rel: U_BF16, ofMax: U_BF16 } },
  why: 'online softmax in fp32; in bf16 the probabilities are rounded once more',
};
// dS = P (dO V - sum(dO O)) cancels where the softmax is sharp, and O has been rounded to the storage type: an error of half
// an ulp of dO O (a sum of K terms) in every dS, which then meets keys or queries, whatever the size of the result. P and dS
// are rounded too.
const backward = (std: number): OpCase['tolerance'] => ({
  ...forward,
  bounds: {
    ...forward.bounds,
    f32: { rel: 32 * U_F32, abs: 16 * std * std * U_F32, ofMax: 128 * U_F32 },
    bf16: { rel: U_BF16, abs: 1.5 * std * std * U_BF16, ofMax: 2 * U_BF16 },
  },
  why: 'scores recomputed, sums over rows with cancellation; O is rounded to the storage type, in bf16 P and dS as well',
});

interface Setting {
  t: number;
  heads: number;
  kvHeads: number;
  dim: number;
  cu: readonly number[];
  causal?: 0 | 1;
  window?: number;
  softcap?: number;
  std?: number;
}

const savedForward = (x: readonly NdArray[], a: Attributes): void => {
  const [o, lse] = attentionOps.attention.reference!([x[1], x[2], x[3], x[6]], a, []);
  x[4].data.set(o.data);
  x[5].data.set(lse.data);
};

function rows(name: string, s: Setting, grad?: readonly number[]): OpCase[] {
  const { t, heads, kvHeads, dim, std = 1 } = s;
  const attributes = {
    heads,
    kv_heads: kvHeads,
    head_dim: dim,
    scale: 1 / Math.sqrt(dim),
    causal: s.causal ?? 1,
    window: s.window ?? 0,
    softcap: s.softcap ?? 0,
  };
  const q = float([t, heads * dim], normal(std));
  const kv = float([t, kvHeads * dim], normal(std));
  const cu = i32([s.cu.length], fixed(...s.cu));
  return [
    {
      op: 'attention',
      name,
      inputs: [q, kv, kv, cu],
      attributes,
      out: [`float[${t},${heads * dim}]`, `f32[${heads},${t}]`],
      tolerance: forwardBf16,
      grad,
    },
    {
      op: 'attention_grad',
      name,
      inputs: [float([t, heads * dim]), q, kv, kv, float([t, heads * dim], derived), f32([heads, t], derived), cu],
      attributes,
      prepare: savedForward,
      out: [`float[${t},${heads * dim}]`, `float[${t},${kvHeads * dim}]`, `float[${t},${kvHeads * dim}]`],
      tolerance: backward(std),
    },
  ];
}

function decode(
  name: string,
  batch: number,
  cache: number,
  s: Omit<Setting, 't' | 'cu'>,
  lengths: readonly number[],
): OpCase {
  const { heads, kvHeads, dim } = s;
  const kv = float([batch, cache, kvHeads * dim]);
  return {
    op: 'attention_decode',
    name,
    inputs: [float([batch, heads * dim]), kv, kv, i32([batch], fixed(...lengths))],
    attributes: {
      heads,
      kv_heads: kvHeads,
      head_dim: dim,
      scale: 1 / Math.sqrt(dim),
      window: s.window ?? 0,
      softcap: s.softcap ?? 0,
    },
    out: [`float[${batch},${heads * dim}]`],
    tolerance: forwardBf16,
  };
}

const lengths = (...n: number[]): number[] => Array.from(offsets(...n)(Math.random, []));
const documents = lengths(5, 1, 7);

export const cases: readonly OpCase[] = [
  ...rows('documents and padding', { t: 16, heads: 2, kvHeads: 2, dim: 8, cu: documents }, [0, 1, 2]),
  ...rows('grouped heads', { t: 13, heads: 6, kvHeads: 2, dim: 4, cu: [...documents, 13, 13] }, [0, 1, 2]),
  ...rows('one key head', { t: 13, heads: 3, kvHeads: 1, dim: 20, cu: documents }),
  ...rows('T = 1', { t: 1, heads: 2, kvHeads: 1, dim: 16, cu: [0, 1] }),
  ...rows('all padding', { t: 4, heads: 2, kvHeads: 2, dim: 8, cu: [0, 0, 0] }),
  ...rows('a gap before the first document and an empty one', {
    t: 12,
    heads: 2,
    kvHeads: 1,
    dim: 8,
    cu: [2, 6, 6, 11],
  }),
  ...rows('not causal', { t: 12, heads: 2, kvHeads: 1, dim: 8, cu: documents.slice(0, 3), causal: 0 }, [0, 1, 2]),
  ...rows('window', { t: 14, heads: 2, kvHeads: 2, dim: 8, cu: [0, 14], window: 4 }, [0, 1, 2]),
  ...rows(
    'window, not causal',
    { t: 14, heads: 2, kvHeads: 2, dim: 8, cu: [0, 3, 14], window: 4, causal: 0 },
    [0, 1, 2],
  ),
  ...rows('softcap', { t: 10, heads: 2, kvHeads: 2, dim: 8, cu: [0, 10], softcap: 2 }, [0, 1, 2]),
  ...rows('large scores', { t: 20, heads: 1, kvHeads: 1, dim: 16, cu: [0, 20], std: 5 }),
  ...rows('over tile borders', { t: 171, heads: 2, kvHeads: 2, dim: 24, cu: lengths(131, 1, 35) }),
  ...rows('over tile borders, grouped', { t: 170, heads: 4, kvHeads: 2, dim: 16, cu: lengths(97, 68) }),
  ...rows('over tile borders, not causal', { t: 110, heads: 2, kvHeads: 1, dim: 16, cu: [0, 110], causal: 0 }),
  ...rows('over tile borders, window', { t: 210, heads: 2, kvHeads: 1, dim: 16, cu: [0, 210], window: 70 }),
  ...rows('wide heads', { t: 70, heads: 2, kvHeads: 1, dim: 128, cu: [0, 66] }),
  decode('ragged', 4, 9, { heads: 4, kvHeads: 2, dim: 8 }, [1, 9, 4, 0]),
  decode('window', 3, 12, { heads: 2, kvHeads: 2, dim: 8, window: 3 }, [12, 2, 7]),
  decode('softcap, one key head', 2, 7, { heads: 5, kvHeads: 1, dim: 20, softcap: 1.5 }, [7, 3]),
  decode('long', 3, 300, { heads: 6, kvHeads: 2, dim: 64 }, [300, 129, 64]),
];
