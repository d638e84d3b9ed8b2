/**
 * Half precision formats to and from float32, and a tensor's bytes as a Float32Array.
 *
 * The slow, readable truth for tests and scripts: no weight of a run passes through here, the engine decodes natively. Decoding is
 * exact; encoding rounds to nearest, ties to even, overflows to infinity and keeps NaN quiet, as PyTorch's `.to()` does.
 */
import { LatheError } from '../errors';
import { dequantizeGgml, isDequantizable } from './gguf/dequantize';
import { bf16ToFloat, f16ToFloat } from './half';
import { STORAGE_TYPES, describeSource, readTensorBytes, type StorageType, type TensorSource } from './tensor-source';

export type FloatStorage = 'F32' | 'F16' | 'BF16';

const scratch = new DataView(new ArrayBuffer(4));

function floatBits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

/** The bf16 bits nearest to a number (rounded to float32 first). */
export function floatToBf16(value: number): number {
  const bits = floatBits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x0040;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** The f16 bits nearest to a number (rounded to float32 first). */
export function floatToF16(value: number): number {
  const bits = floatBits(value);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  // 65520 is the first value that rounds up to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
    return sign | ((rounded - 0x38000000) >>> 13);
  }
  // Subnormal: a multiple of 2^-24. The scaled value is exact in a double, so only the final rounding counts.
  const scaled = Math.abs(Math.fround(value)) * 2 ** 24;
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  const up = rest > 0.5 || (rest === 0.5 && floor % 2 === 1);
  return sign | (up ? floor + 1 : floor);
}

/** Bytes of a F32, F16, BF16, F64 or ggml block tensor as float32 values. */
export function decodeFloats(dtype: StorageType, bytes: Uint8Array, at?: string): Float32Array {
  if (isDequantizable(dtype)) return dequantizeGgml(dtype, bytes);
  if (dtype !== 'F64') {
    const accepted = Object.keys(STORAGE_TYPES).filter(
      (name) => isDequantizable(name as StorageType) || name === 'F64',
    );
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected a floating-point or block-quantised tensor (${accepted.join(', ')}), received ${dtype}`,
      {
        at,
        remedy: 'convert the checkpoint to BF16 or F32 with the tool that wrote it',
      },
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from({ length: bytes.length / 8 }, (_, i) => view.getFloat64(i * 8, true));
}

/** Float32 values as the bytes of a F32, F16 or BF16 tensor. */
export function encodeFloats(dtype: FloatStorage, values: Float32Array): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const encode = dtype === 'F16' ? floatToF16 : floatToBf16;
  const words = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) words[i] = encode(values[i]);
  return new Uint8Array(words.buffer);
}

/** Reads and decodes one tensor. */
export async function readTensorFloats(source: TensorSource): Promise<Float32Array> {
  return decodeFloats(source.dtype, await readTensorBytes(source), describeSource(source));
}

export { bf16ToFloat, f16ToFloat };
