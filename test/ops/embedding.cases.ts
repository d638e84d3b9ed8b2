/** Rows of the token embedding. */
import { bf16, f32, fixed, float, i32, ids, type OpCase } from './case';
import { exact, oneRounding, tolerance, U_F32 } from './tolerance';

const repeats = (n: number): OpCase['tolerance'] =>
  tolerance(`up to ${n} rows added in fp32, in order, the scale rounded to fp32`, {
    rel: 4 * U_F32,
    abs: n * 4 * U_F32,
  });

export const cases: readonly OpCase[] = [
  {
    op: 'embedding',
    name: 'odd size',
    inputs: [float([11, 7]), i32([6], fixed(0, 10, 3, 3, 7, 0))],
    attributes: { scale: 1, dtype: 'float' },
    out: ['float[6,7]'],
    tolerance: exact,
    grad: [0],
  },
  {
    op: 'embedding',
    name: 'scaled',
    inputs: [float([9, 5]), i32([4], ids(9))],
    attributes: { scale: Math.sqrt(5), dtype: 'float' },
    tolerance: tolerance('the scale is rounded to fp32 as well', { rel: 2.02 * U_F32 }),
    grad: [0],
  },
  {
    op: 'embedding',
    name: 'f32 table to bf16 rows',
    inputs: [f32([9, 5]), i32([4], ids(9))],
    attributes: { scale: 1, dtype: 'bf16' },
    out: ['bf16[4,5]'],
    tolerance: oneRounding,
  },
  {
    op: 'embedding',
    name: 'bf16 table to f32 rows',
    inputs: [bf16([9, 5]), i32([4], ids(9))],
    attributes: { scale: 1, dtype: 'f32' },
    out: ['f32[4,5]'],
    tolerance: exact,
  },
  {
    op: 'embedding',
    name: 'an id out of range gives NaN',
    inputs: [float([4, 3]), i32([4], fixed(0, 4, -1, 3))],
    attributes: { scale: 1, dtype: 'float' },
    tolerance: exact,
  },
  {
    op: 'embedding',
    name: 'T = 1',
    inputs: [float([4, 3]), i32([1], fixed(2))],
    attributes: { scale: 1, dtype: 'float' },
    tolerance: exact,
  },
  {
    op: 'embedding',
    name: 'many chunks',
    inputs: [float([60, 301]), i32([150], ids(60))],
    attributes: { scale: 1, dtype: 'float' },
    tolerance: exact,
  },
  {
    op: 'embedding_grad',
    name: 'repeats',
    inputs: [float([6, 7]), i32([6], fixed(0, 10, 3, 3, 7, 0))],
    attributes: { vocab: 11, scale: 1, addend: 0 },
    out: ['f32[11,7]'],
    tolerance: repeats(2),
  },
  {
    op: 'embedding_grad',
    name: 'addend',
    inputs: [float([6, 7]), i32([6], fixed(0, 10, 3, 3, 7, 0)), f32([11, 7])],
    attributes: { vocab: 11, scale: 2.5, addend: 1 },
    out: ['f32[11,7]'],
    tolerance: repeats(3),
  },
  {
    op: 'embedding_grad',
    name: 'out of range is skipped',
    inputs: [float([3, 2]), i32([3], fixed(-1, 1, 5))],
    attributes: { vocab: 5, scale: 1, addend: 0 },
    tolerance: exact,
  },
  {
    op: 'embedding_grad',
    name: 'T = 1',
    inputs: [float([1, 5]), i32([1], fixed(1))],
    attributes: { vocab: 2, scale: 1, addend: 0 },
    tolerance: exact,
  },
  {
    op: 'embedding_grad',
    name: 'many strips',
    inputs: [float([120, 301]), i32([120], ids(20))],
    attributes: { vocab: 20, scale: 1, addend: 0 },
    tolerance: repeats(20),
  },
];
