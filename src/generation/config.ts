/**
 * Generation settings: what transformers keeps in generation_config.json, plus what the caller says.
 *
 * Order of precedence: the call, generation_config.json, config.json (token ids only), transformers' defaults. null means
 * "not set" everywhere. Keys are accepted in camelCase and in snake_case. A setting that would change the output and is
 * not implemented is refused by name; one that cannot change it (cache implementation, library version...) is ignored.
 * Source: transformers 5, generation/configuration_utils.py.
 */
import { LatheError, nearest } from '../errors';

/** Settings of a call; every one is optional and has transformers' meaning. */
export interface GenerationOptions {
  /** New tokens per sequence at most; wins over maxLength. Without either: 20. */
  maxNewTokens?: number | null;
  /** Prompt and new tokens together. */
  maxLength?: number | null;
  /** No end token before this many new ones. */
  minNewTokens?: number | null;
  /** The same, counted with the prompt. */
  minLength?: number | null;
  /** Draw from the distribution; false (the default) takes the most probable token. */
  doSample?: boolean | null;
  temperature?: number | null;
  /** Keep the k most probable tokens; 0 = all. Default 50. */
  topK?: number | null;
  topP?: number | null;
  minP?: number | null;
  repetitionPenalty?: number | null;
  numReturnSequences?: number | null;
  /** Generation of a sequence ends when its text contains one of these; needs a tokenizer. */
  stopStrings?: string | readonly string[] | null;
  /** Tokens that end a sequence; [] = none. */
  eosTokenId?: number | readonly number[] | null;
  /** What an empty prompt starts with. */
  bosTokenId?: number | null;
  /** Tokens that are never generated. */
  suppressTokens?: readonly number[] | null;
  /** Tokens that are never generated first. */
  beginSuppressTokens?: readonly number[] | null;
  /** Same seed, same prompts, same settings: same text. Default 42. */
  seed?: number | null;
}

/** Every setting decided. */
export interface GenerationConfig {
  readonly maxNewTokens: number | null;
  readonly maxLength: number | null;
  readonly minNewTokens: number;
  readonly minLength: number;
  readonly doSample: boolean;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly numReturnSequences: number;
  readonly stopStrings: readonly string[];
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly suppressTokens: readonly number[];
  readonly beginSuppressTokens: readonly number[];
  readonly seed: number;
}

/** New tokens when nobody said how many: transformers' model-agnostic default. */
export const DEFAULT_NEW_TOKENS = 20;

type Check = { readonly expected: string; readonly ok: (value: unknown) => boolean };

const number = (expected: string, ok: (n: number) => boolean): Check => ({
  expected,
  ok: (v) => typeof v === 'number' && Number.isFinite(v) && ok(v),
});
const count = (low: number): Check =>
  number(`an integer of at least ${low}`, (n) => Number.isSafeInteger(n) && n >= low);
const ids = (v: unknown): boolean => Array.isArray(v) && v.every((id) => Number.isSafeInteger(id) && id >= 0);
const idList: Check = { expected: 'a list of token ids', ok: ids };

const CHECKS: Readonly<Record<keyof GenerationOptions, Check>> = {
  maxNewTokens: count(1),
  maxLength: count(1),
  minNewTokens: count(0),
  minLength: count(0),
  doSample: { expected: 'true or false', ok: (v) => typeof v === 'boolean' },
  temperature: number('a number of at least 0', (n) => n >= 0),
  topK: count(0),
  topP: number('a number above 0, at most 1', (n) => n > 0 && n <= 1),
  minP: number('a number from 0 to 1', (n) => n >= 0 && n <= 1),
  repetitionPenalty: number('a number above 0', (n) => n > 0),
  numReturnSequences: count(1),
  stopStrings: {
    expected: 'a text or a list of texts, none empty',
    ok: (v) => [v].flat().every((s) => typeof s === 'string' && s !== ''),
  },
  eosTokenId: { expected: 'a token id or a list of them', ok: (v) => ids([v].flat()) },
  bosTokenId: count(0),
  suppressTokens: idList,
  beginSuppressTokens: idList,
  seed: count(0),
};

/** Settings that change the output and are not implemented, with the values at which they do nothing. */
const UNSUPPORTED: Readonly<Record<string, readonly unknown[]>> = {
  num_beams: [1],
  num_beam_groups: [1],
  penalty_alpha: [0],
  dola_layers: [],
  typical_p: [1],
  top_h: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  encoder_repetition_penalty: [1],
  no_repeat_ngram_size: [0],
  encoder_no_repeat_ngram_size: [0],
  bad_words_ids: [],
  force_words_ids: [],
  constraints: [],
  sequence_bias: [],
  forced_bos_token_id: [],
  forced_eos_token_id: [],
  exponential_decay_length_penalty: [],
  guidance_scale: [1],
  watermarking_config: [],
  remove_invalid_values: [false],
  token_healing: [false],
  max_time: [],
};

/** Settings without influence on what is generated here; length_penalty and its like act on beams only. */
const IGNORED = new Set([
  'transformers_version',
  '_from_model_config',
  'use_cache',
  'cache_implementation',
  'cache_config',
  'return_legacy_cache',
  'pad_token_id',
  'decoder_start_token_id',
  'early_stopping',
  'length_penalty',
  'diversity_penalty',
  'renormalize_logits',
  'low_memory',
  'output_attentions',
  'output_hidden_states',
  'output_scores',
  'output_logits',
  'return_dict_in_generate',
  'prompt_lookup_num_tokens',
  'max_matching_ngram_size',
  'prefill_chunk_size',
  'is_assistant',
  'num_assistant_tokens',
  'num_assistant_tokens_schedule',
  'assistant_confidence_threshold',
  'assistant_early_exit',
  'assistant_lookbehind',
  'target_lookbehind',
  'compile_config',
  'disable_compile',
]);

const camel = (key: string): string => key.replace(/(?<=[a-z0-9])_([a-z])/g, (_, c: string) => c.toUpperCase());
const snake = (key: string): string => key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);

/**
 * Checks one source of settings and gives its non-null ones under their camelCase names.
 * Errors: ERR_CONFIG for a wrong value or (with `strict`) an unknown key, ERR_UNSUPPORTED for what is not implemented.
 */
function readSettings(
  source: Readonly<Record<string, unknown>>,
  at: string,
  strict: boolean,
): Partial<Record<keyof GenerationOptions, unknown>> {
  const found: Partial<Record<keyof GenerationOptions, unknown>> = {};
  for (const [key, value] of Object.entries(source)) {
    if (value === null || value === undefined) continue;
    const name = camel(key) as keyof GenerationOptions;
    if (Object.hasOwn(CHECKS, name)) {
      if (!CHECKS[name].ok(value))
        throw new LatheError(
          'ERR_CONFIG',
          `${name} expected ${CHECKS[name].expected}, received ${JSON.stringify(value)}`,
          { at },
        );
      found[name] = value;
      continue;
    }
    const neutral = Object.hasOwn(UNSUPPORTED, snake(key)) ? UNSUPPORTED[snake(key)] : undefined;
    if (neutral && !neutral.includes(value)) {
      throw new LatheError('ERR_UNSUPPORTED', `${key} = ${JSON.stringify(value)} is not supported`, {
        at,
        remedy: `leave ${key} out${neutral.length ? ` or set it to ${JSON.stringify(neutral[0])}` : ''}`,
      });
    }
    if (strict && !neutral && !IGNORED.has(snake(key))) {
      const close = nearest(name, Object.keys(CHECKS));
      throw new LatheError('ERR_CONFIG', `unknown generation setting '${key}'`, {
        at,
        remedy: close ? `did you mean '${close}'?` : `known are ${Object.keys(CHECKS).join(', ')}`,
      });
    }
  }
  return found;
}

/**
 * All settings, decided.
 * @param file generation_config.json, if there is one; @param model config.json, for its token ids.
 * Errors: as `readSettings`; ERR_CONFIG for settings that contradict each other.
 */
export function resolveGenerationConfig(
  options: GenerationOptions,
  file: Readonly<Record<string, unknown>> | null = null,
  model: Readonly<Record<string, unknown>> = {},
): GenerationConfig {
  const call = readSettings(options as Record<string, unknown>, 'generation options', true);
  const stored = readSettings(file ?? {}, 'generation_config.json', false);
  // A length given in the call is meant, whatever kind of length the file holds.
  if (call.maxLength !== undefined) delete stored.maxNewTokens;
  const { eos_token_id: eosTokenId, bos_token_id: bosTokenId } = model;
  const set = { ...readSettings({ eosTokenId, bosTokenId }, 'config.json', false), ...stored, ...call } as {
    [K in keyof GenerationOptions]: NonNullable<GenerationOptions[K]>;
  };
  const config: GenerationConfig = {
    maxNewTokens: set.maxNewTokens ?? null,
    maxLength: set.maxLength ?? null,
    minNewTokens: set.minNewTokens ?? 0,
    minLength: set.minLength ?? 0,
    doSample: set.doSample ?? false,
    temperature: set.temperature ?? 1,
    topK: set.topK ?? 50,
    topP: set.topP ?? 1,
    minP: set.minP ?? 0,
    repetitionPenalty: set.repetitionPenalty ?? 1,
    numReturnSequences: set.numReturnSequences ?? 1,
    stopStrings: [set.stopStrings ?? []].flat(),
    eosTokenIds: [...new Set([set.eosTokenId ?? []].flat())],
    bosTokenId: set.bosTokenId ?? null,
    suppressTokens: set.suppressTokens ?? [],
    beginSuppressTokens: set.beginSuppressTokens ?? [],
    seed: set.seed ?? 42,
  };
  if (config.doSample && config.temperature === 0) {
    throw new LatheError('ERR_CONFIG', 'temperature 0 cannot be sampled from', {
      at: 'generation options',
      remedy: 'set doSample: false to take the most probable token',
    });
  }
  if (!config.doSample && config.numReturnSequences > 1) {
    throw new LatheError(
      'ERR_CONFIG',
      `numReturnSequences ${config.numReturnSequences} would return the same greedy text each time`,
      { at: 'generation options', remedy: 'set doSample: true' },
    );
  }
  return config;
}

/** The `sample` op's parameters. */
export function sampleParameters(c: GenerationConfig): Float32Array {
  return Float32Array.of(c.temperature, c.topK, c.topP, c.minP, c.repetitionPenalty, c.doSample ? 1 : 0, 0, 0);
}
