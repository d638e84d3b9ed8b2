/**
 * RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450) over the last axis. Statistics are fp32.
 * `unit_offset` = 1 multiplies by 1 + w (Gemma).
 */
import { apply } from '../graph/trace';
import type { NdArray, OpDef } from '../graph/op-def';
import type { Attributes, Tensor, TensorType } from '../graph/tensor';
import {
  expectCount,
  expectFloat,
  expectLike,
  expectRank,
  expectShape,
  ndArray,
  numberOf,
  onlyFirst,
  streamCost,
} from './expect';

function inferNorm(op: string, x: readonly TensorType[], a: Attributes, parameters: number): number {
  expectCount(op, x, 1 + parameters);
  expectRank(op, 'x', x[0], 2);
  expectFloat(op, 'x', x[0]);
  expectWeight(op, x[1], x[0].shape[1]);
  if (parameters === 2) expectLike(op, 'bias', x[2], x[1]);
  numberOf(op, a, 'eps');
  return x[0].shape[0];
}

function expectWeight(op: string, w: TensorType, width: number): void {
  expectFloat(op, 'weight', w);
  expectShape(op, 'weight', w, [width]);
}

/** dy, x, w, saved statistics, (addend); returns the type of x. */
function inferNormGrad(op: string, x: readonly TensorType[], a: Attributes, statistics: number): TensorType {
  expectCount(op, x, 3 + statistics + numberOf(op, a, 'addend'));
  const [dy, type, w, ...rest] = x;
  expectRank(op, 'x', type, 2);
  expectFloat(op, 'x', type);
  expectLike(op, 'dy', dy, type);
  expectWeight(op, w, type.shape[1]);
  for (let i = 0; i < statistics; i++) expectLike(op, 'a saved statistic', rest[i], rows(type.shape[0]));
  if (a.addend) expectLike(op, 'addend', rest[statistics], type);
  return type;
}

const rows = (t: number): TensorType => ({ shape: [t], dtype: 'f32' });

function rowsOf(x: NdArray): Float64Array[] {
  const [t, d] = x.shape;
  return Array.from({ length: t }, (_, i) => x.data.subarray(i * d, (i + 1) * d));
}

const rmsNormDef: OpDef = {
  name: 'rms_norm',
  optionalOutputs: [1],
  infer(x, a) {
    const t = inferNorm('rms_norm', x, a, 1);
    return [x[0], rows(t)];
  },
  vjp({ inputs: [x, w], outputs: [, rstd], attributes, cotangents }) {
    const { eps, unit_offset } = attributes;
    return [...apply(rmsNormGradDef, [onlyFirst('rms_norm', cotangents), x, w, rstd], { eps, unit_offset, addend: 0 })];
  },
  reference([x, w], a) {
    const d = x.shape[1];
    const rstd = ndArray([x.shape[0]]);
    rowsOf(x).forEach(
      (row, i) => (rstd.data[i] = 1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / d + (a.eps as number))),
    );
    const offset = a.unit_offset as number;
    return [ndArray(x.shape, (i) => x.data[i] * rstd.data[Math.floor(i / d)] * (w.data[i % d] + offset)), rstd];
  },
  cost: (x) => streamCost(x, [x[0]], 4),
  recompute: 'cheap',
};

const rmsNormGradDef: OpDef = {
  name: 'rms_norm_grad',
  optionalOutputs: [1],
  infer(x, a) {
    const type = inferNormGrad('rms_norm_grad', x, a, 1);
    return [type, { shape: [type.shape[1]], dtype: 'f32' }];
  },
  reference([dy, x, w, , addend], a) {
    const d = x.shape[1];
    const offset = a.unit_offset as number;
    const dx = ndArray(x.shape);
    const dw = ndArray([d]);
    for (let t = 0; t < x.shape[0]; t++) {
      const row = x.data.subarray(t * d, (t + 1) * d);
      const g = dy.data.subarray(t * d, (t + 1) * d);
      const rstd = 1 / Math.sqrt(row.reduce((s, v) => s + v * v, 0) / d + (a.eps as number));
      let dot = 0;
      for (let j = 0; j < d; j++) dot += g[j] * (w.data[j] + offset) * row[j];
      for (let j = 0; j < d; j++) {
        dw.data[j] += g[j] * row[j] * rstd;
        dx.data[t * d + j] =
          rstd * g[j] * (w.data[j] + offset) - (rstd ** 3 / d) * dot * row[j] + (addend?.data[t * d + j] ?? 0);
      }
    }
    return [dx, dw];
  },
  cost: (x) => streamCost(x, [x[1]], 10),
  mayAlias: (a) => [[0, 0] as const, ...(a.addend ? [[0, 4] as const] : [])],
};

const layerNormDef: OpDef = {
  name: 'layer_norm',
  optionalOutputs: [1, 2],
  infer(x, a) {
    const t = inferNorm('layer_norm', x, a, 2);
    return [x[0], rows(t), rows(t)];
  },
  vjp({ inputs: [x, w], outputs: [, mean, rstd], cotangents }) {
    return [...apply(layerNormGradDef, [onlyFirst('layer_norm', cotangents), x, w, mean, rstd], { addend: 0 })];
  },
  reference([x, w, b], a) {
    const d = x.shape[1];
    const mean = ndArray([x.shape[0]]);
    const rstd = ndArray([x.shape[0]]);
    rowsOf(x).forEach((row, i) => {
      mean.data[i] = row.reduce((s, v) => s + v, 0) / d;
      rstd.data[i] = 1 / Math.sqrt(row.reduce((s, v) => s + (v - mean.data[i]) ** 2, 0) / d + (a.eps as number));
    });
    const at = (i: number): number => Math.floor(i / d);
    return [
      ndArray(x.shape, (i) => (x.data[i] - mean.data[at(i)]) * rstd.data[at(i)] * w.data[i % d] + b.data[i % d]),
      mean,
      rstd,
    ];
  },
  cost: (x) => streamCost(x, [x[0]], 7),
  recompute: 'cheap',
};

const layerNormGradDef: OpDef = {
  name: 'layer_norm_grad',
  optionalOutputs: [1, 2],
  infer(x, a) {
    const type = inferNormGrad('layer_norm_grad', x, a, 2);
    expectShape('layer_norm_grad', 'dy', x[0], type.shape);
    const d = { shape: [type.shape[1]], dtype: 'f32' } as const;
    return [type, d, d];
  },
  reference([dy, x, w, mean, rstd, addend]) {
    const d = x.shape[1];
    const dx = ndArray(x.shape);
    const dw = ndArray([d]);
    const db = ndArray([d]);
    for (let t = 0; t < x.shape[0]; t++) {
      let sumG = 0;
      let sumGx = 0;
      for (let j = 0; j < d; j++) {
        const i = t * d + j;
        const hat = (x.data[i] - mean.data[t]) * rstd.data[t];
        dw.data[j] += dy.data[i] * hat;
        db.data[j] += dy.data[i];
        sumG += dy.data[i] * w.data[j];
        sumGx += dy.data[i] * w.data[j] * hat;
      }
      for (let j = 0; j < d; j++) {
        const i = t * d + j;
        const hat = (x.data[i] - mean.data[t]) * rstd.data[t];
        dx.data[i] = rstd.data[t] * (dy.data[i] * w.data[j] - sumG / d - (hat * sumGx) / d) + (addend?.data[i] ?? 0);
      }
    }
    return [dx, dw, db];
  },
  cost: (x) => streamCost(x, [x[1]], 14),
  mayAlias: (a) => [[0, 0] as const, ...(a.addend ? [[0, 5] as const] : [])],
};

export const normOps = {
  rms_norm: rmsNormDef,
  rms_norm_grad: rmsNormGradDef,
  layer_norm: layerNormDef,
  layer_norm_grad: layerNormGradDef,
};

/** x / rms(x) * w, per row of `[T, D]`. */
export const rmsNorm = (x: Tensor, w: Tensor, eps: number, unitOffset = false): Tensor =>
  apply(rmsNormDef, [x, w], { eps, unit_offset: unitOffset ? 1 : 0 })[0];
/** (x - mean) / std * w + b, per row of `[T, D]`. */
export const layerNorm = (x: Tensor, w: Tensor, b: Tensor, eps: number): Tensor =>
  apply(layerNormDef, [x, w, b], { eps })[0];
