/**
 * GemmaForCausalLM (arXiv 2403.08295): Llama with GELU, norms that multiply by 1 + weight, embeddings times sqrt(D), a
 * tied head. Config keys and defaults: transformers' GemmaConfig; a `hidden_act` of "gelu" means the tanh form, which is
 * what the published files mean by it.
 */
import { LatheError } from '../errors';
import { activationKind } from './activations';
import type { ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';
import { DecoderForCausalLM, parseDecoderConfig, type DecoderConfig } from './decoder';

const TANH = 'gelu_pytorch_tanh';
const DEFAULTS = {
  vocabSize: 256000,
  hiddenSize: 3072,
  intermediateSize: 24576,
  layers: 28,
  heads: 16,
  kvHeads: 16,
  headDim: 256,
  maxPositions: 8192,
  activation: TANH,
  tieWordEmbeddings: true,
};

export function parseGemmaConfig(raw: RawConfig): DecoderConfig {
  const c = new ConfigReader(raw);
  if (c.boolean('use_bidirectional_attention', false))
    throw new LatheError('ERR_UNSUPPORTED', 'use_bidirectional_attention is not supported', {
      at: 'config.json',
      remedy: 'use a causal Gemma',
    });
  const config = parseDecoderConfig(c, 'gemma', DEFAULTS);
  const bias = c.boolean('attention_bias', false);
  const key = c.has('hidden_activation') ? 'hidden_activation' : 'hidden_act';
  const named = c.string(key, TANH);
  return {
    ...config,
    qkvBias: bias,
    outputBias: bias,
    unitOffsetNorm: true,
    embeddingScale: Math.sqrt(config.hiddenSize),
    activation: activationKind(named === 'gelu' ? TANH : named, key),
  };
}

export const gemma: ModelFamily = {
  modelType: 'gemma',
  architectures: ['GemmaForCausalLM'],
  build: (raw, options) => new DecoderForCausalLM(parseGemmaConfig(raw), options),
};
