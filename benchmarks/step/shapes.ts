/** Models and runs that the training benchmarks know. Weights are random: only shapes decide the time. */
import { LatheError } from '../../src/errors';
import type { RawConfig } from '../../src/models/config-reader';
import { knownConfig } from '../../src/models/known-configs';

export type ModelShape = 'smollm2-135m' | 'smollm2-360m' | 'tinyllama-1.1b' | 'gpt2-124m' | 'tiny';

export const MODEL_SHAPES: readonly ModelShape[] = [
  'smollm2-135m',
  'smollm2-360m',
  'tinyllama-1.1b',
  'gpt2-124m',
  'tiny',
];

const HUB: Partial<Record<ModelShape, string>> = {
  'smollm2-135m': 'HuggingFaceTB/SmolLM2-135M',
  'smollm2-360m': 'HuggingFaceTB/SmolLM2-360M',
  'tinyllama-1.1b': 'TinyLlama/TinyLlama-1.1B-Chat-v1.0',
};

/** As published, with dropout off: attention dropout is not the same computation in both programs. */
const GPT2: RawConfig = {
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  vocab_size: 50257,
  n_positions: 1024,
  n_embd: 768,
  n_layer: 12,
  n_head: 12,
  activation_function: 'gelu_new',
  layer_norm_epsilon: 1e-5,
  initializer_range: 0.02,
  embd_pdrop: 0,
  resid_pdrop: 0,
  attn_pdrop: 0,
  bos_token_id: 50256,
  eos_token_id: 50256,
  tie_word_embeddings: true,
};

/** For trying the commands out; its figures mean nothing. */
const TINY: RawConfig = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_act: 'silu',
  vocab_size: 1024,
  hidden_size: 128,
  intermediate_size: 256,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  bos_token_id: 0,
  eos_token_id: 0,
  tie_word_embeddings: true,
};

/** config.json of a shape; `layers` replaces its depth. */
export function shapeConfig(shape: ModelShape, layers?: number): RawConfig {
  const name = HUB[shape];
  const config = shape === 'tiny' ? TINY : shape === 'gpt2-124m' ? GPT2 : knownConfig(name!);
  if (!config) throw new LatheError('ERR_CONFIG', `the config of '${name}' is not bundled`);
  return layers === undefined
    ? config
    : { ...config, [config.model_type === 'gpt2' ? 'n_layer' : 'num_hidden_layers']: layers };
}

/** One training configuration. */
export interface TrainingRun {
  readonly shape: ModelShape;
  /** Storage and arithmetic of the base: f32, bf16 (full training keeps fp32 weights), or nf4 under bf16 arithmetic. */
  readonly base: 'f32' | 'bf16' | 'nf4';
  readonly train: 'lora' | 'full';
  readonly checkpoint: 'none' | 'block' | 'smart';
  readonly batch: number;
  readonly length: number;
  readonly threads: number;
  /** Folder of weights to read instead of drawing random ones. */
  readonly weights?: string;
}

/** The seven linear modules of a Llama layer. */
export const SEVEN_MODULES = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];
export const LORA_RANK = 16;

/** `smollm2-135m LoRA r16 nf4 2x512 checkpointing smart` */
export function runName(r: TrainingRun): string {
  return `${r.shape} ${r.train === 'lora' ? `LoRA r${LORA_RANK}` : 'full'} ${r.base} ${r.batch}x${r.length}${r.checkpoint === 'none' ? '' : ` checkpointing ${r.checkpoint}`}`;
}
