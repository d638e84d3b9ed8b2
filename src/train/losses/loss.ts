/** What a training objective is: a description from a model and a batch's inputs to a scalar and its metrics. */
import type { Tensor } from '../../graph/tensor';
import type { CausalLm } from '../../models/causal-lm';

/** Token rows of a micro-batch as tensors; see docs/architecture.md, "Values". */
export interface BatchTensors {
  readonly inputIds: Tensor;
  readonly positionIds: Tensor;
  /** Shifted, -100 = not trained. */
  readonly labels: Tensor;
  readonly cuSeqlens: Tensor;
  /** Dropout key; null in evaluation. */
  readonly rng: Tensor | null;
}

export interface LossOutput {
  /** f32 `[1]`: the sum whose gradient is taken, before division by the label count of the step. */
  readonly lossSum: Tensor;
  /**
   * Sums over the batch by name, f32 `[1]` each; divided by the label count when logged. A loss that is not the negative
   * log-likelihood gives that as `nll`: perplexity is its exp.
   */
  readonly metricSums: Readonly<Record<string, Tensor>>;
}

export type Loss = (model: CausalLm, batch: BatchTensors) => LossOutput;
