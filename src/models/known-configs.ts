/**
 * config.json of well-known models, so that a plan needs no download. Keys as published; only what a description reads.
 * Names are those of the Hub; gated mirrors that share a config are listed as aliases.
 */
import type { RawConfig } from './config-reader';

const llama = (o: RawConfig): RawConfig => ({ architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_act: 'silu', torch_dtype: 'bfloat16', ...o });

const LLAMA3_ROPE = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192, rope_type: 'llama3' };

const CONFIGS: Readonly<Record<string, RawConfig>> = {
  'meta-llama/Meta-Llama-3-8B': llama({
    vocab_size: 128256, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8,
    max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 500000, bos_token_id: 128000, eos_token_id: 128001, tie_word_embeddings: false,
  }),
  'meta-llama/Llama-3.1-8B': llama({
    vocab_size: 128256, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8,
    max_position_embeddings: 131072, rms_norm_eps: 1e-5, rope_theta: 500000, rope_scaling: LLAMA3_ROPE, bos_token_id: 128000, eos_token_id: 128001, tie_word_embeddings: false,
  }),
  'meta-llama/Llama-3.2-1B': llama({
    vocab_size: 128256, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64,
    max_position_embeddings: 131072, rms_norm_eps: 1e-5, rope_theta: 500000, rope_scaling: { ...LLAMA3_ROPE, factor: 32 }, bos_token_id: 128000, eos_token_id: 128001, tie_word_embeddings: true,
  }),
  'meta-llama/Llama-3.2-3B': llama({
    vocab_size: 128256, hidden_size: 3072, intermediate_size: 8192, num_hidden_layers: 28, num_attention_heads: 24, num_key_value_heads: 8, head_dim: 128,
    max_position_embeddings: 131072, rms_norm_eps: 1e-5, rope_theta: 500000, rope_scaling: { ...LLAMA3_ROPE, factor: 32 }, bos_token_id: 128000, eos_token_id: 128001, tie_word_embeddings: true,
  }),
  'meta-llama/Llama-2-7b-hf': llama({
    vocab_size: 32000, hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 32,
    max_position_embeddings: 4096, rms_norm_eps: 1e-5, bos_token_id: 1, eos_token_id: 2, tie_word_embeddings: false,
  }),
  'TinyLlama/TinyLlama-1.1B-Chat-v1.0': llama({
    vocab_size: 32000, hidden_size: 2048, intermediate_size: 5632, num_hidden_layers: 22, num_attention_heads: 32, num_key_value_heads: 4,
    max_position_embeddings: 2048, rms_norm_eps: 1e-5, bos_token_id: 1, eos_token_id: 2, tie_word_embeddings: false,
  }),
  'HuggingFaceTB/SmolLM2-135M': llama({
    vocab_size: 49152, hidden_size: 576, intermediate_size: 1536, num_hidden_layers: 30, num_attention_heads: 9, num_key_value_heads: 3,
    max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 100000, bos_token_id: 0, eos_token_id: 0, tie_word_embeddings: true,
  }),
  'HuggingFaceTB/SmolLM2-360M': llama({
    vocab_size: 49152, hidden_size: 960, intermediate_size: 2560, num_hidden_layers: 32, num_attention_heads: 15, num_key_value_heads: 5,
    max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 100000, bos_token_id: 0, eos_token_id: 0, tie_word_embeddings: true,
  }),
  'HuggingFaceTB/SmolLM2-1.7B': llama({
    vocab_size: 49152, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 24, num_attention_heads: 32, num_key_value_heads: 32,
    max_position_embeddings: 8192, rms_norm_eps: 1e-5, rope_theta: 130000, bos_token_id: 0, eos_token_id: 0, tie_word_embeddings: true,
  }),
};

const ALIASES: Readonly<Record<string, string>> = {
  'meta-llama/Meta-Llama-3-8B-Instruct': 'meta-llama/Meta-Llama-3-8B',
  'meta-llama/Llama-3.1-8B-Instruct': 'meta-llama/Llama-3.1-8B',
  'meta-llama/Llama-3.2-1B-Instruct': 'meta-llama/Llama-3.2-1B',
  'meta-llama/Llama-3.2-3B-Instruct': 'meta-llama/Llama-3.2-3B',
  'NousResearch/Meta-Llama-3-8B': 'meta-llama/Meta-Llama-3-8B',
  'unsloth/llama-3-8b': 'meta-llama/Meta-Llama-3-8B',
  'HuggingFaceTB/SmolLM2-135M-Instruct': 'HuggingFaceTB/SmolLM2-135M',
  'HuggingFaceTB/SmolLM2-360M-Instruct': 'HuggingFaceTB/SmolLM2-360M',
  'HuggingFaceTB/SmolLM2-1.7B-Instruct': 'HuggingFaceTB/SmolLM2-1.7B',
};

export const KNOWN_MODELS: readonly string[] = [...Object.keys(CONFIGS), ...Object.keys(ALIASES)];

/** The bundled config of a Hub name, or undefined. */
export function knownConfig(name: string): RawConfig | undefined {
  return CONFIGS[ALIASES[name] ?? name];
}
