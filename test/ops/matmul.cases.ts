/** Rows of matmul: transposes, terms, bias and addend, mixed dtypes, 4-bit weights, blocking borders. */
import type { NdArray } from '../../src/graph/op-def';
import type { Attributes, TensorType } from '../../src/graph/tensor';
import { matmulLayout, matmulOps } from '../../src/ops/matmul';
import { BLOCK, NESTED_BLOCK, QUANT_PARTS, quantOps } from '../../src/ops/quant';
import { bf16, f16, f32, float, normal, positive, ROUND, u8, uniform, type OpCase, type RowInput } from './case';
import { tolerance, U_F32 } from './tolerance';

interface Term {
  k: number;
  transA?: boolean;
  transB?: boolean;
  /** Index into QUANT_PARTS. */
  quant?: number;
  a?: typeof float;
  b?: typeof float;
}

interface Row {
  m: number;
  n: number;
  terms: readonly Term[];
  bias?: typeof float;
  addend?: boolean;
  alpha?: number;
  compute?: string;
  dtype?: string;
  grad?: readonly number[];
  runs?: OpCase['runs'];
}

/** Random codes are as good as any; scales keep values of order 1. */
function quantised(rows: number, cols: number, quant: number): RowInput[] {
  const nb = Math.ceil((rows * cols) / BLOCK);
  const packed = u8([Math.ceil((rows * cols) / 2)]);
  if (QUANT_PARTS[quant] === 2) return [packed, f32([nb], positive(0.2, 2))];
  return [packed, u8([nb]), f32([Math.ceil(nb / NESTED_BLOCK)], positive(0.1, 0.5)), f32([1], uniform(0.8, 1.2))];
}

function matmulRow(name: string, r: Row): OpCase {
  const { m, n, terms } = r;
  const stored = terms.map((t) => (t.transB ? [n, t.k] : [t.k, n]));
  const inputs = terms.flatMap((t, i): RowInput[] => [
    (t.a ?? float)(t.transA ? [t.k, m] : [m, t.k]),
    ...(t.quant ? quantised(stored[i][0], stored[i][1], t.quant) : [(t.b ?? float)(stored[i])]),
  ]);
  const dtype = r.dtype ?? 'float';
  if (r.bias) inputs.push(r.bias([n]));
  if (r.addend) inputs.push({ shape: [m, n], dtype: dtype as 'float', values: normal() });
  const totalK = terms.reduce((k, t) => k + t.k, 0);
  const flag = (value: boolean | undefined): number => (value ? 1 : 0);
  return {
    op: 'matmul',
    name,
    inputs,
    attributes: {
      trans_a: terms.map((t) => flag(t.transA)),
      trans_b: terms.map((t) => flag(t.transB)),
      quant: terms.map((t) => t.quant ?? 0),
      rows: stored.map(([rows]) => rows),
      cols: stored.map(([, cols]) => cols),
      alpha: r.alpha ?? 1,
      bias: flag(!!r.bias),
      addend: flag(r.addend),
      compute: r.compute ?? 'float',
      dtype,
    },
    out: [`${dtype}[${m},${n}]`],
    tolerance: tolerance(
      'a chain of K fused multiply-adds over operands of order 1: partial sums of order sqrt(k), so a random walk of 0.4 K roundings; 10 times that',
      { rel: 4 * U_F32, abs: (4 + 4 * totalK) * U_F32 * Math.max(1, Math.abs(r.alpha ?? 1)) },
    ),
    grad: r.grad,
    runs: r.runs,
    reference,
  };
}

/** matmul on operands rounded to the compute type, 4-bit ones after their dequantisation: what packing does. */
function reference(x: readonly NdArray[], a: Attributes, outputs: readonly TensorType[]): NdArray[] {
  const { terms } = matmulLayout(a);
  const round = a.compute === 'bf16' ? ROUND.bf16 : ROUND.f32;
  const rounded = (t: NdArray): NdArray => ({ shape: t.shape, data: t.data.map(round) });
  const inputs = terms.flatMap((t) => {
    if (t.quant === 0) return [rounded(x[t.a]), rounded(x[t.b])];
    const attributes = {
      type: t.quant <= 2 ? 'nf4' : 'fp4',
      rows: t.rows,
      cols: t.cols,
      nested: t.quant % 2 === 0 ? 1 : 0,
    };
    const [dense] = quantOps.dequantize_4bit.reference!(x.slice(t.b, t.b + QUANT_PARTS[t.quant]), attributes, []);
    return [rounded(x[t.a]), rounded(dense)];
  });
  const rest = x.slice(x.length - Number(a.bias) - Number(a.addend));
  return matmulOps.matmul.reference!([...inputs, ...rest], { ...a, quant: terms.map(() => 0) }, outputs);
}

const TRANSPOSES = [false, true].flatMap((transA) => [false, true].map((transB) => ({ transA, transB })));
const QUANTS = [1, 2, 3, 4];
const QUANT_NAMES = ['dense', 'nf4', 'nf4 nested', 'fp4', 'fp4 nested'];

export const cases: readonly OpCase[] = [
  ...TRANSPOSES.map((t) =>
    matmulRow(`a${t.transA ? "'" : ''} b${t.transB ? "'" : ''}`, { m: 7, n: 5, terms: [{ k: 9, ...t }], grad: [0, 1] }),
  ),
  ...TRANSPOSES.map((t) =>
    matmulRow(`a${t.transA ? "'" : ''} b${t.transB ? "'" : ''}, over tile borders`, {
      m: 67,
      n: 131,
      terms: [{ k: 141, ...t }],
    }),
  ),
  matmulRow('one element', { m: 1, n: 1, terms: [{ k: 1 }] }),
  matmulRow('a row', { m: 1, n: 77, terms: [{ k: 33, transB: true }] }),
  matmulRow('a column', { m: 77, n: 1, terms: [{ k: 33, transB: true }] }),
  matmulRow('K = 1', { m: 13, n: 70, terms: [{ k: 1, transB: true }] }),
  matmulRow('long K', { m: 5, n: 9, terms: [{ k: 2307, transB: true }] }),
  matmulRow('many rows', { m: 1100, n: 18, terms: [{ k: 17, transB: true }] }),
  matmulRow('many chunks', { m: 150, n: 330, terms: [{ k: 203, transB: true }], bias: float, addend: true }),
  matmulRow('bias', { m: 4, n: 6, terms: [{ k: 8, transB: true }], bias: float, grad: [0, 1, 2] }),
  matmulRow('fp32 bias', { m: 4, n: 66, terms: [{ k: 8, transB: true }], bias: f32 }),
  matmulRow('addend', { m: 4, n: 6, terms: [{ k: 8, transB: true }], addend: true, grad: [0, 1, 2] }),
  matmulRow('alpha, bias and addend', {
    m: 6,
    n: 65,
    terms: [{ k: 8, transB: true }],
    alpha: -2.5,
    bias: float,
    addend: true,
    grad: [0, 1, 2, 3],
  }),
  matmulRow('LoRA term', {
    m: 9,
    n: 21,
    terms: [
      { k: 16, transB: true },
      { k: 3, transB: true },
    ],
    addend: true,
    grad: [0, 1, 2, 3, 4],
  }),
  matmulRow('three terms, three layouts', {
    m: 9,
    n: 70,
    terms: [{ k: 11 }, { k: 4, transA: true }, { k: 513, transB: true }],
    alpha: 0.5,
  }),
  matmulRow('eight terms', {
    m: 3,
    n: 10,
    terms: Array.from({ length: 8 }, (_, i) => ({ k: i + 1, transB: i % 2 === 0 })),
  }),
  matmulRow('fp32 operands in bf16 arithmetic', {
    m: 8,
    n: 70,
    terms: [{ k: 33, transB: true, a: f32, b: f32 }],
    compute: 'bf16',
    dtype: 'f32',
  }),
  matmulRow('bf16 operands in fp32 arithmetic', {
    m: 8,
    n: 70,
    terms: [{ k: 33, transB: true, a: bf16, b: bf16 }],
    compute: 'f32',
    dtype: 'f32',
  }),
  matmulRow('gradient of an fp32 adapter', {
    m: 70,
    n: 8,
    terms: [{ k: 33, transA: true, a: bf16, b: bf16 }],
    compute: 'bf16',
    dtype: 'f32',
    addend: true,
  }),
  matmulRow('fp32 adapter beside a bf16 weight', {
    m: 12,
    n: 40,
    terms: [
      { k: 64, transB: true },
      { k: 4, transB: true, b: f32 },
    ],
  }),
  matmulRow('f16 weight', { m: 12, n: 40, terms: [{ k: 64, transB: true, b: f16 }] }),
  ...QUANTS.flatMap((quant) => [
    matmulRow(`${QUANT_NAMES[quant]}, b'`, { m: 7, n: 40, terms: [{ k: 64, transB: true, quant }], grad: [0] }),
    matmulRow(`${QUANT_NAMES[quant]}, b`, { m: 7, n: 64, terms: [{ k: 40, quant }], grad: [0] }),
    matmulRow(`${QUANT_NAMES[quant]}, blocks cross rows, odd count`, {
      m: 3,
      n: 77,
      terms: [{ k: 29, transB: true, quant }],
    }),
    matmulRow(`${QUANT_NAMES[quant]}, over tile borders, with LoRA and residual`, {
      m: 50,
      n: 130,
      terms: [
        { k: 320, transB: true, quant },
        { k: 8, transB: true },
      ],
      addend: true,
      bias: float,
    }),
    matmulRow(`${QUANT_NAMES[quant]}, a row, several blocks of K, with LoRA and residual`, {
      m: 1,
      n: 200,
      terms: [
        { k: 320, transB: true, quant },
        { k: 8, transB: true },
      ],
      addend: true,
    }),
    matmulRow(`${QUANT_NAMES[quant]}, six rows`, { m: 6, n: 144, terms: [{ k: 192, transB: true, quant }] }),
  ]),
  matmulRow('nf4 nested, more than one nested block', { m: 2, n: 160, terms: [{ k: 192, transB: true, quant: 2 }] }),
  matmulRow('two nf4 terms with transposes (a gradient of two projections)', {
    m: 10,
    n: 64,
    terms: [
      { k: 96, quant: 2 },
      { k: 32, quant: 1 },
    ],
    addend: true,
  }),
  matmulRow('nf4, a transposed', { m: 33, n: 64, terms: [{ k: 20, transA: true, transB: true, quant: 1 }] }),
];
