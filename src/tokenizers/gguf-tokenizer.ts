/**
 * A tokenizer out of a GGUF file's metadata.
 *
 * A GGUF has no tokenizer.json; it has the vocabulary, token types, merges or scores, and names: `tokenizer.ggml.model`
 * for the algorithm and `tokenizer.ggml.pre` for the way text is cut into words. This file writes the tokenizer.json
 * that says the same. The `pre` name is the part that decides right or silently wrong ids, so a name that is not known
 * is an error and never a guess.
 *
 * 'gpt2' is byte-level BPE; 'llama' is SentencePiece BPE, whose merges are recovered from the pieces' scores.
 * Source: llama.cpp's vocabulary loader for the meaning of the keys; the scores-to-merges rule is that of transformers.
 */
import { LatheError } from '../errors';
import { isByteLevel, llamaCppDefaultPreTokenizer, preTokenizerComponent, toByteLevel } from './byte-level';
import { BOS_BY_DEFAULT, KNOWN_GGUF_PRE_TOKENIZERS, PRE_TOKENIZERS } from './gguf-pre-tokenizers';
import { Tokenizer } from './tokenizer';
import type { AddedTokenEntry, Component, TokenizerConfig, TokenizerJson } from './tokenizer-files';

/** The file's key-value pairs: numbers (or bigint), strings, booleans, and arrays of them. */
export type GgufMetadata = ReadonlyMap<string, unknown> | Record<string, unknown>;

/** What a GGUF says about text. */
export interface GgufTokenizerFiles {
  tokenizerJson: TokenizerJson;
  config: TokenizerConfig;
  chatTemplates: Map<string, string>;
  /** eos, eot and eom: generation stops at any of them. */
  stopTokenIds: number[];
}

// tokenizer.ggml.token_type
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const BYTE = 6;

/** A ready tokenizer. `origin` names the file in messages. Errors: ERR_FORMAT, ERR_UNSUPPORTED. */
export function tokenizerFromGguf(metadata: GgufMetadata, origin = 'GGUF metadata'): Tokenizer {
  const files = ggufTokenizerFiles(metadata, origin);
  return new Tokenizer({
    tokenizerJson: JSON.stringify(files.tokenizerJson),
    config: files.config,
    chatTemplates: files.chatTemplates,
    originals: new Map(),
    origin,
  });
}

/** tokenizer.json, config and templates that say what the metadata says. */
export function ggufTokenizerFiles(metadata: GgufMetadata, origin = 'GGUF metadata'): GgufTokenizerFiles {
  const get = (key: string): unknown =>
    metadata instanceof Map ? metadata.get(key) : (metadata as Record<string, unknown>)[key];
  const source = readVocabulary(get, origin);
  const json = source.model === 'gpt2' ? byteLevelBpe(source, get, origin) : sentencePieceBpe(source, get);
  return {
    tokenizerJson: json,
    config: tokenizerConfig(source, get),
    chatTemplates: templates(get),
    stopTokenIds: stopIds(get),
  };
}

interface Vocabulary {
  model: 'gpt2' | 'llama';
  tokens: string[];
  types: number[];
  merges: string[] | undefined;
  scores: number[] | undefined;
}

function readVocabulary(get: (key: string) => unknown, origin: string): Vocabulary {
  const model = get('tokenizer.ggml.model');
  if (model !== 'gpt2' && model !== 'llama') {
    throw new LatheError(
      model === undefined ? 'ERR_FORMAT' : 'ERR_UNSUPPORTED',
      `expected tokenizer.ggml.model 'gpt2' or 'llama', received ${JSON.stringify(model) ?? 'none'}`,
      {
        at: origin,
        remedy: "use the original model's tokenizer folder (tokenizer.json) together with the GGUF's weights",
      },
    );
  }
  const list = <T>(key: string, convert: (value: unknown) => T): T[] | undefined => {
    const value = get(`tokenizer.ggml.${key}`) as ArrayLike<unknown> | undefined;
    return value === undefined || value === null ? undefined : Array.from(value, convert);
  };
  const tokens = list('tokens', String);
  if (!tokens?.length) {
    throw new LatheError('ERR_FORMAT', 'expected tokenizer.ggml.tokens, received none', {
      at: origin,
      remedy: 'this GGUF carries no tokenizer; pass a tokenizer folder',
    });
  }
  const types = list('token_type', Number) ?? tokens.map(() => 1);
  const scores = list('scores', Number);
  const merges = list('merges', String);
  for (const [key, values] of [
    ['token_type', types],
    ['scores', scores],
  ] as const) {
    if (values && values.length !== tokens.length) {
      throw new LatheError(
        'ERR_FORMAT',
        `expected ${tokens.length} values of tokenizer.ggml.${key}, received ${values.length}`,
        { at: origin, remedy: 'the file is damaged: fetch it again' },
      );
    }
  }
  if (model === 'gpt2' && !merges) {
    throw new LatheError('ERR_FORMAT', "a 'gpt2' vocabulary needs tokenizer.ggml.merges, received none", {
      at: origin,
      remedy: 'convert the model again with a current converter',
    });
  }
  if (model === 'llama' && !merges && !scores) {
    throw new LatheError(
      'ERR_FORMAT',
      "a 'llama' vocabulary needs tokenizer.ggml.scores (or merges), received neither",
      { at: origin, remedy: 'convert the model again with a current converter' },
    );
  }
  return { model, tokens, types, merges, scores };
}

function byteLevelBpe(source: Vocabulary, get: (key: string) => unknown, origin: string): TokenizerJson {
  const pre = (get('tokenizer.ggml.pre') as string | undefined) ?? 'default';
  const kind = Object.hasOwn(PRE_TOKENIZERS, pre) ? PRE_TOKENIZERS[pre] : undefined;
  if (!kind && pre !== 'default') {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected a known tokenizer.ggml.pre (${KNOWN_GGUF_PRE_TOKENIZERS.join(', ')}), received '${pre}'`,
      {
        at: origin,
        remedy:
          "use the original model's tokenizer folder: a guessed pre-tokenizer would give wrong ids without a word",
      },
    );
  }
  // A normal token outside the byte alphabet was written as plain text by its converter.
  const spelled = source.tokens.map((token, id) =>
    isAdded(source.types[id]) || isByteLevel(token) ? token : toByteLevel(token),
  );
  const addBos = flag(get, 'add_bos_token', BOS_BY_DEFAULT.has(pre));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(source),
    normalizer: kind === 'qwen2' ? { type: 'NFC' } : null,
    pre_tokenizer: kind ? preTokenizerComponent(kind) : llamaCppDefaultPreTokenizer(),
    post_processor: postProcessor(source, get, addBos, flag(get, 'add_eos_token', false), true),
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: kind === 'llama3',
      vocab: vocabulary(spelled, origin),
      merges: source.merges!.map((merge) => splitMerge(merge, origin)),
    },
  };
}

function sentencePieceBpe(source: Vocabulary, get: (key: string) => unknown): TokenizerJson {
  const prefix = flag(get, 'add_space_prefix', true);
  const replaceBlank: Component = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const unknown = source.types.indexOf(UNKNOWN);
  const decoders: Component[] = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  if (prefix) decoders.push({ type: 'Strip', content: ' ', start: 1, stop: 0 });
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: addedTokens(source),
    normalizer: prefix
      ? { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, replaceBlank] }
      : replaceBlank,
    pre_tokenizer: null,
    post_processor: postProcessor(
      source,
      get,
      flag(get, 'add_bos_token', true),
      flag(get, 'add_eos_token', false),
      false,
    ),
    decoder: { type: 'Sequence', decoders },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unknown >= 0 ? source.tokens[unknown] : null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: source.types.includes(BYTE),
      ignore_merges: false,
      vocab: vocabulary(source.tokens, 'tokenizer.ggml.tokens'),
      merges: source.merges?.map((merge) => splitMerge(merge, 'tokenizer.ggml.merges')) ?? mergesFromScores(source),
    },
  };
}

/**
 * SentencePiece merges the neighbours whose union has the best score. As ranks: every way to split a piece into two
 * pieces is a merge, best score first; among equals longer left parts first, then longer right parts.
 */
function mergesFromScores(source: {
  tokens: readonly string[];
  types: readonly number[];
  scores?: readonly number[];
}): [string, string][] {
  const ids = new Map<string, number>();
  source.tokens.forEach((token, id) => {
    if (source.types[id] === 1 || source.types[id] === 5) ids.set(token, id);
  });
  const merges: { left: string; right: string; score: number; leftLength: number; rightLength: number }[] = [];
  for (const [token, id] of ids) {
    const chars = Array.from(token);
    const local: typeof merges = [];
    let cut = 0;
    for (let i = 1; i < chars.length; i++) {
      cut += chars[i - 1].length;
      const left = token.slice(0, cut);
      const right = token.slice(cut);
      if (ids.has(left) && ids.has(right))
        local.push({ left, right, score: source.scores![id], leftLength: i, rightLength: chars.length - i });
    }
    local.sort((a, b) => ids.get(a.left)! - ids.get(b.left)! || ids.get(a.right)! - ids.get(b.right)!);
    merges.push(...local);
  }
  merges.sort((a, b) => b.score - a.score || b.leftLength - a.leftLength || b.rightLength - a.rightLength);
  return merges.map(({ left, right }) => [left, right]);
}

function isAdded(type: number): boolean {
  return type === CONTROL || type === USER_DEFINED || type === UNKNOWN;
}

/** Control tokens are special; user-defined ones are matched whole but are text. */
function addedTokens(source: Vocabulary): AddedTokenEntry[] {
  return source.tokens.flatMap((content, id) =>
    isAdded(source.types[id]) && content !== ''
      ? [
          {
            id,
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: source.types[id] !== USER_DEFINED,
          },
        ]
      : [],
  );
}

function vocabulary(tokens: readonly string[], origin: string): Record<string, number> {
  // A null prototype, so that a token called __proto__ is a token.
  const vocab = Object.create(null) as Record<string, number>;
  tokens.forEach((token, id) => {
    if (token in vocab) {
      throw new LatheError(
        'ERR_FORMAT',
        `token ${JSON.stringify(token)} stands twice in the vocabulary: ids ${vocab[token]} and ${id}`,
        {
          at: origin,
          remedy: "use the original model's tokenizer folder",
        },
      );
    }
    vocab[token] = id;
  });
  return vocab;
}

function splitMerge(merge: string, origin: string): [string, string] {
  // A piece may itself start with a blank only in files that are not byte-level; the separator is the first one after a character.
  const at = merge.indexOf(' ', 1);
  if (at < 0)
    throw new LatheError('ERR_FORMAT', `expected a merge 'left right', received ${JSON.stringify(merge)}`, {
      at: origin,
      remedy: 'the file is damaged: fetch it again',
    });
  return [merge.slice(0, at), merge.slice(at + 1)];
}

function postProcessor(
  source: Vocabulary,
  get: (key: string) => unknown,
  addBos: boolean,
  addEos: boolean,
  byteLevel: boolean,
): Component | null {
  const bos = addBos ? tokenAt(source, get, 'bos_token_id') : undefined;
  const eos = addEos ? tokenAt(source, get, 'eos_token_id') : undefined;
  const offsets: Component | null = byteLevel
    ? { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true }
    : null;
  if (!bos && !eos) return offsets;
  const special = (token: { content: string }, sequence: number) => ({
    SpecialToken: { id: token.content, type_id: sequence },
  });
  const part = (id: 'A' | 'B', sequence: number) => [
    ...(bos ? [special(bos, sequence)] : []),
    { Sequence: { id, type_id: sequence } },
    ...(eos ? [special(eos, sequence)] : []),
  ];
  const used = [bos, eos].filter((token) => token !== undefined);
  const template: Component = {
    type: 'TemplateProcessing',
    single: part('A', 0),
    pair: [...part('A', 0), ...part('B', 1)],
    special_tokens: Object.fromEntries(
      used.map(({ content, id }) => [content, { id: content, ids: [id], tokens: [content] }]),
    ),
  };
  return offsets ? { type: 'Sequence', processors: [offsets, template] } : template;
}

function tokenAt(
  source: Vocabulary,
  get: (key: string) => unknown,
  key: string,
): { content: string; id: number } | undefined {
  const value = get(`tokenizer.ggml.${key}`);
  if (value === undefined || value === null) return undefined;
  const id = Number(value);
  const content = source.tokens[id];
  if (content === undefined) {
    throw new LatheError('ERR_FORMAT', `expected tokenizer.ggml.${key} below ${source.tokens.length}, received ${id}`, {
      at: 'GGUF metadata',
      remedy: 'the file is damaged: fetch it again',
    });
  }
  return { content, id };
}

function tokenizerConfig(source: Vocabulary, get: (key: string) => unknown): TokenizerConfig {
  const config: TokenizerConfig = { tokenizer_class: 'PreTrainedTokenizerFast', clean_up_tokenization_spaces: false };
  const names = {
    bos_token: 'bos_token_id',
    eos_token: 'eos_token_id',
    unk_token: 'unknown_token_id',
    pad_token: 'padding_token_id',
    sep_token: 'seperator_token_id',
    mask_token: 'mask_token_id',
  };
  for (const [name, key] of Object.entries(names)) {
    const token = tokenAt(source, get, key);
    if (token) config[name] = token.content;
  }
  const unknown = source.types.indexOf(UNKNOWN);
  if (config.unk_token === undefined && unknown >= 0) config.unk_token = source.tokens[unknown];
  return config;
}

function templates(get: (key: string) => unknown): Map<string, string> {
  const result = new Map<string, string>();
  const single = get('tokenizer.chat_template');
  if (typeof single === 'string') result.set('default', single);
  for (const name of (get('tokenizer.chat_templates') as string[] | undefined) ?? []) {
    const template = get(`tokenizer.chat_template.${name}`);
    if (typeof template === 'string') result.set(name, template);
  }
  return result;
}

function stopIds(get: (key: string) => unknown): number[] {
  const ids = ['eos_token_id', 'eot_token_id', 'eom_token_id']
    .map((key) => get(`tokenizer.ggml.${key}`))
    .filter((id) => id !== undefined && id !== null);
  return [...new Set(ids.map(Number))];
}

function flag(get: (key: string) => unknown, key: string, fallback: boolean): boolean {
  const value = get(`tokenizer.ggml.${key}`);
  return value === undefined || value === null ? fallback : Boolean(value);
}
