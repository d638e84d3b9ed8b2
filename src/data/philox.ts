/**
 * Counter-based random numbers for everything the data layer draws: Philox4x32-10 (Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011).
 *
 * The idea: a draw is a pure function of (seed, domain, stream, index), so the order of an epoch can be recomputed
 * at any time without storing generator state, and two uses of one seed never share numbers.
 *
 * Invariants: all arithmetic is exact in 32-bit integers, so results are equal on every platform and Node version.
 */
import { LatheError } from '../errors';

const kMul0 = 0xd2511f53;
const kMul1 = 0xcd9e8d57;
const kWeyl0 = 0x9e3779b9;
const kWeyl1 = 0xbb67ae85;
const kRounds = 10;

/** What a stream of numbers is for: the third counter word, so that equal seeds do not correlate across uses. */
export const RANDOM_DOMAIN = { shuffle: 1, split: 2, epoch: 3, buffer: 4, interleave: 5, shards: 6, mlm: 7 } as const;

/** High 32 bits of the 64-bit product of two unsigned 32-bit integers. */
function mulHigh(a: number, b: number): number {
  const aHigh = a >>> 16;
  const aLow = a & 0xffff;
  const bHigh = b >>> 16;
  const bLow = b & 0xffff;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0;
}

/**
 * One Philox4x32-10 block: four random words from a 128-bit counter and a 64-bit key.
 * @param counter four u32 words @param key two u32 words @param out receives four u32 words (may be `counter`)
 */
export function philox4x32(counter: ArrayLike<number>, key: ArrayLike<number>, out: Uint32Array): void {
  let c0 = counter[0] >>> 0;
  let c1 = counter[1] >>> 0;
  let c2 = counter[2] >>> 0;
  let c3 = counter[3] >>> 0;
  let k0 = key[0] >>> 0;
  let k1 = key[1] >>> 0;
  for (let round = 0; round < kRounds; round++) {
    const high0 = mulHigh(kMul0, c0);
    const low0 = Math.imul(kMul0, c0) >>> 0;
    const high1 = mulHigh(kMul1, c2);
    const low1 = Math.imul(kMul1, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + kWeyl0) >>> 0;
    k1 = (k1 + kWeyl1) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** A stream of numbers drawn in order; cheap to make, so make one per (seed, domain, stream) instead of sharing. */
export class PhiloxStream {
  private readonly key: [number, number];
  private readonly counter: Uint32Array;
  private readonly block = new Uint32Array(4);
  private used = 4;

  /** @throws ERR_CONFIG unless `seed` is an integer in 0 .. 2^53 - 1 */
  constructor(seed: number, domain: number, stream = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0) {
      throw new LatheError('ERR_CONFIG', `seed: expected an integer from 0 to 2^53 - 1, received ${seed}`, {
        remedy: 'pass a non-negative whole number, e.g. 42',
      });
    }
    this.key = [seed >>> 0, Math.floor(seed / 2 ** 32)];
    this.counter = Uint32Array.of(0, 0, domain, stream);
  }

  /** Numbers drawn so far; setting it goes there at once. */
  get position(): number {
    const blocks = this.counter[1] * 2 ** 32 + this.counter[0];
    return blocks * 4 - (4 - this.used);
  }

  set position(drawn: number) {
    const block = Math.floor(drawn / 4);
    this.counter[0] = block >>> 0;
    this.counter[1] = Math.floor(block / 2 ** 32);
    this.used = 4;
    for (let left = drawn % 4; left > 0; left--) this.uint32();
  }

  /** Uniform in 0 .. 2^32 - 1. */
  uint32(): number {
    if (this.used === 4) {
      philox4x32(this.counter, this.key, this.block);
      this.counter[0]++;
      if (this.counter[0] === 0) this.counter[1]++;
      this.used = 0;
    }
    return this.block[this.used++];
  }

  /** Uniform integer in 0 .. n - 1, without bias (rejection under the next power of two). n in 1 .. 2^32. */
  below(n: number): number {
    if (n <= 1) return 0;
    const mask = 0xffffffff >>> Math.clz32(n - 1);
    for (;;) {
      const draw = (this.uint32() & mask) >>> 0;
      if (draw < n) return draw;
    }
  }

  /** Uniform double in [0, 1) with 53 random bits. */
  uniform(): number {
    const high = this.uint32() >>> 5;
    const low = this.uint32() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }
}

/** A uniformly random order of 0 .. n - 1 (Fisher-Yates from the end). */
export function permutation(n: number, random: PhiloxStream): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = random.below(i + 1);
    const swap = order[i];
    order[i] = order[j];
    order[j] = swap;
  }
  return order;
}
