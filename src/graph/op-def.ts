/**
 * OpDef: everything the system knows about one op, in one place (docs/architecture.md, "Ops").
 *
 * The shape rule, the vjp, the f64 reference and the cost lie side by side, so that reading one file tells the
 * whole truth about an op except how a backend computes it.
 */
import type { Attributes, Tensor, TensorType } from './tensor';
import type { DeviceSpec } from './device';

/** Plain f64 values for references. `data` is row-major; integers are stored as numbers. */
export interface NdArray {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export interface VjpContext {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly attributes: Attributes;
  /** Cotangents of the outputs; null where nothing flows back. */
  readonly cotangents: readonly (Tensor | null)[];
  /** True when input `i` lies on a path to something trainable: compute no gradient that nobody wants. */
  needs(i: number): boolean;
}

export interface Cost {
  /** Multiply and add count as two. */
  flops: number;
  /** Bytes read plus bytes written when nothing is cached. */
  bytes: number;
}

export interface OpDef {
  /** The string in the program; kernels are found by it. */
  readonly name: string;
  /** Output types, or throws LatheError ERR_SHAPE / ERR_DTYPE. */
  infer(x: readonly TensorType[], a: Attributes): TensorType[];
  /** Gradients of the inputs built from ops; null = no gradient. Absent: not differentiable. */
  vjp?(c: VjpContext): (Tensor | null)[];
  /** Plain f64 meaning of the op. */
  reference?(x: readonly NdArray[], a: Attributes, outputs: readonly TensorType[]): NdArray[];
  cost(x: readonly TensorType[], a: Attributes): Cost;
  /** Bytes of scratch a kernel needs; the same closed formula stands in the kernel's file. */
  scratchBytes?(x: readonly TensorType[], a: Attributes, device: DeviceSpec): number;
  /** Pairs [output, input] where the kernel may write the output over the input. */
  mayAlias?(a: Attributes, inputCount: number): readonly (readonly [number, number])[];
  /** Outputs a kernel skips when nobody reads them. */
  readonly optionalOutputs?: readonly number[];
  /** Attributes that describe the output type only and are not part of the program. */
  readonly typeAttributes?: readonly string[];
  /** A view of input 0: no kernel. */
  readonly view?: boolean;
  /** 'keep': smart checkpointing stores this op's outputs instead of recomputing them. */
  readonly recompute?: 'cheap' | 'keep';
  /** Memory class of the scratch and outputs in a plan's breakdown. */
  readonly memoryClass?: 'logits';
}
