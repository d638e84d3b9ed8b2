/** Rows of the losses: masked rows, chunks, scale and cap, labels out of range, both forms of the head. */
import type { NdArray } from '../../src/graph/op-def';
import type { Attributes, TensorType } from '../../src/graph/tensor';
import { lossOps } from '../../src/ops/loss';
import { constantly, cycle, f32, fixed, float, i32, labels, normal, ROUND, uniform, type OpCase } from './case';
import { tolerance, U_BF16, U_F32 } from './tolerance';

// Logits of order 1 are sums of D products; nll and entropy are a log of V exponentials of them.
const forward = tolerance('logits in fp32, sums in f64 across blocks', { rel: 16 * U_F32, abs: 64 * U_F32 });
// In bf16 the gradient of the logits is rounded before the two products; dw itself is fp32.
const backward = {
  ...tolerance(
    'sums of V or T products in fp32; in bf16 of rounded gradients',
    { rel: 16 * U_F32, abs: 64 * U_F32, ofMax: 64 * U_F32 },
    { 4: { ofMax: U_BF16, abs: 1e-6 } },
  ),
};
backward.bounds.bf16 = { rel: U_BF16, ofMax: U_BF16, abs: 1e-6 };

interface Head {
  t: number;
  d: number;
  v: number;
  masked?: number;
  labels?: readonly number[];
  softcap?: number;
  logitScale?: number;
  chunk?: number;
  w?: typeof float;
  grad?: readonly number[];
}

/** bf16 arithmetic rounds a weight of another type while it packs it. */
const inBf16 =
  (op: 'linear_cross_entropy' | 'linear_cross_entropy_grad') =>
  (x: readonly NdArray[], a: Attributes, outputs: readonly TensorType[]): NdArray[] => {
    // The gradient's fourth output has x's type; the forward's rows with an fp32 head run in bf16 only.
    const bf16 = op === 'linear_cross_entropy' || outputs[3].dtype === 'bf16';
    const w = bf16 ? { shape: x[1].shape, data: x[1].data.map(ROUND.bf16) } : x[1];
    return lossOps[op].reference!([x[0], w, ...x.slice(2)], a, outputs);
  };

function head(name: string, h: Head): OpCase[] {
  const { t, d, v } = h;
  const x = float([t, d]);
  const w = (h.w ?? float)([v, d], normal(1 / Math.sqrt(d)));
  const label = i32([t], h.labels ? fixed(...h.labels) : labels(v, h.masked));
  const attributes = { logit_scale: h.logitScale ?? 1, softcap: h.softcap ?? 0, chunk: h.chunk ?? 256 };
  const perToken = `f32[${t}]`;
  const mixed = h.w ? { runs: ['bf16'] as const } : {};
  const gradRow = (addend: 0 | 1): OpCase => ({
    op: 'linear_cross_entropy_grad',
    name: addend ? `${name}, addend` : name,
    inputs: [x, w, label, f32([t], uniform(-1, 1)), ...(addend ? [f32([v, d])] : [])],
    attributes: { ...attributes, addend, trained: 1 },
    out: [perToken, perToken, perToken, `float[${t},${d}]`, `f32[${v},${d}]`],
    tolerance: backward,
    ...mixed,
    ...(h.w ? { reference: inBf16('linear_cross_entropy_grad') } : {}),
  });
  return [
    {
      op: 'linear_cross_entropy',
      name,
      inputs: [x, w, label],
      attributes,
      out: [perToken, perToken, perToken],
      tolerance: forward,
      grad: h.grad,
      ...mixed,
      ...(h.w ? { reference: inBf16('linear_cross_entropy') } : {}),
    },
    gradRow(0),
    gradRow(1),
  ];
}

const small = tolerance('f64 inside', { rel: 2 * U_F32, abs: 2 * U_F32 });

export const cases: readonly OpCase[] = [
  ...head('odd size', { t: 7, d: 12, v: 19, grad: [0, 1] }),
  ...head('T = 1', { t: 1, d: 8, v: 5, masked: 0 }),
  ...head('all masked', { t: 6, d: 8, v: 5, masked: 1.1 }),
  ...head('chunks of two', { t: 11, d: 8, v: 13, chunk: 2, grad: [0, 1] }),
  ...head('scale and cap', { t: 6, d: 8, v: 11, logitScale: 0.3, softcap: 1.5, grad: [0, 1] }),
  ...head('sharp logits', { t: 5, d: 8, v: 11, logitScale: 30 }),
  ...head('only one row counts', { t: 9, d: 8, v: 11, labels: [-100, -100, -100, -100, 10, -100, -100, -100, -100] }),
  ...head('a label out of range gives NaN', { t: 3, d: 4, v: 5, labels: [2, 5, -7] }),
  ...head('fp32 head of a bf16 model', { t: 6, d: 16, v: 21, w: f32 }),
  ...head('over block and tile borders', { t: 23, d: 33, v: 2100, chunk: 9 }),
  {
    op: 'cross_entropy',
    name: 'odd size',
    inputs: [float([7, 3]), i32([7], labels(3))],
    out: ['f32[7]', 'f32[7]'],
    tolerance: small,
    grad: [0],
  },
  {
    op: 'cross_entropy',
    name: 'ties count for the first',
    inputs: [float([4, 3], constantly(0.5)), i32([4], cycle([0, 1]))],
    tolerance: small,
  },
  {
    op: 'cross_entropy',
    name: 'large logits',
    inputs: [float([3, 4], normal(200)), i32([3], fixed(0, 3, -100))],
    tolerance: small,
  },
  { op: 'cross_entropy', name: 'T = 1', inputs: [float([1, 2]), i32([1], fixed(1))], tolerance: small },
  {
    op: 'cross_entropy',
    name: 'a label out of range gives NaN',
    inputs: [float([2, 3]), i32([2], fixed(3, -1))],
    tolerance: small,
  },
  {
    op: 'cross_entropy_grad',
    name: 'odd size',
    inputs: [float([7, 3]), i32([7], labels(3)), f32([7], uniform(-1, 1))],
    out: ['float[7,3]'],
    tolerance: small,
  },
  {
    op: 'cross_entropy_grad',
    name: 'many rows',
    inputs: [float([300, 12]), i32([300], labels(12)), f32([300], uniform(-1, 1))],
    tolerance: small,
  },
  {
    op: 'cross_entropy_grad',
    name: 'a label out of range gives NaN',
    inputs: [float([2, 3]), i32([2], fixed(3, -1)), f32([2])],
    tolerance: small,
  },
];
