/**
 * config.json of well-known models, so that a plan needs no download. Keys as published; only what a description reads.
 * Names are those of the Hub; gated mirrors that share a config are listed as aliases.
 */
import type { RawConfig } from './config-reader';

const llama = (o: RawConfig): RawConfig => ({ architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_act: 'silu', torch_dtype: 'bfloat16', ...o });

const gpt2 = (n_embd: number, n_layer: number, n_head: number): RawConfig => ({
  architectures: ['GPT2LMHeadModel'], model_type: 'gpt2', vocab_size: 50257, n_positions: 1024, n_embd, n_layer, n_head, activation_function: 'gelu_new', resid_pdrop: 0.1, embd_pdrop: 0.1,
  attn_pdrop: 0.1, layer_norm_epsilon: 1e-5, initializer_range: 0.02, bos_token_id: 50256, eos_token_id: 50256, tie_word_embeddings: true,
});

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
  'openai-community/gpt2': gpt2(768, 12, 12),
  'openai-community/gpt2-medium': gpt2(1024, 24, 16),
  'openai-community/gpt2-large': gpt2(1280, 36, 20),
  'openai-community/gpt2-xl': gpt2(1600, 48, 25),
  'distilbert/distilgpt2': gpt2(768, 6, 12),
  'mistralai/Mistral-7B-v0.1': {
    architectures: ['MistralForCausalLM'], model_type: 'mistral', hidden_act: 'silu', torch_dtype: 'bfloat16', vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32,
    num_attention_heads: 32, num_key_value_heads: 8, max_position_embeddings: 32768, rms_norm_eps: 1e-5, rope_theta: 10000, sliding_window: 4096, bos_token_id: 1, eos_token_id: 2, tie_word_embeddings: false,
  },
  'Qwen/Qwen2.5-0.5B': {
    architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', hidden_act: 'silu', torch_dtype: 'bfloat16', vocab_size: 151936, hidden_size: 896, intermediate_size: 4864, num_hidden_layers: 24,
    num_attention_heads: 14, num_key_value_heads: 2, max_position_embeddings: 32768, rms_norm_eps: 1e-6, rope_theta: 1000000, use_sliding_window: false, bos_token_id: 151643, eos_token_id: 151643, tie_word_embeddings: true,
  },
  'Qwen/Qwen3-0.6B': {
    architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', hidden_act: 'silu', torch_dtype: 'bfloat16', vocab_size: 151936, hidden_size: 1024, intermediate_size: 3072, num_hidden_layers: 28,
    num_attention_heads: 16, num_key_value_heads: 8, head_dim: 128, max_position_embeddings: 40960, rms_norm_eps: 1e-6, rope_theta: 1000000, use_sliding_window: false, bos_token_id: 151643, eos_token_id: 151645, tie_word_embeddings: true,
  },
  'google/gemma-2b': {
    architectures: ['GemmaForCausalLM'], model_type: 'gemma', hidden_act: 'gelu', torch_dtype: 'bfloat16', vocab_size: 256000, hidden_size: 2048, intermediate_size: 16384, num_hidden_layers: 18,
    num_attention_heads: 8, num_key_value_heads: 1, head_dim: 256, max_position_embeddings: 8192, rms_norm_eps: 1e-6, rope_theta: 10000, bos_token_id: 2, eos_token_id: 1, pad_token_id: 0, tie_word_embeddings: true,
  },
};

const ALIASES: Readonly<Record<string, string>> = {
  gpt2: 'openai-community/gpt2',
  'gpt2-medium': 'openai-community/gpt2-medium',
  'gpt2-large': 'openai-community/gpt2-large',
  'gpt2-xl': 'openai-community/gpt2-xl',
  distilgpt2: 'distilbert/distilgpt2',
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
