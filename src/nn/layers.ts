/** The layers models are made of. Legend: T tokens, D model width, V vocabulary. */
import type { DType } from '../graph/dtype';
import type { Tensor } from '../graph/tensor';
import { readState, scope } from '../graph/trace';
import { cast } from '../ops/elementwise';
import { embedding } from '../ops/embedding';
import { computeOf, matmul } from '../ops/matmul';
import { layerNorm, rmsNorm } from '../ops/norm';
import { dropout } from '../ops/random';
import { Module, Parameter, type Init } from './module';

/** A low-rank pair beside a linear layer: y += scaling * dropout(x) A^T B^T. */
export interface LowRank {
  /** Adapter name; part of no checkpoint key. */
  readonly name: string;
  /** `[r, in]` and `[out, r]`. */
  readonly a: Parameter;
  readonly b: Parameter;
  readonly scaling: number;
  readonly dropout: number;
  active: boolean;
}

/** What every forward pass is given. */
export interface ForwardContext {
  /** Dropout key i32 `[4]`; null outside of training. */
  readonly rng: Tensor | null;
}

export interface LinearOptions {
  bias?: boolean;
  dtype: DType;
  init: Init;
  /** 'in_out' for GPT-2's Conv1D weights `[in, out]`. */
  layout?: 'out_in' | 'in_out';
}

/** y = x W^T + b, with LoRA pairs riding in the same GEMM. */
export class Linear extends Module {
  weight: Parameter;
  bias: Parameter | null;
  readonly layout: 'out_in' | 'in_out';
  readonly lowRank: LowRank[] = [];

  constructor(
    readonly inFeatures: number,
    readonly outFeatures: number,
    o: LinearOptions,
  ) {
    super();
    this.layout = o.layout ?? 'out_in';
    this.weight = new Parameter(
      this.layout === 'out_in' ? [outFeatures, inFeatures] : [inFeatures, outFeatures],
      o.dtype,
      o.init,
    );
    this.bias = o.bias ? new Parameter([outFeatures], o.dtype, { kind: 'zeros' }) : null;
  }

  /** x `[T, in]` -> `[T, out]`; `addend` `[T, out]` is added before rounding (the residual). */
  forward(x_TD: Tensor, ctx: ForwardContext, addend?: Tensor): Tensor {
    return scope(this.path, () => {
      const compute = computeOf(x_TD);
      const extra = this.lowRank
        .filter((pair) => pair.active)
        .map((pair, i) => {
          const dropped = ctx.rng ? dropout(x_TD, ctx.rng, pair.dropout, this.path, i) : x_TD;
          const h_TR = matmul(dropped, readState(pair.a.slot()), {
            transB: true,
            alpha: pair.scaling,
            compute,
            dtype: x_TD.dtype,
          });
          return { a: h_TR, b: readState(pair.b.slot()), transB: true };
        });
      return matmul(x_TD, this.weight.read(x_TD.dtype), {
        transB: this.layout === 'out_in',
        bias: this.bias?.read(x_TD.dtype),
        addend,
        compute,
        dtype: x_TD.dtype,
        extra,
      });
    });
  }
}

export class Embedding extends Module {
  weight: Parameter;

  constructor(rows: number, width: number, dtype: DType, init: Init) {
    super();
    this.weight = new Parameter([rows, width], dtype, init);
  }

  /** ids i32 `[T]` -> `[T, D]` in `dtype`. */
  forward(ids: Tensor, dtype: DType, scale = 1): Tensor {
    return scope(this.path, () => embedding(this.weight.read(dtype), ids, dtype, scale));
  }
}

export class RmsNorm extends Module {
  weight: Parameter;

  constructor(
    width: number,
    readonly eps: number,
    dtype: DType,
    readonly unitOffset = false,
  ) {
    super();
    this.weight = new Parameter([width], dtype, unitOffset ? { kind: 'zeros' } : { kind: 'ones' });
  }

  forward(x_TD: Tensor): Tensor {
    return scope(this.path, () => rmsNorm(x_TD, this.weight.read(x_TD.dtype), this.eps, this.unitOffset));
  }
}

export class LayerNorm extends Module {
  weight: Parameter;
  bias: Parameter;

  constructor(
    width: number,
    readonly eps: number,
    dtype: DType,
  ) {
    super();
    this.weight = new Parameter([width], dtype, { kind: 'ones' });
    this.bias = new Parameter([width], dtype, { kind: 'zeros' });
  }

  forward(x_TD: Tensor): Tensor {
    return scope(this.path, () => {
      const [weight, bias] = [this.weight.read(x_TD.dtype), this.bias.read(x_TD.dtype)];
      // Where only one of them is trained (LoRA with `bias: all`), that one is kept in fp32.
      const dtype = weight.dtype === bias.dtype ? weight.dtype : 'f32';
      return layerNorm(x_TD, cast(weight, dtype), cast(bias, dtype), this.eps);
    });
  }
}
