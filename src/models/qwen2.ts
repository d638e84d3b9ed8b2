/**
 * Qwen2ForCausalLM (arXiv 2407.10671): Llama with biases on q, k and v, always, and on nothing else. Config keys and
 * defaults: transformers' Qwen2Config.
 */
import { LatheError } from '../errors';
import type { ModelFamily } from './causal-lm';
import { ConfigReader, type RawConfig } from './config-reader';
import { DecoderForCausalLM, parseDecoderConfig, type DecoderConfig } from './decoder';

const DEFAULTS = {
  vocabSize: 151936,
  hiddenSize: 4096,
  intermediateSize: 22016,
  layers: 32,
  heads: 32,
  kvHeads: 32,
  headDim: null,
  maxPositions: 32768,
  activation: 'silu',
  tieWordEmbeddings: false,
};

export function parseQwen2Config(raw: RawConfig): DecoderConfig {
  const c = new ConfigReader(raw);
  const config = parseDecoderConfig(c, 'qwen2', DEFAULTS);
  return { ...config, qkvBias: true, windows: qwenWindows(c, config.layers) };
}

/** Windows by layer of Qwen2 and Qwen3: `layer_types`, or the layers from max_window_layers on; none unless switched on. */
export function qwenWindows(c: ConfigReader, layers: number): number[] {
  const window =
    c.boolean('use_sliding_window', false) && c.raw.sliding_window !== null ? c.size('sliding_window', 4096) : 0;
  const from = c.number('max_window_layers', 28);
  const types = c.raw.layer_types ?? Array.from({ length: layers }, (_, i) => (window && i >= from ? SLIDING : FULL));
  const known =
    Array.isArray(types) && types.length === layers && types.every((type) => type === SLIDING || type === FULL);
  if (!known)
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `layer_types expected ${layers} times ${FULL} or ${SLIDING}, received ${JSON.stringify(types)}`,
      { at: 'config.json' },
    );
  return types.map((type) => (type === SLIDING ? window : 0));
}

const SLIDING = 'sliding_attention';
const FULL = 'full_attention';

export const qwen2: ModelFamily = {
  modelType: 'qwen2',
  architectures: ['Qwen2ForCausalLM'],
  build: (raw, options) => new DecoderForCausalLM(parseQwen2Config(raw), options),
};
