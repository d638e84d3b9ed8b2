/** What every causal language model description offers; trainers, generation and plans use nothing else. */
import type { DType } from '../graph/dtype';
import type { Tensor } from '../graph/tensor';
import type { AttentionInputs, KvCacheShape } from '../nn/kv-cache';
import type { ForwardContext } from '../nn/layers';
import type { Module, Parameter } from '../nn/module';

/** Flat token inputs; see docs/architecture.md, "Values". */
export interface CausalInputs extends AttentionInputs, ForwardContext {
  /** i32 `[T]`. */
  readonly inputIds: Tensor;
  /** i32 `[T]`, restarting per document. */
  readonly positionIds: Tensor;
}

/** The parts of a config.json that code outside of the model reads. The raw object is kept for saving. */
export interface ModelConfig {
  readonly modelType: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly maxPositions: number;
  readonly tieWordEmbeddings: boolean;
  readonly raw: Readonly<Record<string, unknown>>;
}

export interface CausalLm extends Module {
  readonly config: ModelConfig;
  /** Dtype of activations. */
  readonly computeDtype: DType;
  /** Final hidden states `[T, D]`, after the last norm. */
  forward(inputs: CausalInputs): Tensor;
  /** The output head's weight `[V, D]`: the embedding when tied. */
  readonly head: Parameter;
  /** The input embedding `[V, D]`. */
  readonly embedding: Parameter;
  readonly logitScale: number;
  /** 0 = none. */
  readonly logitSoftcap: number;
  /** Rows of a learned table of positions, which no document may be longer than; absent where positions are computed. */
  readonly positionRows?: number;
  cacheShape(batch: number, length: number): KvCacheShape;
  /** PEFT's default LoRA targets for this architecture. */
  readonly loraTargets: readonly string[];
  /** What a person who trains this model should know about how it differs from the reference; sentences. */
  readonly notes?: readonly string[];
}

export interface BuildOptions {
  /** Storage dtype of dense weights and dtype of activations. */
  dtype: DType;
  /** Storage dtype of weights when it differs from the activations' (full training keeps f32 weights). */
  weightDtype?: DType;
}

/** How a `model_type` is parsed and built; one per file in models/. */
export interface ModelFamily {
  readonly modelType: string;
  readonly architectures: readonly string[];
  build(raw: Readonly<Record<string, unknown>>, options: BuildOptions): CausalLm;
  /** A checkpoint's key as the model's parameter name; null for a tensor that is no parameter. Default: as it is. */
  checkpointName?(key: string): string | null;
}
