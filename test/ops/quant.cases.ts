/** Rows of quantisation: every code and every dequantised value to the bit (bitsandbytes' goldens are in goldens.test.ts). */
import { dequantizeGgml } from '../../src/io/gguf/dequantize';
import type { StorageType } from '../../src/io/tensor-source';
import { BLOCK, NESTED_BLOCK } from '../../src/ops/quant';
import {
  bf16,
  constantly,
  f16,
  f32,
  fixed,
  normal,
  positive,
  u8,
  uniform,
  type OpCase,
  type RowInput,
  type Values,
} from './case';
import { exact, tolerance } from './tolerance';

const TYPES = ['nf4', 'fp4'] as const;
const rounded = tolerance('one rounding of the fp32 value', {});

const quantize = (name: string, type: string, x: RowInput): OpCase => {
  const n = x.shape.reduce((a, b) => a * b, 1);
  return {
    op: 'quantize_4bit',
    name: `${type}, ${name}`,
    inputs: [x],
    attributes: { type },
    out: [`u8[${Math.ceil(n / 2)}]`, `f32[${Math.ceil(n / BLOCK)}]`],
    tolerance: exact,
  };
};

function dequantize(name: string, type: string, rows: number, cols: number, nested: 0 | 1, dtype = 'float'): OpCase {
  const nb = Math.ceil((rows * cols) / BLOCK);
  const packed = u8([Math.ceil((rows * cols) / 2)]);
  const scales = nested
    ? [u8([nb]), f32([Math.ceil(nb / NESTED_BLOCK)], positive(0.01, 0.1)), f32([1], uniform(0.1, 0.2))]
    : [f32([nb], positive(0.01, 1))];
  return {
    op: 'dequantize_4bit',
    name: `${type}${nested ? ' nested' : ''}, ${name}`,
    inputs: [packed, ...scales],
    attributes: { type, rows, cols, nested, dtype },
    out: [`${dtype}[${rows},${cols}]`],
    tolerance: rounded,
  };
}

/** Bytes of n blocks whose f16 scales (at the given byte offsets) are ordinary numbers, the rest random. */
const blocks =
  (bytes: number, scales: readonly number[]): Values =>
  (draw, [n]) => {
    const all = Array.from({ length: n }, () => Math.floor(256 * draw()));
    // Exponents 8..15: between 2^-7 and 2.
    for (let b = 0; b < n; b += bytes)
      for (const s of scales)
        all[b + s + 1] = (Math.floor(2 * draw()) << 7) | ((8 + Math.floor(8 * draw())) << 2) | Math.floor(4 * draw());
    return all;
  };

const GGML: readonly (readonly [type: string, elements: number, bytes: number, scales: readonly number[]])[] = [
  ['F32', 1, 4, []],
  ['F16', 1, 2, [0]],
  ['BF16', 1, 2, []],
  ['Q4_0', 32, 18, [0]],
  ['Q4_1', 32, 20, [0, 2]],
  ['Q5_0', 32, 22, [0]],
  ['Q5_1', 32, 24, [0, 2]],
  ['Q8_0', 32, 34, [0]],
  ['Q2_K', 256, 84, [80, 82]],
  ['Q3_K', 256, 110, [108]],
  ['Q4_K', 256, 144, [0, 2]],
  ['Q5_K', 256, 176, [0, 2]],
  ['Q6_K', 256, 210, [208]],
];

const ggml = GGML.flatMap(([type, elements, bytes, scales]) =>
  [1, 3].map((rows): OpCase => {
    const cols = elements === 1 ? 7 : 2 * elements;
    return {
      op: 'dequantize_ggml',
      name: `${type}, ${rows} rows`,
      inputs: [
        u8(
          [((rows * cols) / elements) * bytes],
          type === 'F32' || type === 'BF16' ? floats(type === 'F32' ? 4 : 2) : blocks(bytes, scales),
        ),
      ],
      attributes: { type, rows, cols, dtype: 'float' },
      out: [`float[${rows},${cols}]`],
      tolerance: rounded,
      reference: ([x], _a, [out]) => [
        { shape: out.shape, data: Float64Array.from(dequantizeGgml(type as StorageType, Uint8Array.from(x.data))) },
      ],
    };
  }),
);

/** Bytes of ordinary f32 (4) or bf16 (2) values. */
function floats(width: 2 | 4): Values {
  return (draw, [n]) =>
    Array.from(new Uint8Array(Float32Array.from({ length: n / width }, () => draw() - 0.5).buffer)).filter(
      (_, i) => width === 4 || i % 4 >= 2,
    );
}

export const cases: readonly OpCase[] = [
  ...TYPES.flatMap((type) => [
    quantize('one block', type, f32([8, 8])),
    quantize('one value', type, f32([1], fixed(-0.25))),
    quantize('a short block', type, f32([63])),
    quantize('one past a block', type, f32([65])),
    quantize('odd', type, f32([3, 43])),
    quantize(
      'zeros of both signs',
      type,
      f32([130], (_d, [n]) => Array.from({ length: n }, (_, i) => (i % 2 ? 0 : -0))),
    ),
    quantize(
      'a zero block among others',
      type,
      f32([192], (draw, [n]) => Array.from({ length: n }, (_, i) => (i < 64 || i >= 128 ? draw() - 0.5 : 0))),
    ),
    quantize('constant', type, f32([100], constantly(-3))),
    quantize('tiny', type, f32([128], normal(1e-37))),
    quantize('subnormal', type, f32([64], normal(1e-41))),
    quantize('from bf16', type, bf16([7, 37], normal(0.02))),
    quantize('from f16', type, f16([5, 129], normal(0.02))),
    quantize('many pieces', type, f32([70, 513], normal(0.02))),
    ...([0, 1] as const).flatMap((nested) => [
      dequantize('odd size', type, 3, 43, nested),
      dequantize('one value', type, 1, 1, nested),
      dequantize('blocks cross rows', type, 10, 96, nested),
      dequantize('many pieces', type, 70, 513, nested),
    ]),
  ]),
  {
    op: 'quantize_absmax',
    name: 'one block',
    inputs: [f32([200], positive(0.01, 0.1))],
    out: ['u8[200]', 'f32[1]', 'f32[1]'],
    tolerance: exact,
  },
  { op: 'quantize_absmax', name: 'one value', inputs: [f32([1], fixed(0.3))], tolerance: exact },
  { op: 'quantize_absmax', name: 'all equal', inputs: [f32([300], constantly(0.5))], tolerance: exact },
  {
    op: 'quantize_absmax',
    name: 'odd number of blocks',
    inputs: [f32([1111], positive(0.01, 0.2))],
    out: ['u8[1111]', 'f32[5]', 'f32[1]'],
    tolerance: exact,
  },
  { op: 'quantize_absmax', name: 'many pieces', inputs: [f32([20000], positive(0.01, 0.2))], tolerance: exact },
  ...ggml,
];
