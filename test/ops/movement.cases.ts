/** Rows of the ops that move values: every bit arrives where it should. */
import { bf16, cycle, f16, f32, fixed, float, i32, ids, u8, uniform, type OpCase } from './case';
import { exact, tolerance, U_F32 } from './tolerance';

const int = uniform(-1e6, 1e6);

export const cases: readonly OpCase[] = [
  { op: 'reshape', name: 'view', inputs: [float([6, 4])], attributes: { shape: [3, 8] }, out: ['float[3,8]'], tolerance: exact, grad: [0] },
  { op: 'transpose', name: 'odd size', inputs: [float([7, 5])], out: ['float[5,7]'], tolerance: exact, grad: [0] },
  { op: 'transpose', name: 'a row', inputs: [float([1, 9])], out: ['float[9,1]'], tolerance: exact },
  { op: 'transpose', name: 'many tiles', inputs: [float([131, 77])], tolerance: exact },
  { op: 'transpose', name: 'many chunks', inputs: [float([300, 200])], tolerance: exact },
  { op: 'transpose', name: 'u8', inputs: [u8([33, 65])], tolerance: exact },
  { op: 'transpose', name: 'f16', inputs: [f16([33, 3])], tolerance: exact },
  { op: 'transpose', name: 'i32', inputs: [i32([5, 3], int)], tolerance: exact },
  { op: 'gather_rows', name: 'repeats and gaps', inputs: [float([6, 5]), i32([7], fixed(0, 5, -1, 3, 3, -1, 0))], out: ['float[7,5]'], tolerance: exact, grad: [0] },
  { op: 'gather_rows', name: 'out of range gives zeros', inputs: [float([3, 2]), i32([3], fixed(2, 3, 1000))], tolerance: exact },
  { op: 'gather_rows', name: 'i32', inputs: [i32([6, 3], int), i32([4], fixed(5, -1, 0, 2))], tolerance: exact },
  { op: 'gather_rows', name: 'many chunks', inputs: [float([50, 301]), i32([120], ids(50))], tolerance: exact },
  { op: 'scatter_rows', name: 'repeats and gaps', inputs: [float([7, 5]), i32([7], fixed(0, 5, -1, 3, 3, -1, 0))], attributes: { rows_out: 6 }, out: ['float[6,5]'], tolerance: tolerance('sums of at most 7 rows in fp32', { rel: 8 * U_F32, abs: 8 * U_F32 }), grad: [0] },
  { op: 'scatter_rows', name: 'all into one, wide', inputs: [float([40, 300]), i32([40], fixed(...Array<number>(40).fill(2)))], attributes: { rows_out: 4 }, tolerance: tolerance('sums of 40 rows in fp32', { rel: 8 * U_F32, abs: 40 * 8 * U_F32 }) },
  { op: 'scatter_rows', name: 'out of range is skipped', inputs: [float([3, 2]), i32([3], fixed(2, 3, 1000))], attributes: { rows_out: 3 }, tolerance: exact },
  { op: 'scatter_rows', name: 'many chunks', inputs: [float([200, 257]), i32([200], ids(90))], attributes: { rows_out: 90 }, tolerance: tolerance('sums of some rows in fp32', { rel: 8 * U_F32, abs: 64 * U_F32 }) },
  { op: 'split_cols', name: 'three parts', inputs: [float([5, 12])], attributes: { sizes: [7, 1, 4] }, out: ['float[5,7]', 'float[5,1]', 'float[5,4]'], tolerance: exact, grad: [0], through: [0, 2] },
  { op: 'split_cols', name: 'one part', inputs: [float([1, 3])], attributes: { sizes: [3] }, tolerance: exact },
  { op: 'split_cols', name: 'i32', inputs: [i32([4, 6], int)], attributes: { sizes: [2, 4] }, tolerance: exact },
  { op: 'split_cols', name: 'many chunks', inputs: [float([90, 400])], attributes: { sizes: [100, 300] }, tolerance: exact },
  { op: 'concat_cols', name: 'three parts', inputs: [float([5, 7]), float([5, 1]), float([5, 4])], out: ['float[5,12]'], tolerance: exact, grad: [0, 1, 2] },
  { op: 'concat_cols', name: 'one part', inputs: [bf16([2, 3])], tolerance: exact },
  { op: 'concat_cols', name: 'many chunks', inputs: [float([90, 300]), float([90, 100])], tolerance: exact },
  { op: 'cache_write', name: 'skips -1, the later write wins', inputs: [float([6, 5]), float([4, 5]), i32([4], fixed(5, -1, 2, 2))], out: ['float[6,5]'], tolerance: exact },
  { op: 'cache_write', name: 'out of range is skipped', inputs: [f32([3, 2]), f32([2, 2]), i32([2], fixed(3, 0))], tolerance: exact },
  { op: 'cache_write', name: 'many chunks', inputs: [float([300, 301]), float([9, 301]), i32([9], cycle([290, 3, 150]))], tolerance: exact },
];
