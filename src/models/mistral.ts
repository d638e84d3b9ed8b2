/**
 * MistralForCausalLM (arXiv 2310.06825): Llama with a sliding window in every layer. Config keys and defaults: transformers'
 * MistralConfig; `sliding_window: null` means none, a missing key 4096.
 */
import type { ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';
import { DecoderForCausalLM, parseDecoderConfig, type DecoderConfig } from './decoder';

const DEFAULTS = {
  vocabSize: 32000,
  hiddenSize: 4096,
  intermediateSize: 14336,
  layers: 32,
  heads: 32,
  kvHeads: 8,
  headDim: null,
  maxPositions: 131072,
  activation: 'silu',
  tieWordEmbeddings: false,
};

export function parseMistralConfig(raw: RawConfig): DecoderConfig {
  const c = new ConfigReader(raw);
  const config = parseDecoderConfig(c, 'mistral', DEFAULTS);
  const window = raw.sliding_window === null ? 0 : c.size('sliding_window', 4096);
  return { ...config, windows: new Array<number>(config.layers).fill(window) };
}

export const mistral: ModelFamily = {
  modelType: 'mistral',
  architectures: ['MistralForCausalLM'],
  build: (raw, options) => new DecoderForCausalLM(parseMistralConfig(raw), options),
};
