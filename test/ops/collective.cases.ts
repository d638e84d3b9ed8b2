/** Rows of the ops over ranks, as they are for one rank; several are in test/train/data-parallel.test.ts. */
import { f32, float, i32, u8, type OpCase } from './case';
import { tolerance } from './tolerance';

const exact = tolerance('one rank: a copy', {});

export const cases: readonly OpCase[] = [
  {
    op: 'all_reduce',
    name: 'one tensor',
    inputs: [f32([5, 17])],
    attributes: { world: 1 },
    out: ['f32[5,17]'],
    tolerance: exact,
  },
  {
    op: 'all_reduce',
    name: 'several',
    inputs: [f32([3]), f32([1]), f32([2, 3, 4])],
    attributes: { world: 1 },
    out: ['f32[3]', 'f32[1]', 'f32[2,3,4]'],
    tolerance: exact,
  },
  {
    op: 'broadcast',
    name: 'one tensor',
    inputs: [float([5, 17])],
    attributes: { world: 1, roots: [0] },
    out: ['float[5,17]'],
    tolerance: exact,
  },
  {
    op: 'broadcast',
    name: 'any type',
    inputs: [float([3]), u8([7]), i32([2, 2])],
    attributes: { world: 1, roots: [0, 0, 0] },
    out: ['float[3]', 'u8[7]', 'i32[2,2]'],
    tolerance: exact,
  },
];
