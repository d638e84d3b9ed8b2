/**
 * 4-bit quantisation: NF4 and FP4 in blocks of 64 with optional double quantisation, and GGUF's block formats.
 *
 * Tables, packing and rounding are bitsandbytes' (first element in the high nibble; code = number of
 * thresholds below x; nested scales use the signed dynamic map in blocks of 256). Source: QLoRA, arXiv 2305.14314.
 */
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import { apply } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import { elementCount, typeBytes, type Attributes, type Tensor, type TensorType } from '../graph/tensor';
import {
  expectCount,
  expectDtype,
  expectFloat,
  expectRank,
  expectShape,
  expectType,
  ndArray,
  numberOf,
  streamCost,
  stringOf,
} from './expect';
import { DYNAMIC_MAP_SIGNED } from './quant-tables';

export const BLOCK = 64;
export const NESTED_BLOCK = 256;

export type QuantType = 'nf4' | 'fp4';

/** Tensors that stand for matmul's b by `quant` code: dense, nf4, nf4 nested, fp4, fp4 nested. */
export const QUANT_PARTS = [1, 2, 4, 2, 4] as const;

export function quantCode(type: QuantType, nested: boolean): number {
  return (type === 'nf4' ? 1 : 3) + (nested ? 1 : 0);
}

export const NF4 = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
];
const NF4_THRESHOLDS = [
  -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
  -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
  0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
];
const FP4_MAGNITUDES = [0, 0.0625 / 12, 8 / 12, 1, 4 / 12, 6 / 12, 2 / 12, 3 / 12].map(Math.fround);
export const FP4 = [...FP4_MAGNITUDES, ...FP4_MAGNITUDES.map((v) => -v)];
const FP4_STEPS: readonly (readonly [number, number])[] = [
  [0.00260417, 1],
  [0.0859375, 6],
  [0.20833333, 7],
  [0.29166667, 4],
  [0.4166667, 5],
  [0.583333, 2],
  [0.8333333, 3],
];

function encode(type: QuantType, x: number): number {
  if (type === 'nf4') {
    let code = 0;
    for (const t of NF4_THRESHOLDS) if (x > Math.fround(t)) code++;
    return code;
  }
  let code = 0;
  for (const [t, c] of FP4_STEPS) if (Math.abs(x) > Math.fround(t)) code = c;
  return code + (x < 0 ? 8 : 0);
}

const f = Math.fround;

/** Bit-exact 4-bit quantisation in fp32 arithmetic. */
function quantize4bitReference(type: QuantType, data: Float64Array): { packed: Float64Array; absmax: Float64Array } {
  const packed = new Float64Array(Math.ceil(data.length / 2));
  const absmax = new Float64Array(Math.ceil(data.length / BLOCK));
  for (let b = 0; b < absmax.length; b++) {
    const end = Math.min(data.length, (b + 1) * BLOCK);
    let max = 0;
    for (let i = b * BLOCK; i < end; i++) max = Math.max(max, Math.abs(f(data[i])));
    absmax[b] = f(max);
    const inverse = f(1 / Math.max(f(max), f(1e-38)));
    for (let i = b * BLOCK; i < end; i++) {
      const code = encode(type, f(f(data[i]) * inverse));
      packed[i >> 1] += i % 2 === 0 ? code * 16 : code;
    }
  }
  // The unused low nibble of an odd tail holds the code of 0.
  if (data.length % 2 === 1) packed[packed.length - 1] += encode(type, 0);
  return { packed, absmax };
}

function nearestSigned(x: number): number {
  // Binary search for the nearest entry; a tie keeps the lower code.
  let low = 0;
  let high = 255;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (x > f((f(DYNAMIC_MAP_SIGNED[mid]) + f(DYNAMIC_MAP_SIGNED[mid + 1])) * 0.5)) low = mid + 1;
    else high = mid;
  }
  return low;
}

const quantize4bitDef: OpDef = {
  name: 'quantize_4bit',
  infer(x, a) {
    expectCount('quantize_4bit', x, 1);
    expectDtype('quantize_4bit', 'x', x[0], 'f32', 'bf16', 'f16');
    stringOf('quantize_4bit', a, 'type');
    const n = elementCount(x[0].shape);
    return [
      { shape: [Math.ceil(n / 2)], dtype: 'u8' },
      { shape: [Math.ceil(n / BLOCK)], dtype: 'f32' },
    ];
  },
  reference([x], a) {
    const { packed, absmax } = quantize4bitReference(a.type as QuantType, x.data);
    return [
      { shape: [packed.length], data: packed },
      { shape: [absmax.length], data: absmax },
    ];
  },
  cost: (x) => streamCost(x, [], 8),
};

const quantizeAbsmaxDef: OpDef = {
  name: 'quantize_absmax',
  infer(x) {
    expectCount('quantize_absmax', x, 1);
    expectDtype('quantize_absmax', 'absmax', x[0], 'f32');
    expectRank('quantize_absmax', 'absmax', x[0], 1);
    const [nb] = x[0].shape;
    return [
      { shape: [nb], dtype: 'u8' },
      { shape: [Math.ceil(nb / NESTED_BLOCK)], dtype: 'f32' },
      { shape: [1], dtype: 'f32' },
    ];
  },
  reference([x]) {
    const nb = x.data.length;
    const offset = f(x.data.reduce((s, v) => s + v, 0) / nb);
    const nested = ndArray([Math.ceil(nb / NESTED_BLOCK)]);
    const codes = ndArray([nb]);
    for (let b = 0; b < nested.data.length; b++) {
      const end = Math.min(nb, (b + 1) * NESTED_BLOCK);
      let max = 0;
      for (let i = b * NESTED_BLOCK; i < end; i++) max = Math.max(max, Math.abs(f(x.data[i] - offset)));
      nested.data[b] = f(max);
      const inverse = f(1 / Math.max(f(max), f(1e-38)));
      for (let i = b * NESTED_BLOCK; i < end; i++) codes.data[i] = nearestSigned(f(f(x.data[i] - offset) * inverse));
    }
    return [codes, nested, ndArray([1], () => offset)];
  },
  cost: (x) => streamCost(x, [], 20),
};

/** fp32 scale of block b from its parts: plain, or map[code] * nested + offset. */
function blockScale(parts: readonly NdArray[], b: number): number {
  if (parts.length === 1) return parts[0].data[b];
  const [codes, nested, offset] = parts;
  return f(f(f(DYNAMIC_MAP_SIGNED[codes.data[b]]) * nested.data[Math.floor(b / NESTED_BLOCK)]) + offset.data[0]);
}

/** Checks the tensors that stand for n quantised values. */
export function expectParts(op: string, parts: readonly TensorType[], n: number, nested: boolean): void {
  const nb = Math.ceil(n / BLOCK);
  expectType(op, 'packed', parts[0], 'u8', [Math.ceil(n / 2)]);
  expectType(op, 'absmax', parts[1], nested ? 'u8' : 'f32', [nb]);
  if (!nested) return;
  expectType(op, 'nested_absmax', parts[2], 'f32', [Math.ceil(nb / NESTED_BLOCK)]);
  expectType(op, 'nested_offset', parts[3], 'f32', [1]);
}

/** The fp32 matrix that parts stand for, to the bit. */
export function dequantizeReference(
  [packed, ...scales]: readonly NdArray[],
  type: QuantType,
  rows: number,
  cols: number,
): NdArray {
  const table = type === 'nf4' ? NF4 : FP4;
  return ndArray([rows, cols], (i) => {
    const byte = packed.data[i >> 1];
    return f(f(table[i % 2 === 0 ? byte >> 4 : byte & 15]) * blockScale(scales, Math.floor(i / BLOCK)));
  });
}

const dequantize4bitDef: OpDef = {
  name: 'dequantize_4bit',
  infer(x, a) {
    const nested = numberOf('dequantize_4bit', a, 'nested') === 1;
    expectCount('dequantize_4bit', x, nested ? 4 : 2);
    const n = numberOf('dequantize_4bit', a, 'rows') * numberOf('dequantize_4bit', a, 'cols');
    expectParts('dequantize_4bit', x, n, nested);
    const type: TensorType = { shape: [a.rows as number, a.cols as number], dtype: a.dtype as DType };
    expectFloat('dequantize_4bit', 'the result', type);
    return [type];
  },
  reference: (parts, a) => [dequantizeReference(parts, a.type as QuantType, a.rows as number, a.cols as number)],
  cost: (x, a) => ({
    flops: (a.rows as number) * (a.cols as number),
    bytes: x.reduce((s, t) => s + typeBytes(t), 0) + 2 * (a.rows as number) * (a.cols as number),
  }),
  typeAttributes: ['dtype'],
  recompute: 'cheap',
};

/** Elements and bytes of a block of GGUF's formats. */
const GGML_BLOCKS: Readonly<Record<string, readonly [elements: number, bytes: number]>> = {
  F32: [1, 4],
  F16: [1, 2],
  BF16: [1, 2],
  Q4_0: [32, 18],
  Q4_1: [32, 20],
  Q5_0: [32, 22],
  Q5_1: [32, 24],
  Q8_0: [32, 34],
  Q2_K: [256, 84],
  Q3_K: [256, 110],
  Q4_K: [256, 144],
  Q5_K: [256, 176],
  Q6_K: [256, 210],
};

const dequantizeGgmlDef: OpDef = {
  name: 'dequantize_ggml',
  infer(x, a) {
    expectCount('dequantize_ggml', x, 1);
    expectDtype('dequantize_ggml', 'bytes', x[0], 'u8');
    const block = GGML_BLOCKS[stringOf('dequantize_ggml', a, 'type')];
    if (!block)
      throw new LatheError('ERR_UNSUPPORTED', `[dequantize_ggml] unknown type '${String(a.type)}'`, {
        remedy: `use one of ${Object.keys(GGML_BLOCKS).join(', ')}`,
      });
    const shape = [numberOf('dequantize_ggml', a, 'rows'), numberOf('dequantize_ggml', a, 'cols')];
    expectShape('dequantize_ggml', 'bytes', x[0], [(elementCount(shape) / block[0]) * block[1]]);
    const type: TensorType = { shape, dtype: a.dtype as DType };
    expectFloat('dequantize_ggml', 'the result', type);
    return [type];
  },
  cost: (x, a) => ({
    flops: (a.rows as number) * (a.cols as number),
    bytes: typeBytes(x[0]) + 4 * (a.rows as number) * (a.cols as number),
  }),
  typeAttributes: ['dtype'],
};

export const quantOps = {
  quantize_4bit: quantize4bitDef,
  quantize_absmax: quantizeAbsmaxDef,
  dequantize_4bit: dequantize4bitDef,
  dequantize_ggml: dequantizeGgmlDef,
};

/** packed u8 and absmax f32 of a float tensor, blocks of 64 along its row-major order. */
export const quantize4bit = (x: Tensor, type: QuantType): readonly Tensor[] => {
  if (type !== 'nf4' && type !== 'fp4')
    throw new LatheError('ERR_CONFIG', `unknown 4-bit type '${String(type)}'`, { remedy: 'use nf4 or fp4' });
  return apply(quantize4bitDef, [x], { type });
};
/** Double quantisation of scales: codes u8, nested_absmax f32, offset f32 [1]. */
export const quantizeAbsmax = (absmax: Tensor): readonly Tensor[] => apply(quantizeAbsmaxDef, [absmax]);

/** The dense weight that parts stand for; `quant` as in matmul. */
export function dequantizeParts(
  parts: readonly Tensor[],
  quant: number,
  rows: number,
  cols: number,
  dtype: DType,
): Tensor {
  const attributes: Attributes = {
    type: quant <= 2 ? 'nf4' : 'fp4',
    rows,
    cols,
    nested: quant % 2 === 0 ? 1 : 0,
    dtype,
  };
  return apply(dequantize4bitDef, parts, attributes)[0];
}

/** A GGUF block-quantised matrix as floats. */
export const dequantizeGgml = (bytes: Tensor, type: string, rows: number, cols: number, dtype: DType): Tensor =>
  apply(dequantizeGgmlDef, [bytes], { type, rows, cols, dtype })[0];
