/** Rows of the norms. Statistics of D values in fp32; weights may have another float type than x. */
import type { NdArray } from '../../src/graph/op-def';
import type { Attributes } from '../../src/graph/tensor';
import { normOps } from '../../src/ops/norm';
import { derived, f32, float, normal, positive, uniform, type OpCase } from './case';
import { tolerance, U_F32 } from './tolerance';

const weight = uniform(0.5, 1.5);
const forward = tolerance('sum of squares in fp32 lanes: a few ulps of the result', {
  rel: 12 * U_F32,
  abs: 8 * U_F32,
});
// dx subtracts a projection, so terms larger than the result cancel; dw sums T rows.
const backward = tolerance('dot products of D terms and column sums of T rows in fp32, with cancellation', {
  rel: 16 * U_F32,
  ofMax: 32 * U_F32,
});

const rstdOf = (x: readonly NdArray[], a: Attributes): void => {
  x[3].data.set(normOps.rms_norm.reference!([x[1], x[2]], a, [])[1].data);
};
const momentsOf = (x: readonly NdArray[], a: Attributes): void => {
  const [, mean, rstd] = normOps.layer_norm.reference!([x[1], x[2], x[2]], { ...a, eps: 1e-5 }, []);
  x[3].data.set(mean.data);
  x[4].data.set(rstd.data);
};

function rms(name: string, t: number, d: number, unitOffset: 0 | 1 = 0, more: Partial<OpCase> = {}): OpCase[] {
  const attributes = { eps: 1e-5, unit_offset: unitOffset };
  return [
    {
      op: 'rms_norm',
      name,
      inputs: [float([t, d], normal(1.5)), float([d], weight)],
      attributes,
      out: [`float[${t},${d}]`, `f32[${t}]`],
      tolerance: forward,
      ...more,
    },
    {
      op: 'rms_norm_grad',
      name,
      inputs: [float([t, d]), float([t, d], normal(1.5)), float([d], weight), f32([t], derived)],
      attributes: { ...attributes, addend: 0 },
      prepare: rstdOf,
      out: [`float[${t},${d}]`, `f32[${d}]`],
      tolerance: backward,
    },
    {
      op: 'rms_norm_grad',
      name: `${name}, addend`,
      inputs: [float([t, d]), float([t, d], normal(1.5)), float([d], weight), f32([t], derived), float([t, d])],
      attributes: { ...attributes, addend: 1 },
      prepare: rstdOf,
      tolerance: backward,
    },
  ];
}

function layer(name: string, t: number, d: number, more: Partial<OpCase> = {}): OpCase[] {
  return [
    {
      op: 'layer_norm',
      name,
      inputs: [float([t, d], normal(1.5, 0.5)), float([d], weight), float([d])],
      attributes: { eps: 1e-5 },
      out: [`float[${t},${d}]`, `f32[${t}]`, `f32[${t}]`],
      tolerance: forward,
      ...more,
    },
    {
      op: 'layer_norm_grad',
      name,
      inputs: [
        float([t, d]),
        float([t, d], normal(1.5, 0.5)),
        float([d], weight),
        f32([t], derived),
        f32([t], derived),
      ],
      attributes: { addend: 0 },
      prepare: momentsOf,
      out: [`float[${t},${d}]`, `f32[${d}]`, `f32[${d}]`],
      tolerance: backward,
    },
    {
      op: 'layer_norm_grad',
      name: `${name}, addend`,
      inputs: [
        float([t, d]),
        float([t, d], normal(1.5, 0.5)),
        float([d], weight),
        f32([t], derived),
        f32([t], derived),
        float([t, d]),
      ],
      attributes: { addend: 1 },
      prepare: momentsOf,
      tolerance: backward,
    },
  ];
}

export const cases: readonly OpCase[] = [
  ...rms('odd size', 5, 67, 0, { grad: [0, 1] }),
  ...rms('unit offset', 3, 20, 1, { grad: [0, 1] }),
  ...rms('T = 1', 1, 64),
  ...rms('many rows and strips', 150, 257),
  {
    op: 'rms_norm',
    name: 'fp32 weight',
    inputs: [float([4, 33]), f32([33], weight)],
    attributes: { eps: 1e-6, unit_offset: 0 },
    tolerance: forward,
  },
  {
    op: 'rms_norm_grad',
    name: 'fp32 weight',
    inputs: [float([4, 33]), float([4, 33]), f32([33], weight), f32([4], derived)],
    attributes: { eps: 1e-6, unit_offset: 0, addend: 0 },
    prepare: rstdOf,
    tolerance: backward,
  },
  {
    op: 'rms_norm',
    name: 'eps matters',
    inputs: [float([3, 16], normal(1e-2)), float([16], weight)],
    attributes: { eps: 1e-5, unit_offset: 0 },
    tolerance: forward,
    grad: [0, 1],
  },
  {
    op: 'rms_norm',
    name: 'one column',
    inputs: [float([6, 1], positive(0.5, 2)), float([1], weight)],
    attributes: { eps: 1e-5, unit_offset: 0 },
    tolerance: forward,
  },
  ...layer('odd size', 5, 67, { grad: [0, 1, 2] }),
  ...layer('T = 1', 1, 48),
  ...layer('many rows and strips', 150, 257),
  {
    op: 'layer_norm',
    name: 'fp32 weights',
    inputs: [float([4, 33]), f32([33], weight), f32([33])],
    attributes: { eps: 1e-6 },
    tolerance: forward,
  },
];
