/**
 * matmul: C = alpha * sum_i op(a_i) op(b_i) + bias + addend, one GEMM over the concatenated K of its terms.
 *
 * LoRA rides as a second term (extra K columns), the gradients of several projections of one input are one
 * matmul with several terms, gradient accumulation is the addend. A 4-bit weight stays packed: a `dequantize_4bit`
 * operand is replaced by its parts when the matmul is traced, and the backend dequantises while it packs.
 *
 * A weight is stored `[out, in]`, so a forward linear has trans_b = 1. Sources: LoRA (arXiv 2106.09685), QLoRA
 * (arXiv 2305.14314), BLIS (Van Zee and van de Geijn, 2015) for the packing idea.
 */
import { LatheError } from '../errors';
import { dtypeBytes, isFloat, type DType } from '../graph/dtype';
import { apply, sharedAttributes } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import { typeBytes, type Attributes, type Tensor, type TensorType } from '../graph/tensor';
import {
  expectCount,
  expectDtype,
  expectFloat,
  expectLike,
  expectRank,
  expectShape,
  listOf,
  ndArray,
  numberOf,
  shapeError,
} from './expect';
import { cast, scale } from './elementwise';
import { cudaGemmScratchBytes } from './cuda-scratch';
import { sumRows } from './reduce';
import { dequantizeParts, dequantizeReference, expectParts, QUANT_PARTS, quantCode, type QuantType } from './quant';

export type Compute = 'f32' | 'bf16';

/** Where one term's operands sit among the inputs, and the stored shape of b. */
export interface MatmulTerm {
  a: number;
  b: number;
  transA: boolean;
  transB: boolean;
  /** Index into QUANT_PARTS: 0 dense, 1 nf4, 2 nf4 nested, 3 fp4, 4 fp4 nested. */
  quant: number;
  rows: number;
  cols: number;
}

export interface MatmulLayout {
  terms: MatmulTerm[];
  /** -1 when absent. */
  bias: number;
  addend: number;
  /** How many inputs there are. */
  inputs: number;
}

/** Terms that the kernels take in one call. */
export const MAX_TERMS = 8;

/** Attributes are immutable and shared by the copies that passes make of a node, so each layout is derived once. */
const layouts = new WeakMap<Attributes, MatmulLayout>();

/** Input positions, derived from the attributes. */
export function matmulLayout(a: Attributes): MatmulLayout {
  const known = layouts.get(a);
  if (known) return known;
  const quant = listOf('matmul', a, 'quant');
  const [transA, transB, rows, cols] = ['trans_a', 'trans_b', 'rows', 'cols'].map((key) => listOf('matmul', a, key));
  let next = 0;
  const terms = quant.map((q, i) => {
    const term = {
      a: next,
      b: next + 1,
      transA: transA[i] === 1,
      transB: transB[i] === 1,
      quant: q,
      rows: rows[i],
      cols: cols[i],
    };
    next += 1 + QUANT_PARTS[q];
    return term;
  });
  const bias = a.bias === 1 ? next++ : -1;
  const addend = a.addend === 1 ? next++ : -1;
  const layout = { terms, bias, addend, inputs: next };
  layouts.set(a, layout);
  return layout;
}

function termSize(x: readonly TensorType[], t: MatmulTerm): { m: number; k: number; n: number } {
  const { shape } = x[t.a];
  const m = shape[t.transA ? 1 : 0];
  const k = shape[t.transA ? 0 : 1];
  const kb = t.transB ? t.cols : t.rows;
  if (k !== kb)
    throw shapeError(
      'matmul',
      `inner dimensions to agree`,
      `op(a) [${m}, ${k}] and op(b) [${kb}, ${t.transB ? t.rows : t.cols}]`,
    );
  return { m, k, n: t.transB ? t.rows : t.cols };
}

function infer(x: readonly TensorType[], a: Attributes): TensorType[] {
  const layout = matmulLayout(a);
  const { terms } = layout;
  if (terms.length < 1 || terms.length > MAX_TERMS)
    throw shapeError('matmul', `1 to ${MAX_TERMS} terms`, String(terms.length));
  expectCount('matmul', x, layout.inputs);
  let m = -1;
  let n = -1;
  for (let i = 0; i < terms.length; i++) {
    const t = terms[i];
    expectRank('matmul', 'a', x[t.a], 2);
    expectOperand('a', x[t.a]);
    if (t.quant !== 0)
      expectParts('matmul', x.slice(t.b, t.b + QUANT_PARTS[t.quant]), t.rows * t.cols, QUANT_PARTS[t.quant] === 4);
    else {
      expectOperand('b', x[t.b]);
      const { shape } = x[t.b];
      if (shape.length !== 2 || shape[0] !== t.rows || shape[1] !== t.cols)
        expectShape('matmul', 'b', x[t.b], [t.rows, t.cols]);
    }
    const size = termSize(x, t);
    if (m >= 0 && (m !== size.m || n !== size.n))
      throw shapeError('matmul', `every term to give [${m}, ${n}]`, `[${size.m}, ${size.n}]`);
    m = size.m;
    n = size.n;
  }
  const type: TensorType = { shape: [m, n], dtype: a.dtype as DType };
  expectFloat('matmul', 'the result', type);
  if (layout.bias >= 0) {
    expectFloat('matmul', 'bias', x[layout.bias]);
    expectShape('matmul', 'bias', x[layout.bias], [n]);
  }
  if (layout.addend >= 0) expectLike('matmul', 'addend', x[layout.addend], type);
  return [type];
}

function expectOperand(name: string, t: TensorType): void {
  if (!isFloat(t.dtype)) expectDtype('matmul', name, t, 'f32', 'bf16', 'f16');
}

/** b of a term as one tensor: itself, or the dequantised parts (taken apart again by `matmul`). */
function operandB(inputs: readonly Tensor[], t: MatmulTerm, dtype: DType): Tensor {
  if (t.quant === 0) return inputs[t.b];
  return dequantizeParts(inputs.slice(t.b, t.b + QUANT_PARTS[t.quant]), t.quant, t.rows, t.cols, dtype);
}

const gradientDtype = (t: Tensor): DType => (t.node.kind === 'state' ? 'f32' : t.dtype);

const matmulDef: OpDef = {
  name: 'matmul',
  infer,
  vjp({ inputs, attributes, cotangents, needs }) {
    const layout = matmulLayout(attributes);
    const compute = attributes.compute as Compute;
    const grads: (Tensor | null)[] = inputs.map(() => null);
    const g = cotangents[0]!;
    const scaled = scale(g, numberOf('matmul', attributes, 'alpha'));
    for (let i = 0; i < layout.terms.length; i++) {
      const t = layout.terms[i];
      if (needs(t.a)) {
        const b = operandB(inputs, t, inputs[t.a].dtype);
        const dtype = gradientDtype(inputs[t.a]);
        grads[t.a] = t.transA
          ? matmul(b, scaled, { transA: t.transB, transB: true, compute, dtype })
          : matmul(scaled, b, { transB: !t.transB, compute, dtype });
      }
      if (needs(t.b)) {
        if (t.quant !== 0) throw new LatheError('ERR_UNSUPPORTED', '[matmul] a 4-bit weight has no gradient');
        const a = inputs[t.a];
        const dtype = gradientDtype(inputs[t.b]);
        grads[t.b] = t.transB
          ? matmul(scaled, a, { transA: true, transB: t.transA, compute, dtype })
          : matmul(a, scaled, { transA: !t.transA, compute, dtype });
      }
    }
    if (layout.bias >= 0 && needs(layout.bias))
      grads[layout.bias] = cast(sumRows(g), gradientDtype(inputs[layout.bias]));
    if (layout.addend >= 0) grads[layout.addend] = g;
    return grads;
  },
  reference(x, a, [type]) {
    const layout = matmulLayout(a);
    const [m, n] = type.shape;
    const out = ndArray([m, n]);
    for (const t of layout.terms) {
      const parts = x.slice(t.b, t.b + QUANT_PARTS[t.quant]);
      const b = t.quant === 0 ? x[t.b] : dequantizeReference(parts, t.quant <= 2 ? 'nf4' : 'fp4', t.rows, t.cols);
      accumulate(out, x[t.a], t.transA, b, t.transB);
    }
    const alpha = a.alpha as number;
    for (let i = 0; i < out.data.length; i++) {
      out.data[i] *= alpha;
      if (layout.bias >= 0) out.data[i] += x[layout.bias].data[i % n];
      if (layout.addend >= 0) out.data[i] += x[layout.addend].data[i];
    }
    return [out];
  },
  cost(x, a) {
    let flops = 0;
    let bytes = 0;
    let result = 0;
    const { terms } = matmulLayout(a);
    for (let i = 0; i < terms.length; i++) {
      const { m, k, n } = termSize(x, terms[i]);
      flops += 2 * m * k * n;
      result = m * n * dtypeBytes(a.dtype as DType);
    }
    for (let i = 0; i < x.length; i++) bytes += typeBytes(x[i]);
    return { flops, bytes: bytes + result };
  },
  // The formulas of native/cpu/gemm/gemm.h and native/cuda/gemm.cu.
  scratchBytes: (x, a, device) => {
    const { terms } = matmulLayout(a);
    const { m, n } = termSize(x, terms[0]);
    if (device.kind === 'cuda') {
      const operands = terms.map((t) => ({
        k: termSize(x, t).k,
        a: { dtype: x[t.a].dtype, cols: x[t.a].shape[1] },
        b: { dtype: t.quant === 0 ? x[t.b].dtype : ('codes' as const), cols: t.cols },
      }));
      return cudaGemmScratchBytes(m, n, operands, a.compute === 'bf16');
    }
    let totalK = 0;
    for (let i = 0; i < terms.length; i++) totalK += termSize(x, terms[i]).k;
    return gemmScratchBytes(m, n, totalK, terms.length, device.threads);
  },
  mayAlias: (a, n) => (a.addend === 1 ? [[0, n - 1]] : []),
  typeAttributes: ['dtype'],
};

function accumulate(out: NdArray, a: NdArray, transA: boolean, b: NdArray, transB: boolean): void {
  const [m, n] = out.shape;
  const k = transA ? a.shape[0] : a.shape[1];
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let s = 0;
      for (let p = 0; p < k; p++) {
        s +=
          a.data[transA ? p * a.shape[1] + i : i * a.shape[1] + p] *
          b.data[transB ? j * b.shape[1] + p : p * b.shape[1] + j];
      }
      out.data[i * n + j] += s;
    }
  }
}

const up = (x: number, y: number): number => y * Math.ceil(x / y);

/** Scratch of one GEMM on the CPU; restates native/cpu/gemm/gemm.h. `totalK` sums the terms' inner dimensions. */
export function gemmScratchBytes(m: number, n: number, totalK: number, terms: number, threads: number): number {
  void n;
  const kA = totalK + 16 * terms;
  const rowsA = Math.min(up(m, 6), Math.max(96, 6 * Math.floor(2 ** 22 / (24 * kA))));
  const worker = 256 * Math.min(totalK, 1024) + 256 * Math.min(up(m, 6), 1032);
  return 4 * rowsA * kA + threads * worker + 64 * (2 * threads + 2);
}

export const matmulOps = { matmul: matmulDef };

export interface MatmulOptions {
  transA?: boolean;
  transB?: boolean;
  alpha?: number;
  /** `[N]`, added to every row. */
  bias?: Tensor;
  /** `[M, N]` of the output's type. */
  addend?: Tensor;
  compute: Compute;
  dtype: DType;
  /** More terms of the same sum, e.g. LoRA's low-rank pair. */
  extra?: readonly { a: Tensor; b: Tensor; transA?: boolean; transB?: boolean }[];
}

/** op(a) op(b) (+ extra terms) times alpha, plus bias and addend. */
export function matmul(a: Tensor, b: Tensor, o: MatmulOptions): Tensor {
  const terms: NonNullable<MatmulOptions['extra']> = [{ a, b, transA: o.transA, transB: o.transB }, ...(o.extra ?? [])];
  const inputs: Tensor[] = [];
  const { alpha = 1, compute, dtype } = o;
  let key = `matmul ${alpha} ${o.bias ? 1 : 0}${o.addend ? 1 : 0} ${compute} ${dtype}`;
  const quant: number[] = [];
  for (const t of terms) {
    const code = packedCode(t.b);
    quant.push(code);
    inputs.push(t.a);
    // What is read for a dequantised weight are its parts, so that it never exists in full.
    if (code === 0) inputs.push(t.b);
    else inputs.push(...t.b.node.inputs);
    const rows = t.b.shape[0];
    const cols = t.b.shape[1];
    key += ` ${t.transA ? 1 : 0}${t.transB ? 1 : 0}${code} ${rows} ${cols}`;
  }
  if (o.bias) inputs.push(o.bias);
  if (o.addend) inputs.push(o.addend);
  const attributes = sharedAttributes(key, () => ({
    trans_a: terms.map((t) => (t.transA ? 1 : 0)),
    trans_b: terms.map((t) => (t.transB ? 1 : 0)),
    quant,
    rows: terms.map((t) => t.b.shape[0]),
    cols: terms.map((t) => t.b.shape[1]),
    alpha,
    bias: o.bias ? 1 : 0,
    addend: o.addend ? 1 : 0,
    compute,
    dtype,
  }));
  return apply(matmulDef, inputs, attributes)[0];
}

/** How a matmul reads b: 0 as it is, else the code of the 4-bit form that b is the dequantisation of. */
function packedCode(b: Tensor): number {
  if (b.node.op?.name !== 'dequantize_4bit') return 0;
  const { type, nested } = b.node.attributes;
  return quantCode(type as QuantType, nested === 1);
}

/** The GEMM precision that goes with an activation's dtype. */
export function computeOf(x: Tensor): Compute {
  return x.dtype === 'bf16' ? 'bf16' : 'f32';
}
