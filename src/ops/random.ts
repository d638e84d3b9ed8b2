/**
 * Counter-based randomness: Philox4x32-10 (Salmon et al., SC 2011) keyed by seed, step, site and element, so a mask
 * is the same on every device, for every thread count, and when it is recomputed.
 */
import type { DType } from '../graph/dtype';
import { apply } from '../graph/trace';
import type { OpDef } from '../graph/op-def';
import type { Attributes, Tensor, TensorType } from '../graph/tensor';
import { expectCount, expectDtype, expectFloat, expectShape, ndArray, numberOf, streamCost } from './expect';

/** Ten rounds of Philox4x32; all arguments and results are u32. */
export function philox(
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): [number, number, number, number] {
  for (let round = 0; round < 10; round++) {
    const p0 = BigInt(0xd2511f53) * BigInt(c0 >>> 0);
    const p1 = BigInt(0xcd9e8d57) * BigInt(c2 >>> 0);
    const [h0, l0] = [Number(p0 >> 32n), Number(p0 & 0xffffffffn)];
    const [h1, l1] = [Number(p1 >> 32n), Number(p1 & 0xffffffffn)];
    [c0, c1, c2, c3] = [(h1 ^ c1 ^ k0) >>> 0, l1, (h0 ^ c3 ^ k1) >>> 0, l0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** A site is a 64-bit FNV-1a hash of a module path and ordinal: adding a layer does not move other masks. */
export function siteHash(path: string, ordinal = 0): { lo: number; hi: number } {
  let h = 0xcbf29ce484222325n;
  for (const byte of Buffer.from(`${path}#${ordinal}`)) h = ((h ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn;
  return { lo: Number(h & 0xffffffffn), hi: Number(h >> 32n) };
}

/** The words of an element's lane; neighbours share a block, so the last one is kept. */
function wordsOf(c2: number, c3: number, k0: number, k1: number): (group: number) => readonly number[] {
  let last = -1;
  let words: readonly number[] = [];
  return (group) => {
    if (group !== last) [last, words] = [group, philox(group >>> 0, Math.floor(group / 2 ** 32), c2, c3, k0, k1)];
    return words;
  };
}

const dropoutDef: OpDef = {
  name: 'dropout',
  infer(x, a) {
    expectCount('dropout', x, 2);
    expectFloat('dropout', 'x', x[0]);
    expectDtype('dropout', 'rng', x[1], 'i32');
    expectShape('dropout', 'rng', x[1], [4]);
    numberOf('dropout', a, 'p');
    return [x[0]];
  },
  vjp: ({ inputs: [, rng], attributes, cotangents: [dy] }) => [apply(dropoutDef, [dy!, rng], attributes)[0], null],
  reference([x, rng], a) {
    const keep = 1 - (a.p as number);
    const limit = Math.floor(keep * 2 ** 32);
    const [seedLo, seedHi, step, micro] = Array.from(rng.data, (v) => v >>> 0);
    const words = wordsOf(step, micro, (seedLo ^ (a.site_lo as number)) >>> 0, (seedHi ^ (a.site_hi as number)) >>> 0);
    return [ndArray(x.shape, (i) => (words(Math.floor(i / 4))[i % 4] < limit ? x.data[i] / keep : 0))];
  },
  cost: (x) => streamCost([x[0]], [x[0]], 12),
  mayAlias: () => [[0, 0]],
  recompute: 'cheap',
};

function randomDef(name: 'random_uniform' | 'random_normal'): OpDef {
  return {
    name,
    infer(x, a) {
      expectCount(name, x, 0);
      return [{ shape: a.shape as number[], dtype: a.dtype as DType }];
    },
    reference(_x, a) {
      const shape = a.shape as number[];
      const words = wordsOf(
        0,
        0,
        ((a.seed_lo as number) ^ (a.site_lo as number)) >>> 0,
        ((a.seed_hi as number) ^ (a.site_hi as number)) >>> 0,
      );
      return [
        ndArray(shape, (i) => {
          const u = words(Math.floor(i / 4));
          const lane = i % 4;
          if (name === 'random_uniform')
            return (a.low as number) + ((a.high as number) - (a.low as number)) * ((u[lane] >>> 8) * 2 ** -24);
          const pair = lane & 2;
          const radius = Math.sqrt(-2 * Math.log((u[pair] + 0.5) * 2 ** -32));
          const angle = 2 * Math.PI * ((u[pair + 1] + 0.5) * 2 ** -32);
          return (a.mean as number) + (a.std as number) * radius * (lane % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
        }),
      ];
    },
    cost: (_x, a) => streamCost([], [{ shape: a.shape as number[], dtype: a.dtype as DType }], 20),
    typeAttributes: ['shape', 'dtype'],
  };
}

const randomUniformDef = randomDef('random_uniform');
const randomNormalDef = randomDef('random_normal');

export const randomOps = { dropout: dropoutDef, random_uniform: randomUniformDef, random_normal: randomNormalDef };

/** Zeroes elements with probability p and scales the rest by 1/(1-p). rng i32 `[4]`: seed lo, seed hi, step, micro-batch. */
export function dropout(x: Tensor, rng: Tensor, p: number, path: string, ordinal = 0): Tensor {
  if (p === 0) return x;
  const site = siteHash(path, ordinal);
  return apply(dropoutDef, [x, rng], { p, site_lo: site.lo, site_hi: site.hi })[0];
}

function keyed(type: TensorType, seed: number, path: string): Attributes {
  const site = siteHash(path);
  return {
    seed_lo: seed >>> 0,
    seed_hi: Math.floor(seed / 2 ** 32) >>> 0,
    site_lo: site.lo,
    site_hi: site.hi,
    shape: [...type.shape],
    dtype: type.dtype,
  };
}

/** U(low, high) for the given seed and site. */
export const randomUniform = (type: TensorType, low: number, high: number, seed: number, path: string): Tensor =>
  apply(randomUniformDef, [], { low, high, ...keyed(type, seed, path) })[0];
/** N(mean, std) for the given seed and site. */
export const randomNormal = (type: TensorType, mean: number, std: number, seed: number, path: string): Tensor =>
  apply(randomNormalDef, [], { mean, std, ...keyed(type, seed, path) })[0];
