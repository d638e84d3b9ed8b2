/** Rows of the reductions. Sums of n terms of order 1 in fp32 blocks: the error grows with the block, not with n. */
import { f32, fixed, float, normal, positive, type OpCase } from './case';
import { tolerance, U_F32 } from './tolerance';

// Up to 4096 terms of either sign are added in fp32 lanes; the result can cancel, so the bound is in terms of sum |x|.
const sumOf = (n: number): OpCase['tolerance'] =>
  tolerance('blocks of at most 4096 terms in fp32 over 16 or more lanes, block sums in f64', {
    rel: 2 * U_F32,
    abs: Math.min(n, 4096) * 4 * U_F32,
  });
const columns = (rows: number): OpCase['tolerance'] =>
  tolerance('64 rows at a time in fp32, then the partial sums', {
    rel: 2 * U_F32,
    abs: (Math.min(rows, 64) + rows / 64) * 4 * U_F32,
  });

export const cases: readonly OpCase[] = [
  { op: 'sum', name: 'odd size', inputs: [float([5, 17])], out: ['f32[1]'], tolerance: sumOf(85), grad: [0] },
  { op: 'sum', name: 'one element', inputs: [float([1])], tolerance: sumOf(1), grad: [0] },
  { op: 'sum', name: 'just over a block', inputs: [float([4097])], tolerance: sumOf(4097) },
  {
    op: 'sum',
    name: 'many blocks',
    inputs: [float([7, 10007], positive(0.5, 1.5))],
    tolerance: tolerance('same sign: relative', { rel: 64 * U_F32 }),
  },
  {
    op: 'sum_rows',
    name: 'odd size',
    inputs: [float([5, 17])],
    attributes: { addend: 0 },
    out: ['f32[17]'],
    tolerance: columns(5),
  },
  { op: 'sum_rows', name: 'T = 1', inputs: [float([1, 3])], attributes: { addend: 0 }, tolerance: columns(1) },
  { op: 'sum_rows', name: 'one column', inputs: [float([65, 1])], attributes: { addend: 0 }, tolerance: columns(65) },
  {
    op: 'sum_rows',
    name: 'addend',
    inputs: [float([70, 19]), f32([19])],
    attributes: { addend: 1 },
    out: ['f32[19]'],
    tolerance: columns(70),
  },
  {
    op: 'sum_rows',
    name: 'many strips',
    inputs: [float([131, 517])],
    attributes: { addend: 0 },
    tolerance: columns(131),
  },
  {
    op: 'global_norm',
    name: 'three inputs',
    inputs: [f32([3, 7]), float([5]), f32([2, 2, 2])],
    out: ['f32[1]'],
    tolerance: tolerance('squares in fp32 blocks', { rel: 32 * U_F32 }),
  },
  {
    op: 'global_norm',
    name: 'many blocks',
    inputs: [f32([9000]), f32([1]), f32([4096]), f32([4097])],
    tolerance: tolerance('squares in fp32 blocks', { rel: 64 * U_F32 }),
  },
  {
    op: 'global_norm',
    name: 'infinite',
    inputs: [f32([3], fixed(1, Infinity, 2))],
    tolerance: tolerance('infinity stays', {}),
  },
  {
    op: 'global_norm',
    name: 'small',
    inputs: [f32([50], normal(1e-8))],
    tolerance: tolerance('squares in fp32 blocks, still normal numbers', { rel: 32 * U_F32 }),
  },
];
