/**
 * The K formats: 256 elements in sub-blocks of 16 or 32, whose scales are themselves quantised.
 *
 * Each function documents its block's layout; all arithmetic is float32, rounded once per operation.
 * Source: gguf-py quants.py, ggml-quants.c (`block_q2_K` ... `block_q6_K`).
 */
import { halfAt } from '../half';

const { fround } = Math;

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

/** scales[16] (low nibble scale, high nibble min), 2-bit q[64], f16 d, f16 dmin: d*scale*q - dmin*min per 16 elements. */
export function dequantizeQ2K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const q = b + 16;
  const d = halfAt(bytes, b + 80);
  const dmin = halfAt(bytes, b + 82);
  for (let sub = 0; sub < 16; sub++) {
    const scale = fround(d * (bytes[b + sub] & 15));
    const min = fround(dmin * (bytes[b + sub] >> 4));
    // Two halves of 128 elements; in each, four bit planes of 32 over the same 32 bytes.
    const base = q + (sub >> 3) * 32 + (sub & 1) * 16;
    const shift = ((sub >> 1) & 3) * 2;
    for (let i = 0; i < 16; i++) out[o + sub * 16 + i] = fround(scale * ((bytes[base + i] >> shift) & 3)) - min;
  }
}

/** Scale of sub-block `j` (0..15) of Q3_K, packed 6 bits each in 12 bytes: low nibbles in 8 bytes, then high pairs in 4. */
function scaleQ3K(bytes: Uint8Array, s: number, j: number): number {
  const low = (bytes[s + (j & 7)] >> (j < 8 ? 0 : 4)) & 15;
  const high = (bytes[s + 8 + (j & 3)] >> ((j >> 2) * 2)) & 3;
  return (low | (high << 4)) - 32;
}

/** hmask[32], 2-bit q[64], 6-bit scales[12], f16 d: d*scale*(q - 4 where the mask bit is 0). */
export function dequantizeQ3K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const q = b + 32;
  const d = halfAt(bytes, b + 108);
  for (let sub = 0; sub < 16; sub++) {
    const scale = fround(d * scaleQ3K(bytes, b + 96, sub));
    const base = q + (sub >> 3) * 32 + (sub & 1) * 16;
    const shift = ((sub >> 1) & 3) * 2;
    // The mask runs over the same 32 bytes in both halves, one bit per plane of 32 elements.
    const mask = b + (sub & 1) * 16;
    const plane = sub >> 1;
    for (let i = 0; i < 16; i++) {
      const offset = (bytes[mask + i] >> plane) & 1 ? 0 : 4;
      out[o + sub * 16 + i] = scale * (((bytes[base + i] >> shift) & 3) - offset);
    }
  }
}

/** Scale of sub-block `j` (0..7) of Q4_K and Q5_K: 6 bits, the last four split over two bytes. */
function scaleQ45K(bytes: Uint8Array, s: number, j: number): number {
  return j < 4 ? bytes[s + j] & 63 : (bytes[s + 4 + j] & 15) | ((bytes[s + j - 4] >> 2) & 48);
}

function minQ45K(bytes: Uint8Array, s: number, j: number): number {
  return j < 4 ? bytes[s + 4 + j] & 63 : (bytes[s + 4 + j] >> 4) | ((bytes[s + j] >> 2) & 48);
}

/** f16 d, dmin; 6-bit scales and mins[12]; nibbles[128]: d*scale*q - dmin*min per 32 elements. */
export function dequantizeQ4K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const d = halfAt(bytes, b);
  const dmin = halfAt(bytes, b + 2);
  for (let sub = 0; sub < 8; sub++) {
    const scale = fround(d * scaleQ45K(bytes, b + 4, sub));
    const min = fround(dmin * minQ45K(bytes, b + 4, sub));
    const base = b + 16 + (sub >> 1) * 32;
    const shift = (sub & 1) * 4;
    for (let i = 0; i < 32; i++) out[o + sub * 32 + i] = fround(scale * ((bytes[base + i] >> shift) & 15)) - min;
  }
}

/** As Q4_K with a fifth bit: f16 d, dmin; scales[12]; high bits[32], one bit per sub-block; nibbles[128]. */
export function dequantizeQ5K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const d = halfAt(bytes, b);
  const dmin = halfAt(bytes, b + 2);
  for (let sub = 0; sub < 8; sub++) {
    const scale = fround(d * scaleQ45K(bytes, b + 4, sub));
    const min = fround(dmin * minQ45K(bytes, b + 4, sub));
    const base = b + 48 + (sub >> 1) * 32;
    const shift = (sub & 1) * 4;
    for (let i = 0; i < 32; i++) {
      const high = ((bytes[b + 16 + i] >> sub) & 1) << 4;
      out[o + sub * 32 + i] = fround(scale * (((bytes[base + i] >> shift) & 15) | high)) - min;
    }
  }
}

/** Low nibbles[128], high pairs[64], signed scales[16], f16 d: d*scale*(q - 32) per 16 elements. */
export function dequantizeQ6K(bytes: Uint8Array, b: number, out: Float32Array, o: number): void {
  const high = b + 128;
  const d = halfAt(bytes, b + 208);
  for (let sub = 0; sub < 16; sub++) {
    const scale = fround(d * signed(bytes[b + 192 + sub]));
    for (let i = 0; i < 16; i++) {
      // Halves of 128: nibbles run over 64 bytes (low, then high), the pairs over 32 bytes in four planes.
      const element = (sub & 7) * 16 + i;
      const half = sub >> 3;
      const low = (bytes[b + half * 64 + (element & 63)] >> (element < 64 ? 0 : 4)) & 15;
      const pair = (bytes[high + half * 32 + (element & 31)] >> ((element >> 5) * 2)) & 3;
      out[o + sub * 16 + i] = scale * ((low | (pair << 4)) - 32);
    }
  }
}
