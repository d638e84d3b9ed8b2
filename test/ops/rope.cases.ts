/** Rows of the rotary embedding. */
import type { NdArray } from '../../src/graph/op-def';
import { derived, f32, fixed, float, i32, ids, type OpCase } from './case';
import { oneRounding, tolerance, U_F32 } from './tolerance';

const frequencies = (half: number): number[] => Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
/** Makes x[1], x[2] the cosines and sines of some angles. */
const angles = (x: readonly NdArray[]): void => {
  x[1].data.forEach((_, i) => {
    x[1].data[i] = Math.cos(0.7 * i);
    x[2].data[i] = Math.sin(0.7 * i);
  });
};
const rotation = tolerance('two products and a sum, each result of order |x|', { rel: 2 * U_F32, abs: 12 * U_F32 });

function rotate(
  name: string,
  t: number,
  heads: number,
  headDim: number,
  half: number,
  inverse: 0 | 1,
  grad?: readonly number[],
): OpCase {
  return {
    op: 'rope',
    name,
    inputs: [float([t, heads * headDim]), f32([t, half], derived), f32([t, half], derived)],
    prepare: angles,
    attributes: { head_dim: headDim, inverse },
    out: [`float[${t},${heads * headDim}]`],
    tolerance: rotation,
    grad,
  };
}

export const cases: readonly OpCase[] = [
  {
    op: 'rope_table',
    name: 'restarting positions',
    inputs: [i32([7], fixed(0, 1, 2, 0, 1, 0, 0))],
    attributes: { inv_freq: frequencies(5), attention_scaling: 1 },
    out: ['f32[7,5]', 'f32[7,5]'],
    tolerance: oneRounding,
  },
  {
    op: 'rope_table',
    name: 'far positions, scaled',
    inputs: [i32([4], fixed(131071, 65537, 4095, 1))],
    attributes: { inv_freq: frequencies(32), attention_scaling: 1.3465735902799727 },
    tolerance: oneRounding,
  },
  {
    op: 'rope_table',
    name: 'many chunks',
    inputs: [i32([200], ids(4096))],
    attributes: { inv_freq: frequencies(32), attention_scaling: 1 },
    tolerance: oneRounding,
  },
  rotate('three heads', 5, 3, 8, 4, 0, [0]),
  rotate('inverse', 5, 3, 8, 4, 1, [0]),
  rotate('partial', 4, 2, 10, 3, 0, [0]),
  rotate('T = 1, one head', 1, 1, 2, 1, 0),
  rotate('odd half', 3, 2, 38, 19, 0),
  rotate('many chunks', 97, 4, 64, 32, 0),
];
