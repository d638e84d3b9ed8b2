/** XXH64 against what the reference implementation gives (Python's xxhash), in one piece and in many. */
import { XxHash64 } from '../../../src/data/xxhash64';

const KNOWN: [number, string][] = [
  [0, 'ef46db3751d8e999'],
  [1, 'a96c7f0ce858bbb7'],
  [3, '56e6957632a487f9'],
  [4, 'c60d15b1e3ff8f04'],
  [7, 'afbefc3d6c6f9a8e'],
  [8, '3da5c7aa269683e0'],
  [12, '8fe8ab1c1fd0666e'],
  [31, '4a74f3a1a39ad4a1'],
  [32, '8d57d6a4671cc43d'],
  [33, '62c9fd21ed857664'],
  [47, '05e3ab06c6bb0a6b'],
  [64, '7bbabbc45729d17e'],
  [100, 'efa0ad2d3e70c151'],
  [1000, '99594f4828043d35'],
];
const content = Uint8Array.from({ length: 1000 }, (_, i) => i * 31 + 7);

test.each(KNOWN)('%i bytes', (length, expected) => {
  // Pieces of odd lengths begin at every alignment.
  for (const piece of [Infinity, 1, 7, 32, 45]) {
    const hash = new XxHash64();
    for (let from = 0; from < length; from += piece)
      hash.update(content.subarray(from, Math.min(from + piece, length)));
    expect([piece, hash.digest().toString(16).padStart(16, '0')]).toEqual([piece, expected]);
  }
});
