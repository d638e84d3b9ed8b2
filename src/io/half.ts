/** f16 and bf16 bits to numbers: exact, subnormals and NaN payload sign included. */

const scratch = new DataView(new ArrayBuffer(4));

/** The value of IEEE binary16 bits. */
export function f16ToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The value of bfloat16 bits: the upper half of a float32. */
export function bf16ToFloat(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** The value of a little-endian f16 at byte `i`. */
export function halfAt(bytes: Uint8Array, i: number): number {
  return f16ToFloat(bytes[i] | (bytes[i + 1] << 8));
}
