/** Half precision: every f16 and bf16 value both ways, and rounding against a search for the nearest. */
import fc from 'fast-check';
import { decodeFloats, encodeFloats, floatToBf16, floatToF16 } from '../../../src/io/float-codec';
import { bf16ToFloat, f16ToFloat } from '../../../src/io/half';
import { errorOf } from './fixtures';

const formats = [
  { name: 'F16', decode: f16ToFloat, encode: floatToF16, infinity: 0x7c00, quiet: 0x0200 },
  { name: 'BF16', decode: bf16ToFloat, encode: floatToBf16, infinity: 0x7f80, quiet: 0x0040 },
] as const;

describe.each(formats)('$name', ({ name, decode, encode, infinity, quiet }) => {
  test('all 65536 bit patterns survive a round trip; NaN stays NaN', () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = decode(bits);
      if ((bits & 0x7fff) > infinity) {
        expect(value).toBeNaN();
        expect((encode(value) & 0x7fff) > infinity && (encode(value) & quiet) !== 0).toBe(true);
      } else if (encode(value) !== bits) throw new Error(`${bits.toString(16)} became ${encode(value).toString(16)}`);
    }
  });

  test('values between two neighbours go to the nearer one, ties to the even one', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: infinity - 2 }),
        fc.integer({ min: 0, max: 16 }),
        fc.boolean(),
        (bits, sixteenths, negative) => {
          const [low, high] = [decode(bits), decode(bits + 1)];
          const value = low + ((high - low) * sixteenths) / 16;
          if (Math.fround(value) !== value) return;
          const expected = sixteenths < 8 ? bits : sixteenths > 8 ? bits + 1 : bits + (bits & 1);
          expect(encode(negative ? -value : value)).toBe(negative ? expected | 0x8000 : expected);
        },
      ),
      { numRuns: 3000 },
    );
  });

  test('overflow, underflow, signed zero', () => {
    const largest = decode(infinity - 1);
    const half = (largest - decode(infinity - 2)) / 2;
    expect(encode(largest + half * 0.99)).toBe(infinity - 1);
    expect(encode(largest + half)).toBe(infinity);
    expect(encode(-Infinity)).toBe(infinity | 0x8000);
    expect(encode(decode(1) / 2)).toBe(0);
    expect(encode(decode(1) * 0.51)).toBe(1);
    expect(encode(-0)).toBe(0x8000);
  });

  test('arrays', () => {
    const values = new Float32Array([0, 1, -2.5, 0.375]);
    expect(decodeFloats(name, encodeFloats(name, values))).toEqual(values);
  });
});

test('float64 narrows, integers are refused', async () => {
  expect(decodeFloats('F64', new Uint8Array(new Float64Array([0.1, -3]).buffer))).toEqual(new Float32Array([0.1, -3]));
  const error = await errorOf(() => decodeFloats('I32', new Uint8Array(4), 'x'));
  expect(error).toMatchObject({ code: 'ERR_UNSUPPORTED', at: 'x' });
});
