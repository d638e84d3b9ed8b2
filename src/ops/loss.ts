/**
 * Cross-entropy. The language-model head is fused with its loss: logits exist for one chunk of unmasked rows at a
 * time, and the gradient pass computes loss, dx and dw together, so `fuse` can drop the separate forward op.
 *
 * Sources: Liger Kernel's fused linear cross-entropy (arXiv 2410.10989), Cut Cross-Entropy (arXiv 2411.09009).
 */
import { dtypeBytes } from '../graph/dtype';
import { apply } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import type { DeviceSpec } from '../graph/device';
import type { Attributes, Tensor, TensorType } from '../graph/tensor';
import {
  expectCount,
  expectFloat,
  expectLike,
  expectRank,
  expectShape,
  expectType,
  ndArray,
  numberOf,
  onlyFirst,
  streamCost,
} from './expect';
import { cudaHeadScratchBytes } from './cuda-scratch';
import { gemmScratchBytes } from './matmul';

/** Rows of logits that exist at a time. */
const LOGITS_CHUNK = 256;
/** Every chunk reads and writes the whole gradient of a trained head, so chunks are as large as this many bytes of logits. */
const TRAINED_LOGITS_BYTES = 2 ** 28;

/** Rows of logits at a time where the head is trained: `chunk` or more, at most 1024. */
function trainedChunk(chunk: number, tokens: number, vocab: number): number {
  const fit = 256 * Math.floor(TRAINED_LOGITS_BYTES / (4 * 256 * vocab));
  return Math.min(tokens, Math.max(chunk, Math.min(fit, 1024)));
}

const IGNORE = -100;

function checkHead(op: string, x: readonly TensorType[], a: Attributes): number {
  expectRank(op, 'x', x[0], 2);
  expectFloat(op, 'x', x[0]);
  expectRank(op, 'w', x[1], 2);
  expectFloat(op, 'w', x[1]);
  expectShape(op, 'w', x[1], [x[1].shape[0], x[0].shape[1]]);
  expectType(op, 'labels', x[2], 'i32', [x[0].shape[0]]);
  numberOf(op, a, 'logit_scale');
  numberOf(op, a, 'softcap');
  numberOf(op, a, 'chunk');
  return x[0].shape[0];
}

const perToken = (t: number): TensorType => ({ shape: [t], dtype: 'f32' });

const linearCrossEntropyDef: OpDef = {
  name: 'linear_cross_entropy',
  optionalOutputs: [1, 2],
  infer(x, a) {
    expectCount('linear_cross_entropy', x, 3);
    const t = perToken(checkHead('linear_cross_entropy', x, a));
    return [t, t, t];
  },
  vjp({ inputs: [x, w, labels], attributes, cotangents, needs }) {
    const dnll = onlyFirst('linear_cross_entropy', cotangents);
    const chunk = attributes.chunk as number;
    const grown = needs(1) ? trainedChunk(chunk, x.shape[0], w.shape[0]) : chunk;
    const [, , , dx, dw] = apply(linearCrossEntropyGradDef, [x, w, labels, dnll], {
      ...attributes,
      chunk: grown,
      addend: 0,
      trained: needs(1) ? 1 : 0,
    });
    return [dx, dw, null];
  },
  reference: ([x, w, labels], a) => headReference(x, w, labels, a).slice(0, 3),
  cost: (x) => ({ flops: 2 * x[0].shape[0] * x[1].shape[0] * x[1].shape[1], bytes: 2 * x[1].shape[0] * x[1].shape[1] }),
  scratchBytes: (x, a, d) => lossScratchBytes(x, a, d, false),
  memoryClass: 'logits',
};

const linearCrossEntropyGradDef: OpDef = {
  name: 'linear_cross_entropy_grad',
  optionalOutputs: [1, 2, 4],
  infer(x, a) {
    expectCount('linear_cross_entropy_grad', x, 4 + numberOf('linear_cross_entropy_grad', a, 'addend'));
    const t = perToken(checkHead('linear_cross_entropy_grad', x, a));
    expectLike('linear_cross_entropy_grad', 'dnll', x[3], t);
    if (a.addend) expectType('linear_cross_entropy_grad', 'addend', x[4], 'f32', x[1].shape);
    return [t, t, t, x[0], { shape: x[1].shape, dtype: 'f32' }];
  },
  reference: ([x, w, labels, dnll, addend], a) => headReference(x, w, labels, a, dnll, addend),
  // `trained`: dw is made as well, a third product.
  cost: (x, a) => ({
    flops: (a.trained ? 6 : 4) * x[0].shape[0] * x[1].shape[0] * x[1].shape[1],
    bytes: (a.trained ? 12 : 4) * x[1].shape[0] * x[1].shape[1],
  }),
  scratchBytes: (x, a, d) => lossScratchBytes(x, a, d, true),
  mayAlias: (a) => (a.addend ? [[4, 4]] : []),
  memoryClass: 'logits',
};

function headReference(
  x: NdArray,
  w: NdArray,
  labels: NdArray,
  a: Attributes,
  dnll?: NdArray,
  addend?: NdArray,
): NdArray[] {
  const [t, d] = x.shape;
  const v = w.shape[0];
  const { logit_scale, softcap } = a as Record<string, number>;
  const [nll, correct, entropy, dx] = [ndArray([t]), ndArray([t]), ndArray([t]), ndArray(x.shape)];
  const dw = ndArray(w.shape, (i) => addend?.data[i] ?? 0);
  for (let i = 0; i < t; i++) {
    const label = labels.data[i];
    if (label === IGNORE) continue;
    // A label outside of the vocabulary must not train silently.
    const valid = label >= 0 && label < v ? 1 : NaN;
    const logits = new Float64Array(v);
    const slope = new Float64Array(v);
    for (let c = 0; c < v; c++) {
      let s = 0;
      for (let j = 0; j < d; j++) s += x.data[i * d + j] * w.data[c * d + j];
      s *= logit_scale;
      logits[c] = softcap > 0 ? softcap * Math.tanh(s / softcap) : s;
      slope[c] = logit_scale * (softcap > 0 ? 1 - (logits[c] / softcap) ** 2 : 1);
    }
    const max = logits.reduce((m, z) => Math.max(m, z), -Infinity);
    const total = logits.reduce((s, z) => s + Math.exp(z - max), 0);
    const lse = max + Math.log(total);
    nll.data[i] = valid * (lse - logits[label]);
    correct.data[i] = logits.indexOf(max) === label ? 1 : 0;
    entropy.data[i] = valid * (lse - logits.reduce((s, z) => s + Math.exp(z - lse) * z, 0));
    if (!dnll) continue;
    for (let c = 0; c < v; c++) {
      const g = valid * (Math.exp(logits[c] - lse) - (c === label ? 1 : 0)) * dnll.data[i] * slope[c];
      for (let j = 0; j < d; j++) {
        dx.data[i * d + j] += g * w.data[c * d + j];
        dw.data[c * d + j] += g * x.data[i * d + j];
      }
    }
  }
  return [nll, correct, entropy, dx, dw];
}

/** Restates native/cpu/loss.cpp and native/cuda/loss.cu. */
function lossScratchBytes(x: readonly TensorType[], a: Attributes, d: DeviceSpec, grad: boolean): number {
  const [t, width] = x[0].shape;
  const v = x[1].shape[0];
  if (d.kind === 'cuda')
    return cudaHeadScratchBytes({ t, width, vocab: v, x: x[0].dtype, w: x[1].dtype, chunk: a.chunk as number, grad });
  const c = Math.min(a.chunk as number, t);
  const up = (bytes: number): number => 64 * Math.ceil(bytes / 64);
  const gemm = (m: number, n: number, k: number): number => gemmScratchBytes(m, n, k, 1, d.threads);
  const chunk = up(c * width * dtypeBytes(x[0].dtype));
  const rows = up(4 * t) + up(4 * c * v) + chunk;
  return grad
    ? rows + chunk + Math.max(gemm(c, v, width), gemm(c, width, v), gemm(v, width, c) + 2 ** 23)
    : rows + gemm(c, v, width);
}

function checkClasses(op: string, x: readonly TensorType[]): number {
  expectRank(op, 'logits', x[0], 2);
  expectFloat(op, 'logits', x[0]);
  expectType(op, 'labels', x[1], 'i32', [x[0].shape[0]]);
  return x[0].shape[0];
}

const crossEntropyDef: OpDef = {
  name: 'cross_entropy',
  optionalOutputs: [1],
  infer(x) {
    expectCount('cross_entropy', x, 2);
    const t = perToken(checkClasses('cross_entropy', x));
    return [t, t];
  },
  vjp: ({ inputs: [logits, labels], cotangents }) => [
    apply(crossEntropyGradDef, [logits, labels, onlyFirst('cross_entropy', cotangents)])[0],
    null,
  ],
  reference([logits, labels]) {
    const c = logits.shape[1];
    const nll = ndArray([logits.shape[0]]);
    const correct = ndArray([logits.shape[0]]);
    labels.data.forEach((label, i) => {
      if (label === IGNORE) return;
      const row = logits.data.subarray(i * c, (i + 1) * c);
      const max = Math.max(...row);
      nll.data[i] = max + Math.log(row.reduce((s, z) => s + Math.exp(z - max), 0)) - row[label];
      correct.data[i] = row.indexOf(max) === label ? 1 : 0;
    });
    return [nll, correct];
  },
  cost: (x) => streamCost(x, [], 6),
};

const crossEntropyGradDef: OpDef = {
  name: 'cross_entropy_grad',
  infer(x) {
    expectCount('cross_entropy_grad', x, 3);
    const t = perToken(checkClasses('cross_entropy_grad', x));
    expectLike('cross_entropy_grad', 'dnll', x[2], t);
    return [x[0]];
  },
  reference([logits, labels, dnll]) {
    const c = logits.shape[1];
    return [
      ndArray(logits.shape, (i) => {
        const r = Math.floor(i / c);
        if (labels.data[r] === IGNORE) return 0;
        if (labels.data[r] < 0 || labels.data[r] >= c) return NaN;
        const row = logits.data.subarray(r * c, (r + 1) * c);
        const max = Math.max(...row);
        const p = Math.exp(logits.data[i] - max) / row.reduce((s, z) => s + Math.exp(z - max), 0);
        return (p - (i % c === labels.data[r] ? 1 : 0)) * dnll.data[r];
      }),
    ];
  },
  cost: (x) => streamCost(x, [x[0]], 8),
};

export const lossOps = {
  linear_cross_entropy: linearCrossEntropyDef,
  linear_cross_entropy_grad: linearCrossEntropyGradDef,
  cross_entropy: crossEntropyDef,
  cross_entropy_grad: crossEntropyGradDef,
};

export interface TokenLoss {
  /** Negative log-likelihood, f32 `[T]`, 0 where the label is -100. */
  nll: Tensor;
  /** 1 where the most likely token is the label. */
  correct: Tensor;
  /** Entropy of the predicted distribution, nats. */
  entropy: Tensor;
}

/** Loss of logits x w^T without the logits: x `[T, D]`, w `[V, D]`, labels i32 `[T]` (-100 = ignored). */
export function linearCrossEntropy(
  x: Tensor,
  w: Tensor,
  labels: Tensor,
  o: { logitScale?: number; softcap?: number; chunk?: number } = {},
): TokenLoss {
  const [nll, correct, entropy] = apply(linearCrossEntropyDef, [x, w, labels], {
    logit_scale: o.logitScale ?? 1,
    softcap: o.softcap ?? 0,
    chunk: Math.min(o.chunk ?? LOGITS_CHUNK, x.shape[0]),
  });
  return { nll, correct, entropy };
}

/** Loss of materialised logits `[T, C]`, for small C. */
export function crossEntropy(logits: Tensor, labels: Tensor): { nll: Tensor; correct: Tensor } {
  const [nll, correct] = apply(crossEntropyDef, [logits, labels]);
  return { nll, correct };
}
