/**
 * Single ops to time, as data, and the programs that run them.
 *
 * A timed program applies its op to several different operands and keeps every result in a state slot, so nothing is
 * shared, elided or measured together with the call from JavaScript. All operands lie in state; nothing is copied in.
 * Legend: T tokens, D width, F inner width, V vocabulary, H / G query / key heads, K head_dim.
 */
import { deviceSpec } from '../../src/compile/devices';
import { compile } from '../../src/compile/compile';
import type { Program } from '../../src/compile/program';
import type { DType } from '../../src/graph/dtype';
import type { StateSlot, Tensor } from '../../src/graph/tensor';
import { apply, constant, readState, trace, updateState } from '../../src/graph/trace';
import { attention, attentionDecode, attentionOps } from '../../src/ops/attention';
import { activation, add, glu, elementwiseOps } from '../../src/ops/elementwise';
import { embedding } from '../../src/ops/embedding';
import { lossOps } from '../../src/ops/loss';
import { matmul } from '../../src/ops/matmul';
import { concatCols, splitCols } from '../../src/ops/movement';
import { layerNorm, normOps, rmsNorm } from '../../src/ops/norm';
import { adamw, adamw8bit, OPTIMIZER_BLOCK } from '../../src/ops/optim';
import { BLOCK, dequantizeParts, quantCode, quantize4bit } from '../../src/ops/quant';
import { globalNorm, sumRows } from '../../src/ops/reduce';
import { rope, ropeTable } from '../../src/ops/rope';

/** C [M, N] = A B. First letter of the layout: A as is or stored transposed; second: B. NT is a forward linear. */
export interface MatmulCase {
  readonly kind: 'matmul';
  readonly m: number;
  readonly k: number;
  readonly n: number;
  readonly layout: 'NN' | 'NT' | 'TN';
  /** Type of A, B and C; nf4: bf16 A and C, 4-bit B. */
  readonly form: 'f32' | 'bf16' | 'nf4';
}

/** Causal self-attention over documents of one length, forward or backward or both. */
export interface AttentionCase {
  readonly kind: 'attention';
  readonly pass: 'forward' | 'both';
  readonly documents: number;
  readonly length: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly form: 'f32' | 'bf16';
}

/** What surrounds the products in a step of T tokens, by op name: of SmolLM2-135M, from layer_norm on of GPT-2 124M. */
export interface RowCase {
  readonly kind: 'row';
  readonly op:
    | 'add'
    | 'rms_norm'
    | 'rms_norm_grad'
    | 'glu'
    | 'glu_grad'
    | 'rope'
    | 'embedding'
    | 'linear_cross_entropy_grad'
    | 'adamw'
    | 'adamw_8bit'
    | 'quantize_4bit'
    | 'attention_decode'
    | 'layer_norm'
    | 'layer_norm_grad'
    | 'activation'
    | 'activation_grad'
    | 'sum_rows'
    | 'split_cols'
    | 'concat_cols'
    | 'global_norm';
  readonly tokens: number;
}

export type OpCase = MatmulCase | AttentionCase | RowCase;

export function caseName(c: OpCase): string {
  switch (c.kind) {
    case 'matmul':
      return `matmul ${c.form} ${c.layout} ${c.m}x${c.k}x${c.n}`;
    case 'attention':
      return `attention ${c.pass === 'both' ? 'forward + backward' : 'forward'} ${c.form} ${c.documents}x${c.length} ${c.heads}/${c.kvHeads} d${c.headDim}`;
    case 'row':
      return `${c.op} T ${c.tokens}`;
  }
}

/** Precision that bounds a case. */
export const precisionOf = (c: OpCase): 'f32' | 'bf16' => (c.kind === 'row' || c.form !== 'f32' ? 'bf16' : 'f32');

export interface OpProgram {
  readonly slots: readonly StateSlot[];
  /** Slots that start as random numbers; the rest start as zeros. */
  readonly random: readonly StateSlot[];
  readonly program: Program;
  readonly repeats: number;
  /** Of one application. */
  readonly flops: number;
  readonly bytes: number;
}

/** Declares state slots while a program is traced. */
class Slots {
  readonly all = new Map<string, StateSlot>();
  readonly random: StateSlot[] = [];

  /** `prefix` keeps the slots of two programs in one session apart. */
  constructor(private readonly prefix: string) {}

  private slot(name: string, shape: readonly number[], dtype: DType): StateSlot {
    const slot: StateSlot = { name: `${this.prefix}${name}`, shape, dtype, role: 'weights' };
    this.all.set(name, slot);
    return slot;
  }
  /** A random operand. */
  given(name: string, shape: readonly number[], dtype: DType): Tensor {
    const known = this.all.get(name);
    if (known) return readState(known);
    const slot = this.slot(name, shape, dtype);
    this.random.push(slot);
    return readState(slot);
  }
  /** An operand that starts as zeros and may be updated. */
  zeros(name: string, shape: readonly number[], dtype: DType): { slot: StateSlot; value: Tensor } {
    const slot = this.slot(name, shape, dtype);
    return { slot, value: readState(slot) };
  }
  keep(name: string, value: Tensor): void {
    updateState(this.slot(name, value.shape, value.dtype), value);
  }
}

const ints = (values: readonly number[]): Tensor =>
  constant(new Uint8Array(Int32Array.from(values).buffer), [values.length], 'i32');

type Apply = (s: Slots, i: number) => void;

function applyMatmul(c: MatmulCase): Apply {
  const [transA, transB] = [c.layout[0] === 'T', c.layout[1] === 'T'];
  const dtype: DType = c.form === 'f32' ? 'f32' : 'bf16';
  const shapeA = transA ? [c.k, c.m] : [c.m, c.k];
  const [rows, cols] = transB ? [c.n, c.k] : [c.k, c.n];
  return (s, i) => {
    // A few rows against a matrix read it once from memory, as decoding does: then the matrices differ, else the rows.
    const each = c.m <= 8 ? i : 0;
    const a = s.given(`a${c.m <= 8 ? 0 : i}`, shapeA, dtype);
    const b =
      c.form === 'nf4'
        ? dequantizeParts(
            [
              s.given(`b${each}`, [(rows * cols) / 2], 'u8'),
              s.given(`b${each}.absmax`, [Math.ceil((rows * cols) / BLOCK)], 'f32'),
            ],
            quantCode('nf4', false),
            rows,
            cols,
            dtype,
          )
        : s.given(`b${each}`, [rows, cols], dtype);
    s.keep(`c${i}`, matmul(a, b, { transA, transB, compute: dtype, dtype }));
  };
}

function applyAttention(c: AttentionCase): Apply {
  const tokens = c.documents * c.length;
  const shape = {
    heads: c.heads,
    kvHeads: c.kvHeads,
    headDim: c.headDim,
    scale: 1 / Math.sqrt(c.headDim),
    causal: true,
  };
  return (s, i) => {
    const q = s.given(`q${i}`, [tokens, c.heads * c.headDim], c.form);
    const [k, v] = ['k', 'v'].map((name) => s.given(`${name}${i}`, [tokens, c.kvHeads * c.headDim], c.form));
    const cu = ints(Array.from({ length: c.documents + 1 }, (_, d) => d * c.length));
    const o = attention(q, k, v, cu, shape);
    s.keep(`o${i}`, o);
    if (c.pass === 'forward') return;
    const dO = s.given(`do${i}`, [tokens, c.heads * c.headDim], c.form);
    apply(attentionOps.attention_grad, [dO, q, k, v, o, o.node.outputs[1], cu], o.node.attributes).forEach((g, j) =>
      s.keep(`d${'qkv'[j]}${i}`, g),
    );
  };
}

const WIDTH = { d: 576, f: 1536, vocabulary: 49152, heads: 9, kvHeads: 3, headDim: 64 };
/** LoRA r 16 on all seven modules of the 135M shape. */
const ADAPTER_ELEMENTS = 4_884_480;
const GPT2 = { d: 768, f: 3072 };
/** The gradients of a model of 124M parameters, in as many tensors as a layer has. */
const GRADIENTS = { count: 12, elements: 10_370_048 };

function applyRow({ op, tokens }: RowCase): Apply {
  const { d, f, vocabulary, heads, kvHeads, headDim } = WIDTH;
  const rows = (s: Slots, name: string, width: number): Tensor => s.given(name, [tokens, width], 'bf16');
  const ids = (): Tensor => ints(Array.from({ length: tokens }, (_, t) => (t * 7919) % vocabulary));
  switch (op) {
    case 'add':
      return (s, i) => s.keep(`y${i}`, add(rows(s, `x${i}`, d), rows(s, `r${i}`, d)));
    case 'rms_norm':
      return (s, i) => s.keep(`y${i}`, rmsNorm(rows(s, `x${i}`, d), s.given('w', [d], 'bf16'), 1e-5));
    case 'rms_norm_grad':
      return (s, i) => {
        const inputs = [
          rows(s, `dy${i}`, d),
          rows(s, `x${i}`, d),
          s.given('w', [d], 'bf16'),
          s.given('rstd', [tokens], 'f32'),
        ];
        s.keep(`dx${i}`, apply(normOps.rms_norm_grad, inputs, { eps: 1e-5, unit_offset: 0, addend: 0 })[0]);
      };
    case 'glu':
      return (s, i) => s.keep(`y${i}`, glu(rows(s, `g${i}`, f), rows(s, `u${i}`, f), 'silu'));
    case 'glu_grad':
      return (s, i) =>
        apply(
          elementwiseOps.glu_grad,
          ['dy', 'g', 'u'].map((n) => rows(s, n + i, f)),
          { kind: 'silu' },
        ).forEach((g, j) => s.keep(`d${j}.${i}`, g));
    case 'rope':
      return (s, i) => {
        const table = ropeTable(
          ids(),
          Array.from({ length: headDim / 2 }, (_, j) => 100000 ** ((-2 * j) / headDim)),
        );
        s.keep(`y${i}`, rope(rows(s, `x${i}`, d), table, headDim));
      };
    case 'embedding':
      return (s, i) => s.keep(`y${i}`, embedding(s.given('table', [vocabulary, d], 'bf16'), ids(), 'bf16'));
    case 'linear_cross_entropy_grad':
      return (s, i) => {
        const inputs = [
          rows(s, `x${i}`, d),
          s.given('w', [vocabulary, d], 'bf16'),
          ids(),
          s.given('dnll', [tokens], 'f32'),
        ];
        const [nll, , , dx] = apply(lossOps.linear_cross_entropy_grad, inputs, {
          logit_scale: 1,
          softcap: 0,
          chunk: Math.min(256, tokens),
          addend: 0,
          trained: 0,
        });
        s.keep(`nll${i}`, nll);
        s.keep(`dx${i}`, dx);
      };
    case 'adamw':
    case 'adamw_8bit':
      return (s, i) => applyOptimizer(s, i, op);
    case 'quantize_4bit':
      return (s, i) =>
        quantize4bit(s.given(`x${i}`, [f, d], 'bf16'), 'nf4').forEach((part, j) => s.keep(`part${j}.${i}`, part));
    case 'attention_decode':
      return (s, i) => {
        const [k, v] = ['k', 'v'].map((n) => s.given(n + i, [1, tokens, kvHeads * headDim], 'bf16'));
        const shape = { heads, kvHeads, headDim, scale: 1 / Math.sqrt(headDim), causal: true };
        s.keep(`o${i}`, attentionDecode(s.given(`q${i}`, [1, heads * headDim], 'bf16'), k, v, ints([tokens]), shape));
      };
    case 'layer_norm':
      return (s, i) => {
        const [w, b] = ['w', 'b'].map((n) => s.given(n, [GPT2.d], 'bf16'));
        s.keep(`y${i}`, layerNorm(rows(s, `x${i}`, GPT2.d), w, b, 1e-5));
      };
    case 'layer_norm_grad':
      return (s, i) => {
        const inputs = [
          ...['dy', 'x'].map((n) => rows(s, n + i, GPT2.d)),
          s.given('w', [GPT2.d], 'bf16'),
          ...['mean', 'rstd'].map((n) => s.given(n, [tokens], 'f32')),
          rows(s, `r${i}`, GPT2.d),
        ];
        apply(normOps.layer_norm_grad, inputs, { addend: 1 }).forEach((g, j) => s.keep(`g${j}.${i}`, g));
      };
    case 'activation':
      return (s, i) => s.keep(`y${i}`, activation(rows(s, `x${i}`, GPT2.f), 'gelu_tanh'));
    case 'activation_grad':
      return (s, i) => {
        const inputs = ['dy', 'x'].map((n) => rows(s, n + i, GPT2.f));
        s.keep(`dx${i}`, apply(elementwiseOps.activation_grad, inputs, { kind: 'gelu_tanh' })[0]);
      };
    case 'sum_rows':
      return (s, i) => s.keep(`y${i}`, sumRows(rows(s, `x${i}`, GPT2.f)));
    case 'split_cols':
      return (s, i) =>
        splitCols(rows(s, `x${i}`, 3 * GPT2.d), [GPT2.d, GPT2.d, GPT2.d]).forEach((y, j) => s.keep(`y${j}.${i}`, y));
    case 'concat_cols':
      return (s, i) => s.keep(`y${i}`, concatCols(['q', 'k', 'v'].map((n) => rows(s, n + i, GPT2.d))));
    case 'global_norm':
      return (s, i) => {
        const gradients = Array.from({ length: GRADIENTS.count }, (_, j) =>
          s.given(`g${j}`, [GRADIENTS.elements], 'f32'),
        );
        s.keep(`y${i}`, globalNorm(gradients));
      };
  }
}

function applyOptimizer(s: Slots, i: number, op: 'adamw' | 'adamw_8bit'): void {
  const shape = [ADAPTER_ELEMENTS];
  const one = s.given('one', [1], 'f32');
  const inputs = { lr: one, step: ints([10]), gradScale: one };
  const [parameter, gradient] = [s.zeros(`p${i}`, shape, 'f32'), s.zeros(`g${i}`, shape, 'f32')];
  const blocks = [Math.ceil(ADAPTER_ELEMENTS / OPTIMIZER_BLOCK)];
  const states =
    op === 'adamw'
      ? [s.zeros(`m${i}`, shape, 'f32'), s.zeros(`v${i}`, shape, 'f32')]
      : [
          s.zeros(`m${i}`, shape, 'u8'),
          s.zeros(`v${i}`, shape, 'u8'),
          s.zeros(`am${i}`, blocks, 'f32'),
          s.zeros(`av${i}`, blocks, 'f32'),
        ];
  const step = op === 'adamw' ? adamw : adamw8bit;
  const group = [parameter, gradient, ...states];
  const options = { beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0 };
  const [updated] = step(inputs, [group.map((x) => x.value)], options);
  group.forEach(({ slot }, j) => updateState(slot, updated[j]));
}

/** Applications in one run: enough that the call does not count, few enough to fit. */
function repeatsFor(flops: number, bytes: number): number {
  const seconds = flops / 2e11 + bytes / 1e10;
  return Math.max(1, Math.min(16, Math.ceil(0.015 / seconds)));
}

/** The program of a case for `threads` threads; its slots' names begin with `prefix`. */
export function opProgram(c: OpCase, threads: number, prefix = ''): OpProgram {
  const applyOnce = c.kind === 'matmul' ? applyMatmul(c) : c.kind === 'attention' ? applyAttention(c) : applyRow(c);
  const build = (repeats: number): { slots: Slots; program: Program } => {
    const slots = new Slots(prefix);
    const graph = trace(caseName(c), () => {
      for (let i = 0; i < repeats; i++) applyOnce(slots, i);
    });
    return { slots, program: compile(graph, { device: deviceSpec('cpu', threads) }) };
  };
  const single = build(1);
  const { flops } = single.program;
  const bytes = single.program.nodes.reduce(
    (sum, n) =>
      sum +
      n.op!.cost(
        n.inputs.map((t) => t.type),
        n.attributes,
      ).bytes,
    0,
  );
  // Weights that decoding reads must not stay in a cache between two runs.
  const decoding = c.kind === 'matmul' && c.m <= 8;
  const repeats = decoding ? Math.max(1, Math.min(256, Math.ceil((256 << 20) / bytes))) : repeatsFor(flops, bytes);
  const { slots, program } = repeats === 1 ? single : build(repeats);
  return { slots: [...slots.all.values()], random: slots.random, program, repeats, flops, bytes };
}
