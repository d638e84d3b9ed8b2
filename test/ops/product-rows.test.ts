/**
 * A row of a product has the bits that it has alone, however the product was cut: a row alone is multiplied without
 * panels, tiles, blocks of K or packed rows, so this is a check of all of them that needs no tolerance.
 */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { StateSlot } from '../../src/graph/tensor';
import { input, output, readState, trace } from '../../src/graph/trace';
import { matmul } from '../../src/ops/matmul';
import { Session, type ProgramHandle, type TensorArray } from '../../src/runtime/session';
import { toArray } from './case';

interface Product {
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly transA?: true;
  readonly transB?: true;
}

/** With more than 8 MiB of op(a) in place, K goes block by block; no number of rows below is one of whole tiles of 6. */
const PRODUCTS: readonly (readonly [what: string, product: Product])[] = [
  ['one block of K', { m: 517, k: 100, n: 150, transB: true }],
  ['several blocks of K in one job', { m: 61, k: 5000, n: 131, transB: true }],
  ['block by block over all panels', { m: 137, k: 33000, n: 67 }],
  ['the same with an odd K', { m: 137, k: 33001, n: 67 }],
  ['more rows than one job takes', { m: 1045, k: 4500, n: 67 }],
  ['packed rows', { m: 205, k: 1001, n: 131, transA: true }],
  ['packed rows, several row blocks', { m: 205, k: 21001, n: 67, transA: true }],
];

function values(count: number, seed: number): Float32Array {
  const out = new Float32Array(count);
  let state = seed;
  for (let i = 0; i < count; i++)
    out[i] = ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 8) / 2 ** 23 - 1;
  return out;
}

/** Rows `rows` of op(a) as a stored array of their own. */
function rowsOf(a: Float32Array, { m, k, transA }: Product, rows: readonly number[]): Float32Array {
  const out = new Float32Array(rows.length * k);
  rows.forEach((row, i) => {
    for (let j = 0; j < k; j++)
      out[transA ? j * rows.length + i : i * k + j] = transA ? a[j * m + row] : a[row * k + j];
  });
  return out;
}

describe.each([1, 2])('%d threads', (threads) => {
  let session: Session;
  beforeEach(() => {
    session = Session.create({ threads });
  });
  afterEach(() => session.close());

  describe.each(['bf16', 'f32'] as const)('%s', (dtype) => {
    test.each(PRODUCTS)('%s', async (_what, p) => {
      const b: StateSlot = { name: 'b', shape: p.transB ? [p.n, p.k] : [p.k, p.n], dtype, role: 'weights' };
      session.defineState([b]);
      await session.writeState('b', toArray(dtype, values(p.k * p.n, 2)));
      const load = (m: number): ProgramHandle =>
        session.loadProgram(
          compile(
            trace('product', () => {
              const a = input('a', p.transA ? [p.k, m] : [m, p.k], dtype);
              output(
                'c',
                matmul(a, readState(b), { transA: p.transA, transB: p.transB, compute: dtype, dtype: 'f32' }),
              );
            }),
            { device: deviceSpec('cpu', threads) },
          ).bytes,
        );
      const run = async (program: ProgramHandle, a: TensorArray): Promise<Float32Array> =>
        (await session.run(program, { a })).c as Float32Array;

      const a = values(p.m * p.k, 1);
      const together = await run(load(p.m), toArray(dtype, a));
      const alone = load(1);
      const different: number[] = [];
      for (let row = 0; row < p.m; row += p.k > 4000 ? 3 : 1) {
        const c = await run(alone, toArray(dtype, rowsOf(a, p, [row])));
        const same = together.subarray(row * p.n, (row + 1) * p.n).every((x, j) => Object.is(x, c[j]));
        if (!same) different.push(row);
      }
      expect(different).toEqual([]);
      expect(together.some((x) => x !== 0)).toBe(true);
    });
  });
});
