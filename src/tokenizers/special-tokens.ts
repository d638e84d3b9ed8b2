/**
 * Special tokens: the named ones (bos, eos, unk, sep, pad, cls, mask, and a model's own `*_token` keys) and the
 * unnamed "extra" ones.
 *
 * The files say the same thing in three ways (a string, an AddedToken object, a list), in two generations. This file
 * turns them into one table, and back into the keys that transformers 5 writes. Precedence as in transformers 5: a
 * config with `added_tokens_decoder` is complete; without it, special_tokens_map.json overrides the config's keys.
 * The oldest repositories (bert-base-uncased, gpt2, camembert-base) name no special token in any file: there the defaults of
 * transformers' classes hold.
 */
import { LatheError, nearest } from '../errors';
import type { AddedTokenEntry, TokenizerConfig, TokenizerFiles } from './tokenizer-files';

const NAMED_SPECIAL_TOKENS = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const;

export type SpecialTokenName = (typeof NAMED_SPECIAL_TOKENS)[number];

const BERT = { unk_token: '[UNK]', sep_token: '[SEP]', pad_token: '[PAD]', cls_token: '[CLS]', mask_token: '[MASK]' };
const ROBERTA = {
  bos_token: '<s>',
  eos_token: '</s>',
  unk_token: '<unk>',
  sep_token: '</s>',
  pad_token: '<pad>',
  cls_token: '<s>',
  mask_token: '<mask>',
};

/** Special tokens by family, as transformers' tokenizer classes have them by default. */
const FAMILY_DEFAULTS: Readonly<Record<string, Readonly<Partial<Record<SpecialTokenName, string>>>>> = {
  bert: BERT,
  distilbert: BERT,
  electra: BERT,
  mobilebert: BERT,
  roberta: ROBERTA,
  xlmroberta: ROBERTA,
  camembert: ROBERTA,
  bart: ROBERTA,
  albert: {
    bos_token: '[CLS]',
    eos_token: '[SEP]',
    unk_token: '<unk>',
    sep_token: '[SEP]',
    pad_token: '<pad>',
    cls_token: '[CLS]',
    mask_token: '[MASK]',
  },
  t5: { eos_token: '</s>', unk_token: '<unk>', pad_token: '<pad>' },
  gpt2: { bos_token: '<|endoftext|>', eos_token: '<|endoftext|>', unk_token: '<|endoftext|>' },
};

/** What a tokenizer's files say about special tokens. */
export interface SpecialTokenTable {
  /** 'eos_token' -> '</s>', in the order of NAMED_SPECIAL_TOKENS, then the model's own names. */
  named: Map<string, string>;
  extra: string[];
  /** Tokens with more than a text (lstrip, normalized...), by content; used when a token has to be added. */
  entries: Map<string, AddedTokenEntry>;
}

/** What a caller wants to set or add. */
export interface SpecialTokensUpdate {
  bosToken?: string;
  eosToken?: string;
  unkToken?: string;
  sepToken?: string;
  padToken?: string;
  clsToken?: string;
  maskToken?: string;
  /** Further special tokens (transformers 5 calls them extra, transformers 4 additional). */
  extraSpecialTokens?: readonly string[];
  additionalSpecialTokens?: readonly string[];
}

/** Splits an update into named and extra tokens; snake_case keys are accepted too. Errors: ERR_CONFIG for an unknown key. */
export function parseSpecialTokensUpdate(update: SpecialTokensUpdate | Record<string, string | readonly string[]>): {
  named: [string, string][];
  extra: string[];
} {
  const named: [string, string][] = [];
  const extra: string[] = [];
  for (const [key, value] of Object.entries(update)) {
    if (value === undefined || value === null) continue;
    const name = key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    if (name === 'extra_special_tokens' || name === 'additional_special_tokens')
      extra.push(...(value as readonly string[]));
    else if ((NAMED_SPECIAL_TOKENS as readonly string[]).includes(name) && typeof value === 'string')
      named.push([name, value]);
    else throw unknownSpecialToken(key);
  }
  return { named, extra };
}

/** Gathers the special tokens of a tokenizer's files. @param isKnown whether a token is in the vocabulary: a default that is not is no token here */
export function readSpecialTokens(files: TokenizerFiles, isKnown: (token: string) => boolean): SpecialTokenTable {
  const table: SpecialTokenTable = { named: new Map(), extra: [], entries: new Map() };
  const decoder = addedTokensDecoder(files.config);
  for (const entry of decoder) table.entries.set(entry.content, entry);
  const source: TokenizerConfig =
    decoder.length === 0 && files.specialTokensMap ? { ...files.config, ...files.specialTokensMap } : files.config;

  const defaults = FAMILY_DEFAULTS[files.family ?? ''] ?? {};
  for (const name of NAMED_SPECIAL_TOKENS) {
    const fallback = defaults[name];
    // null in a file means that there is none.
    setNamed(table, name, source[name] === undefined && fallback && isKnown(fallback) ? fallback : source[name]);
  }
  for (const [key, value] of Object.entries(source)) {
    if (key.endsWith('_token') && !table.named.has(key) && isToken(value)) setNamed(table, key, value);
  }
  const extra = source.extra_special_tokens ?? source.additional_special_tokens;
  if (Array.isArray(extra)) {
    for (const value of extra) {
      const content = tokenContent(value, table);
      if (content !== undefined && !table.extra.includes(content)) table.extra.push(content);
    }
  } else if (typeof extra === 'object' && extra !== null) {
    for (const [key, value] of Object.entries(extra)) setNamed(table, key, value);
  }
  return table;
}

/** The entries of a transformers 4 `added_tokens_decoder`, by ascending id. */
export function addedTokensDecoder(config: TokenizerConfig): AddedTokenEntry[] {
  const decoder = config.added_tokens_decoder;
  if (typeof decoder !== 'object' || decoder === null) return [];
  return Object.entries(decoder as Record<string, AddedTokenEntry>)
    .map(([id, entry]) => ({ ...entry, id: Number(id) }))
    .filter((entry) => typeof entry.content === 'string')
    .sort((a, b) => a.id - b.id);
}

/**
 * The config in today's format: special tokens inline as strings, `extra_special_tokens`, no `added_tokens_decoder`,
 * `additional_special_tokens` or `chat_template` (those live in tokenizer.json and .jinja files).
 */
export function currentConfig(config: TokenizerConfig, table: SpecialTokenTable): TokenizerConfig {
  const result: TokenizerConfig = { ...config };
  for (const key of ['added_tokens_decoder', 'additional_special_tokens', 'extra_special_tokens', 'chat_template'])
    delete result[key];
  for (const name of NAMED_SPECIAL_TOKENS) delete result[name];
  for (const [name, content] of table.named) result[name] = content;
  if (table.extra.length) result.extra_special_tokens = [...table.extra];
  result.tokenizer_class ??= 'PreTrainedTokenizerFast';
  result.backend ??= 'tokenizers';
  return result;
}

function isToken(value: unknown): boolean {
  return (
    typeof value === 'string' ||
    (typeof value === 'object' && value !== null && typeof (value as AddedTokenEntry).content === 'string')
  );
}

function setNamed(table: SpecialTokenTable, name: string, value: unknown): void {
  const content = tokenContent(value, table);
  if (content !== undefined) table.named.set(name, content);
}

function tokenContent(value: unknown, table: SpecialTokenTable): string | undefined {
  if (typeof value === 'string') return value;
  if (!isToken(value)) return undefined;
  const entry = value as AddedTokenEntry;
  if (!table.entries.has(entry.content)) table.entries.set(entry.content, { ...entry, special: true });
  return entry.content;
}

function unknownSpecialToken(key: string): LatheError {
  const known = [
    ...NAMED_SPECIAL_TOKENS.map((name) => name.replace(/_(.)/g, (_m, c: string) => c.toUpperCase())),
    'extraSpecialTokens',
    'additionalSpecialTokens',
  ];
  const close = nearest(key, known);
  return new LatheError('ERR_CONFIG', `expected one of [${known.join(', ')}] with a text, received '${key}'`, {
    at: 'addSpecialTokens',
    remedy: close ? `did you mean ${close}?` : 'pass unnamed tokens as extraSpecialTokens',
  });
}
