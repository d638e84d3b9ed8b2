/**
 * ggml block formats to float32: the slow, readable truth that native kernels are checked against.
 *
 * The idea: a decoder expands one block into `out`; everything else is a loop over blocks. Arithmetic is float32
 * with one rounding per operation, in the order of gguf-py, so results match that library bit for bit (and may
 * differ in the last bit from a kernel that fuses multiply and add).
 *
 * Source: gguf-py quants.py, ggml-quants.c. The K formats stand in ./k-quants.
 */
import { LatheError } from '../../errors';
import { bf16ToFloat, halfAt } from '../half';
import { STORAGE_TYPES, type StorageType } from '../tensor-source';
import { dequantizeQ2K, dequantizeQ3K, dequantizeQ4K, dequantizeQ5K, dequantizeQ6K } from './k-quants';

/** Reads one block at `b`, writes its elements at `o`. */
export type BlockDecoder = (bytes: Uint8Array, b: number, out: Float32Array, o: number) => void;

const dequantizeF32: BlockDecoder = (bytes, b, out, o) => {
  out[o] = new DataView(bytes.buffer, bytes.byteOffset + b, 4).getFloat32(0, true);
};

const dequantizeF16: BlockDecoder = (bytes, b, out, o) => {
  out[o] = halfAt(bytes, b);
};

const dequantizeBf16: BlockDecoder = (bytes, b, out, o) => {
  out[o] = bf16ToFloat(bytes[b] | (bytes[b + 1] << 8));
};

/** f16 d; 32 nibbles, the low ones first: d * (q - 8). */
const dequantizeQ40: BlockDecoder = (bytes, b, out, o) => {
  const d = halfAt(bytes, b);
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 2 + i];
    out[o + i] = d * ((byte & 15) - 8);
    out[o + 16 + i] = d * ((byte >> 4) - 8);
  }
};

/** f16 d, m; 32 nibbles: d * q + m. */
const dequantizeQ41: BlockDecoder = (bytes, b, out, o) => {
  const d = halfAt(bytes, b);
  const m = halfAt(bytes, b + 2);
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 4 + i];
    out[o + i] = Math.fround(d * (byte & 15)) + m;
    out[o + 16 + i] = Math.fround(d * (byte >> 4)) + m;
  }
};

/** Fifth bit of element i: bit i of a little-endian u32 at byte `b`, shifted to its place. */
function fifthBit(bytes: Uint8Array, b: number, i: number): number {
  return ((bytes[b + (i >> 3)] >> (i & 7)) & 1) << 4;
}

/** f16 d; 32 high bits; 32 nibbles: d * (q - 16). */
const dequantizeQ50: BlockDecoder = (bytes, b, out, o) => {
  const d = halfAt(bytes, b);
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 6 + i];
    out[o + i] = d * (((byte & 15) | fifthBit(bytes, b + 2, i)) - 16);
    out[o + 16 + i] = d * (((byte >> 4) | fifthBit(bytes, b + 2, i + 16)) - 16);
  }
};

/** f16 d, m; 32 high bits; 32 nibbles: d * q + m. */
const dequantizeQ51: BlockDecoder = (bytes, b, out, o) => {
  const d = halfAt(bytes, b);
  const m = halfAt(bytes, b + 2);
  for (let i = 0; i < 16; i++) {
    const byte = bytes[b + 8 + i];
    out[o + i] = Math.fround(d * ((byte & 15) | fifthBit(bytes, b + 4, i))) + m;
    out[o + 16 + i] = Math.fround(d * ((byte >> 4) | fifthBit(bytes, b + 4, i + 16))) + m;
  }
};

/** f16 d; 32 signed bytes: d * q. */
const dequantizeQ80: BlockDecoder = (bytes, b, out, o) => {
  const d = halfAt(bytes, b);
  for (let i = 0; i < 32; i++) out[o + i] = d * ((bytes[b + 2 + i] << 24) >> 24);
};

const DECODERS = {
  F32: dequantizeF32,
  F16: dequantizeF16,
  BF16: dequantizeBf16,
  Q4_0: dequantizeQ40,
  Q4_1: dequantizeQ41,
  Q5_0: dequantizeQ50,
  Q5_1: dequantizeQ51,
  Q8_0: dequantizeQ80,
  Q2_K: dequantizeQ2K,
  Q3_K: dequantizeQ3K,
  Q4_K: dequantizeQ4K,
  Q5_K: dequantizeQ5K,
  Q6_K: dequantizeQ6K,
} satisfies Partial<Record<StorageType, BlockDecoder>>;

export type DequantizableType = keyof typeof DECODERS;

export function isDequantizable(dtype: StorageType): dtype is DequantizableType {
  return Object.hasOwn(DECODERS, dtype);
}

/**
 * Whole blocks of a ggml type as float32 values, in storage order.
 * @throws LatheError ERR_UNSUPPORTED for a type without a decoder, ERR_SHAPE for a partial block
 */
export function dequantizeGgml(dtype: StorageType, bytes: Uint8Array): Float32Array {
  if (!isDequantizable(dtype)) {
    throw new LatheError('ERR_UNSUPPORTED', `expected one of ${Object.keys(DECODERS).join(', ')}, received ${dtype}`, {
      remedy: 'quantise the model to a supported type with llama.cpp',
    });
  }
  const { blockElements, blockBytes } = STORAGE_TYPES[dtype];
  if (bytes.length % blockBytes !== 0) {
    throw new LatheError(
      'ERR_SHAPE',
      `expected a multiple of ${blockBytes} bytes for ${dtype}, received ${bytes.length}`,
      { remedy: 'give whole blocks' },
    );
  }
  const blocks = bytes.length / blockBytes;
  const out = new Float32Array(blocks * blockElements);
  const decode = DECODERS[dtype];
  for (let i = 0; i < blocks; i++) decode(bytes, i * blockBytes, out, i * blockElements);
  return out;
}
