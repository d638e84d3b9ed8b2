/**
 * Qwen3ForCausalLM (arXiv 2505.09388): Llama with a norm over each head of q and k and a head size of its own. Config keys
 * and defaults: transformers' Qwen3Config.
 */
import type { ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';
import { DecoderForCausalLM, parseDecoderConfig, type DecoderConfig } from './decoder';
import { qwenWindows } from './qwen2';

const DEFAULTS = {
  vocabSize: 151936,
  hiddenSize: 4096,
  intermediateSize: 22016,
  layers: 32,
  heads: 32,
  kvHeads: 32,
  headDim: 128,
  maxPositions: 32768,
  activation: 'silu',
  tieWordEmbeddings: false,
};

export function parseQwen3Config(raw: RawConfig): DecoderConfig {
  const c = new ConfigReader(raw);
  const config = parseDecoderConfig(c, 'qwen3', DEFAULTS);
  const bias = c.boolean('attention_bias', false);
  return { ...config, qkvBias: bias, outputBias: bias, qkNorm: true, windows: qwenWindows(c, config.layers) };
}

export const qwen3: ModelFamily = {
  modelType: 'qwen3',
  architectures: ['Qwen3ForCausalLM'],
  build: (raw, options) => new DecoderForCausalLM(parseQwen3Config(raw), options),
};
