/** Rows of the elementwise family. */
import type { DType } from '../../src/graph/dtype';
import type { ActivationKind } from '../../src/ops/elementwise';
import { awayFromZero, bf16, cycle, f16, f32, fixed, float, i32, normal, positive, ROUND, u8, uniform, type OpCase } from './case';
import { exact, oneRounding, tolerance, U_F32 } from './tolerance';

const KINDS: readonly ActivationKind[] = ['gelu', 'gelu_tanh', 'relu', 'silu', 'tanh', 'sigmoid'];
const GATES: readonly ActivationKind[] = ['silu', 'gelu_tanh', 'gelu'];

// exp, tanh and erf are polynomials of a few ulps; near a zero of the function only the absolute error is bounded.
const transcendental = tolerance('vectorised exp, tanh and erf: a few ulps of values of order 1', { rel: 16 * U_F32, abs: 8 * U_F32 });
// Every kind of number: infinities, NaN, both zeros, subnormals, ties and the largest values of each format.
const SPECIAL = [
  0, -0, 1, -1, Infinity, -Infinity, NaN, 2 ** -149, -(2 ** -140), 2 ** -126, 2 ** -25, 1.5 * 2 ** -25, 2 ** -24, 3 * 2 ** -26, 65504, 65519.99, 65520, -70000,
  1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 1.00390625, 3.3895314e38, 3.4028235e38, -3.4028235e38, 1e-40, 6.1e-5, 5.96e-8, 2.98e-8, 1e30,
];

const castRows = (['f32', 'bf16', 'f16'] as const).flatMap((from) =>
  (['f32', 'bf16', 'f16'] as const).map((to): OpCase => {
    const make = { f32, bf16, f16 }[from];
    return { op: 'cast', name: `${from} to ${to}, special values`, inputs: [make([5, 31], cycle(SPECIAL))], attributes: { dtype: to }, out: [`${to}[5,31]`], tolerance: exact, reference: roundedTo(to) };
  }),
);

/** The value that casting must give: nearest, ties to even, overflow to infinity (src/io/float-codec has its own code for it). */
function roundedTo(to: DType): OpCase['reference'] {
  return ([x]) => [{ shape: x.shape, data: x.data.map(ROUND[to]) }];
}

export const cases: readonly OpCase[] = [
  { op: 'add', name: 'odd size', inputs: [float([7, 9]), float([7, 9])], out: ['float[7,9]'], tolerance: oneRounding, grad: [0, 1] },
  { op: 'add', name: 'one element', inputs: [float([1]), float([1])], tolerance: oneRounding, grad: [0, 1] },
  { op: 'add', name: 'many chunks', inputs: [float([133, 301]), float([133, 301])], tolerance: oneRounding },
  { op: 'mul', name: 'rank 3', inputs: [float([3, 5, 7]), float([3, 5, 7])], out: ['float[3,5,7]'], tolerance: oneRounding, grad: [0, 1] },
  { op: 'mul', name: 'many chunks', inputs: [float([40001]), float([40001])], tolerance: oneRounding },
  { op: 'scale', name: 'by a third', inputs: [float([17])], attributes: { factor: 1 / 3 }, out: ['float[17]'], tolerance: tolerance('the factor is rounded to fp32 as well', { rel: 2.02 * U_F32 }), grad: [0] },
  { op: 'scale', name: 'many chunks', inputs: [float([50000])], attributes: { factor: -2.5 }, tolerance: oneRounding },
  { op: 'scale_by', name: 'run-time scalar', inputs: [float([4, 19]), f32([1], fixed(0.37))], out: ['float[4,19]'], tolerance: oneRounding, grad: [0] },
  { op: 'scale_by', name: 'infinite scalar', inputs: [float([3], fixed(1, -2, 0)), f32([1], fixed(Infinity))], tolerance: exact },
  ...castRows,
  { op: 'cast', name: 'many chunks', inputs: [float([33000])], attributes: { dtype: 'f16' }, out: ['f16[33000]'], tolerance: tolerance('one rounding', {}) },
  { op: 'cast', name: 'gradient', inputs: [float([3, 5])], attributes: { dtype: 'bf16' }, tolerance: tolerance('one rounding', {}), grad: [0] },
  { op: 'copy', name: 'floats', inputs: [float([9, 3])], out: ['float[9,3]'], tolerance: exact, grad: [0] },
  { op: 'copy', name: 'f16', inputs: [f16([21])], tolerance: exact },
  { op: 'copy', name: 'i32', inputs: [i32([21], uniform(-(2 ** 31), 2 ** 31 - 1))], tolerance: exact },
  { op: 'copy', name: 'u8, many chunks', inputs: [u8([70001])], tolerance: exact },
  { op: 'expand', name: 'odd count', inputs: [f32([1], fixed(-1.25))], attributes: { n: 37 }, out: ['f32[37]'], tolerance: exact },
  { op: 'expand', name: 'one', inputs: [f32([1])], attributes: { n: 1 }, tolerance: exact },
  { op: 'expand', name: 'many chunks', inputs: [f32([1])], attributes: { n: 40000 }, tolerance: exact },
  { op: 'fill', name: 'float', inputs: [], attributes: { value: 0.1, shape: [3, 11], dtype: 'float' }, out: ['float[3,11]'], tolerance: oneRounding },
  { op: 'fill', name: 'f16', inputs: [], attributes: { value: -0.1, shape: [7], dtype: 'f16' }, tolerance: tolerance('one rounding', {}) },
  { op: 'fill', name: 'i32', inputs: [], attributes: { value: -100, shape: [5], dtype: 'i32' }, tolerance: exact },
  { op: 'fill', name: 'u8', inputs: [], attributes: { value: 255, shape: [17], dtype: 'u8' }, tolerance: exact },
  ...KINDS.flatMap((kind): OpCase[] => [
    { op: 'activation', name: kind, inputs: [float([5, 13], awayFromZero())], attributes: { kind }, out: ['float[5,13]'], tolerance: transcendental, grad: [0] },
    { op: 'activation', name: `${kind}, far out`, inputs: [float([16], fixed(-100, -30, -20, -10, -8, -6, -5, -4, 4, 5, 6, 8, 10, 20, 30, 100))], attributes: { kind }, tolerance: transcendental },
    { op: 'activation_grad', name: kind, inputs: [float([5, 13]), float([5, 13], awayFromZero())], attributes: { kind }, out: ['float[5,13]'], tolerance: transcendental },
    { op: 'activation_grad', name: `${kind}, far out`, inputs: [float([12]), float([12], fixed(-100, -30, -10, -6, -5, -4, 4, 5, 6, 10, 30, 100))], attributes: { kind }, tolerance: transcendental },
  ]),
  { op: 'activation', name: 'exp', inputs: [float([5, 13])], attributes: { kind: 'exp' }, out: ['float[5,13]'], tolerance: transcendental, grad: [0] },
  { op: 'activation', name: 'exp, far out', inputs: [float([10], fixed(-200, -80, -30, -10, -1, 0, 1, 10, 30, 80))], attributes: { kind: 'exp' }, tolerance: transcendental },
  { op: 'activation_grad', name: 'exp', inputs: [float([5, 13]), float([5, 13])], attributes: { kind: 'exp' }, out: ['float[5,13]'], tolerance: transcendental },
  { op: 'activation', name: 'many chunks', inputs: [float([3, 15001], normal(2))], attributes: { kind: 'gelu_tanh' }, tolerance: transcendental },
  ...GATES.flatMap((kind): OpCase[] => [
    { op: 'glu', name: kind, inputs: [float([3, 21]), float([3, 21])], attributes: { kind }, out: ['float[3,21]'], tolerance: transcendental, grad: [0, 1] },
    { op: 'glu_grad', name: kind, inputs: [float([3, 21]), float([3, 21]), float([3, 21])], attributes: { kind }, out: ['float[3,21]', 'float[3,21]'], tolerance: transcendental },
  ]),
  { op: 'glu', name: 'one element', inputs: [float([1, 1]), float([1, 1])], attributes: { kind: 'silu' }, tolerance: transcendental },
  { op: 'glu', name: 'many chunks', inputs: [float([77, 301]), float([77, 301])], attributes: { kind: 'silu' }, tolerance: transcendental },
  { op: 'glu_grad', name: 'many chunks', inputs: [float([77, 301]), float([77, 301]), float([77, 301])], attributes: { kind: 'silu' }, tolerance: transcendental },
  { op: 'clip_coefficient', name: 'clips', inputs: [f32([1], fixed(7.5))], attributes: { max_norm: 1 }, out: ['f32[1]'], tolerance: tolerance('a sum and a division', { rel: 3 * U_F32 }) },
  { op: 'clip_coefficient', name: 'leaves', inputs: [f32([1], positive(0.1, 0.9))], attributes: { max_norm: 1 }, tolerance: exact },
  { op: 'clip_coefficient', name: 'off', inputs: [f32([1], fixed(1e9))], attributes: { max_norm: 0 }, tolerance: exact },
  { op: 'clip_coefficient', name: 'a NaN norm stays', inputs: [f32([1], fixed(NaN))], attributes: { max_norm: 1 }, tolerance: exact },
  { op: 'clip_coefficient', name: 'an infinite norm gives 0', inputs: [f32([1], fixed(Infinity))], attributes: { max_norm: 1 }, tolerance: exact },
];
