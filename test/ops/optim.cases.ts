/** Rows of the optimizer steps; whole trajectories are in goldens.test.ts. */
import { f32, fixed, float, i32, normal, positive, u8, type OpCase, type RowInput } from './case';
import { tolerance, U_F32 } from './tolerance';

const HYPER = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };
const scalars = (lr: number, step: number, gradScale: number): RowInput[] => [
  f32([1], fixed(lr)),
  i32([1], fixed(step)),
  f32([1], fixed(gradScale)),
];
const update = tolerance('some ten fp32 operations on p, the step and the moments, whose sums may cancel', {
  rel: 8 * U_F32,
  ofMax: 4 * U_F32,
});

function adamw(
  name: string,
  shapes: readonly (readonly number[])[],
  o: { lr?: number; step?: number; gradScale?: number; hyper?: object } = {},
): OpCase {
  const groups = shapes.flatMap((s) => [
    float(s),
    f32(s, normal(0.1)),
    f32(s, normal(0.05)),
    f32(s, positive(1e-6, 1e-2)),
  ]);
  return {
    op: 'adamw',
    name,
    inputs: [...scalars(o.lr ?? 1e-2, o.step ?? 3, o.gradScale ?? 1), ...groups],
    attributes: { count: shapes.length, ...HYPER, ...o.hyper },
    out: shapes.flatMap((s) => [`float[${s.join()}]`, `f32[${s.join()}]`, `f32[${s.join()}]`]),
    tolerance: update,
  };
}

// A quotient within an fp32 rounding of the midpoint of two codes may take either.
const codes = {
  ...update,
  bounds: { ...update.bounds, u8: { abs: 1 } },
  why: `${update.why}; a quotient at the midpoint of two codes takes either`,
};

function adamw8(
  name: string,
  shapes: readonly (readonly number[])[],
  o: { lr?: number; step?: number; gradScale?: number; hyper?: object } = {},
): OpCase {
  const size = (s: readonly number[]): number => s.reduce((a, b) => a * b, 1);
  const groups = shapes.flatMap((s) => {
    const blocks = Math.ceil(size(s) / 256);
    return [
      float(s),
      f32(s, normal(0.1)),
      u8([size(s)]),
      u8([size(s)]),
      f32([blocks], positive(0.01, 0.2)),
      f32([blocks], positive(1e-4, 1e-2)),
    ];
  });
  return {
    op: 'adamw_8bit',
    name,
    inputs: [...scalars(o.lr ?? 1e-2, o.step ?? 3, o.gradScale ?? 1), ...groups],
    attributes: { count: shapes.length, ...HYPER, ...o.hyper },
    out: shapes.flatMap((s) => [
      `float[${s.join()}]`,
      `u8[${size(s)}]`,
      `u8[${size(s)}]`,
      `f32[${Math.ceil(size(s) / 256)}]`,
      `f32[${Math.ceil(size(s) / 256)}]`,
    ]),
    tolerance: codes,
  };
}

export const cases: readonly OpCase[] = [
  adamw('first step', [[7, 9]], { step: 1 }),
  adamw('several parameters', [[5, 3], [1], [130], [2, 3, 4]]),
  adamw('clipped, late', [[33]], { step: 20000, gradScale: 0.125 }),
  adamw('no decay, other betas', [[33]], { hyper: { weight_decay: 0, beta1: 0.8, beta2: 0.95, eps: 1e-6 } }),
  adamw('no learning rate', [[5]], { lr: 0 }),
  adamw('many pieces', [[51, 201], [9000]]),
  adamw8('first step', [[7, 9]], { step: 1 }),
  adamw8('several parameters', [[5, 3], [1], [257], [2, 3, 4]]),
  adamw8('clipped, late', [[600]], { step: 20000, gradScale: 0.125 }),
  adamw8('no decay, other betas', [[256]], { hyper: { weight_decay: 0, beta1: 0.8, beta2: 0.95, eps: 1e-6 } }),
  adamw8('many pieces', [[11, 401], [5000]]),
];
