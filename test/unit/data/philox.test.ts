/** Philox4x32-10 against Random123's known answers, and what is built on it. */
import fc from 'fast-check';
import { permutation, philox4x32, PhiloxStream } from '../../../src/data';

const hex = (words: Uint32Array): string => Array.from(words, (w) => w.toString(16).padStart(8, '0')).join(' ');

describe('philox4x32', () => {
  test.each([
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [[0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff], [0xffffffff, 0xffffffff], '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], 'd16cfe09 94fdcceb 5001e420 24126ea1'],
  ])('known answer %#', (counter, key, expected) => {
    const out = new Uint32Array(4);
    philox4x32(counter, key, out);
    expect(hex(out)).toBe(expected);
  });

  test('agrees with the definition in 64-bit integers', () => {
    const word = fc.integer({ min: 0, max: 0xffffffff });
    fc.assert(
      fc.property(fc.tuple(word, word, word, word), fc.tuple(word, word), (counter, key) => {
        const out = new Uint32Array(4);
        philox4x32(counter, key, out);
        expect(Array.from(out)).toEqual(philoxBigInt(counter, key));
      }),
    );
  });
});

function philoxBigInt(counter: number[], key: number[]): number[] {
  let [c0, c1, c2, c3] = counter.map(BigInt);
  let [k0, k1] = key.map(BigInt);
  const mask = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c0;
    const p1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & mask, (p0 >> 32n) ^ c3 ^ k1, p0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map(Number);
}

describe('PhiloxStream', () => {
  test('is the block function counted up', () => {
    const stream = new PhiloxStream(7, 3, 5);
    const out = new Uint32Array(4);
    for (let block = 0; block < 3; block++) {
      philox4x32([block, 0, 3, 5], [7, 0], out);
      for (const word of out) expect(stream.uint32()).toBe(word);
    }
  });

  test('below is uniform enough and in range', () => {
    const stream = new PhiloxStream(1, 1);
    const counts = new Array<number>(6).fill(0);
    for (let i = 0; i < 60000; i++) counts[stream.below(6)]++;
    // 5 degrees of freedom: chi-square above 20.5 has p = 0.001.
    const chiSquare = counts.reduce((sum, count) => sum + (count - 10000) ** 2 / 10000, 0);
    expect(chiSquare).toBeLessThan(20.5);
  });

  test('below reaches the largest ranges', () => {
    const stream = new PhiloxStream(1, 2);
    let top = 0;
    for (let i = 0; i < 1000; i++) top = Math.max(top, stream.below(2 ** 32));
    expect(top).toBeGreaterThan(2 ** 31);
    expect(stream.below(1)).toBe(0);
  });

  test('seeds beyond 32 bits differ; bad seeds are refused', () => {
    expect(new PhiloxStream(2 ** 32, 1).uint32()).not.toBe(new PhiloxStream(0, 1).uint32());
    expect(() => new PhiloxStream(-1, 1)).toThrow(expect.objectContaining({ code: 'ERR_CONFIG' }));
    expect(() => new PhiloxStream(0.5, 1)).toThrow(/whole number/);
  });

  test('permutation holds every index once and depends on the seed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 300 }), fc.integer({ min: 0, max: 2 ** 40 }), (n, seed) => {
        const order = permutation(n, new PhiloxStream(seed, 1));
        expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(permutation(n, new PhiloxStream(seed, 1))).toEqual(order);
      }),
    );
    expect(permutation(50, new PhiloxStream(1, 1))).not.toEqual(permutation(50, new PhiloxStream(2, 1)));
  });
});
