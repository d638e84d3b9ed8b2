/** Rows of the counter-based random ops: masks are equal to the bit, fills to a rounding. */
import { siteHash } from '../../src/ops/random';
import { fixed, float, i32, type OpCase } from './case';
import { tolerance, U_F32 } from './tolerance';

const site = siteHash('model.layers.3.self_attn.q_proj', 1);
const attributes = { site_lo: site.lo, site_hi: site.hi };
const seeds = { seed_lo: 0x9e3779b9, seed_hi: 7, ...attributes };
const rng = i32([4], fixed(-123456789, 42, 17, 3));
const kept = tolerance('1 / (1 - p) is rounded to fp32, then one product', { rel: 2.02 * U_F32 });
const fill = tolerance('f64 arithmetic, one rounding', { rel: 1.01 * U_F32, abs: 1e-12 });

export const cases: readonly OpCase[] = [
  {
    op: 'dropout',
    name: 'odd size',
    inputs: [float([7, 13]), rng],
    attributes: { p: 0.3, ...attributes },
    out: ['float[7,13]'],
    tolerance: kept,
    grad: [0],
  },
  {
    op: 'dropout',
    name: 'one element',
    inputs: [float([1]), rng],
    attributes: { p: 0.5, ...attributes },
    tolerance: kept,
  },
  { op: 'dropout', name: 'p = 0', inputs: [float([30]), rng], attributes: { p: 0, ...attributes }, tolerance: kept },
  {
    op: 'dropout',
    name: 'nearly all',
    inputs: [float([1000]), rng],
    attributes: { p: 0.99, ...attributes },
    tolerance: kept,
  },
  {
    op: 'dropout',
    name: 'many chunks',
    inputs: [float([33, 1001]), rng],
    attributes: { p: 0.05, ...attributes },
    tolerance: kept,
  },
  {
    op: 'random_uniform',
    name: 'odd size',
    inputs: [],
    attributes: { low: -0.5, high: 1.25, ...seeds, shape: [5, 7], dtype: 'float' },
    out: ['float[5,7]'],
    tolerance: fill,
  },
  {
    op: 'random_uniform',
    name: 'many chunks',
    inputs: [],
    attributes: { low: 0, high: 1, ...seeds, shape: [17001], dtype: 'float' },
    tolerance: fill,
  },
  {
    op: 'random_normal',
    name: 'odd size',
    inputs: [],
    attributes: { mean: 0.25, std: 0.02, ...seeds, shape: [5, 7], dtype: 'float' },
    out: ['float[5,7]'],
    tolerance: fill,
  },
  {
    op: 'random_normal',
    name: 'many chunks',
    inputs: [],
    attributes: { mean: 0, std: 1, ...seeds, shape: [17003], dtype: 'float' },
    tolerance: fill,
  },
];
