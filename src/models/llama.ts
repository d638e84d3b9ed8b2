/** LlamaForCausalLM (arXiv 2302.13971, 2407.21783). Config keys and defaults: transformers' LlamaConfig. */
import type { ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';
import { DecoderForCausalLM, parseDecoderConfig, type DecoderConfig } from './decoder';

const DEFAULTS = {
  vocabSize: 32000,
  hiddenSize: 4096,
  intermediateSize: 11008,
  layers: 32,
  heads: 32,
  kvHeads: null,
  headDim: null,
  maxPositions: 2048,
  activation: 'silu',
  tieWordEmbeddings: false,
};

export function parseLlamaConfig(raw: RawConfig): DecoderConfig {
  const c = new ConfigReader(raw);
  const bias = c.boolean('attention_bias', false);
  return {
    ...parseDecoderConfig(c, 'llama', DEFAULTS),
    qkvBias: bias,
    outputBias: bias,
    mlpBias: c.boolean('mlp_bias', false),
  };
}

export const llama: ModelFamily = {
  modelType: 'llama',
  architectures: ['LlamaForCausalLM'],
  build: (raw, options) => new DecoderForCausalLM(parseLlamaConfig(raw), options),
};
