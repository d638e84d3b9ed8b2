/**
 * Training a byte-level BPE tokenizer on one's own text.
 *
 * The counting and merging is native (native/tokenizer: the `tokenizers` package can train, but takes no vocabulary
 * size, no special tokens and no iterator). This file feeds it and writes the tokenizer.json around what comes back.
 * With a tokenizer as model, its pipeline is kept and its vocabulary replaced, as transformers'
 * `train_new_from_iterator` does: special tokens first with their settings, then the alphabet, then the merges.
 *
 * Invariant: the same texts give the same tokenizer, whatever the number of threads and the batching.
 */
import { LatheError } from '../errors';
import { BYTE_ALPHABET, preTokenizerComponent, preTokenizerKind, type PreTokenizerKind } from './byte-level';
import type { BpeTrainingStats, NativeBpeResult, NativeTokenizerTraining } from './native-training';
import { currentConfig, readSpecialTokens } from './special-tokens';
import { Tokenizer } from './tokenizer';
import type { AddedTokenEntry, Component, TokenizerConfig, TokenizerJson } from './tokenizer-files';

export interface TrainTokenizerOptions {
  native: NativeTokenizerTraining;
  /** Tokens in all: special ones, alphabet and merges. */
  vocabSize: number;
  /** Pairs that occur less often are not merged. 0 by default with a model tokenizer, else 2. */
  minFrequency?: number;
  /** Get the first ids, in this order. With a model tokenizer: added behind its own. */
  specialTokens?: readonly string[];
  /** Old special token -> new one, for a model tokenizer. */
  specialTokensMap?: Readonly<Record<string, string>>;
  /** Characters of the byte-level alphabet to include in any case; all 256 by default, so that nothing is unknown. */
  initialAlphabet?: readonly string[];
  /** How words are cut when there is no model tokenizer; 'gpt2' by default. */
  preTokenizer?: PreTokenizerKind;
  /** Names for special tokens, when there is no model tokenizer. */
  bosToken?: string;
  eosToken?: string;
  padToken?: string;
  unkToken?: string;
  threads?: number;
  memoryCapBytes?: number;
  showProgress?: boolean;
  onProgress?: (progress: { phase: 'count' | 'merge'; done: number; total?: number }) => void;
}

export interface TrainedTokenizer {
  tokenizer: Tokenizer;
  stats: BpeTrainingStats;
}

export type TextSource = Iterable<string | readonly string[]> | AsyncIterable<string | readonly string[]>;

const BATCH_BYTES = 4 << 20;

/**
 * Learns a vocabulary from `texts` (single texts or batches of them).
 * Errors: ERR_CONFIG for a vocabulary smaller than its fixed part; ERR_DATA when there is no text or an item is none;
 * ERR_UNSUPPORTED for a model tokenizer that is not byte-level BPE with a known pre-tokenizer.
 */
export async function trainNewFromIterator(
  model: Tokenizer | null,
  texts: TextSource,
  options: TrainTokenizerOptions,
): Promise<TrainedTokenizer> {
  const shape = model ? shapeOf(model) : freshShape(options.preTokenizer ?? 'gpt2');
  const special = specialEntries(model, options);
  const alphabet = alphabetBytes(options.initialAlphabet ?? BYTE_ALPHABET);
  requireVocabSize(options.vocabSize, special.length + alphabet.length);
  const trainer = options.native.createBpeTrainer({
    vocabSize: options.vocabSize,
    minFrequency: options.minFrequency ?? (model ? 0 : 2),
    specialTokens: special.map((entry) => entry.content),
    initialAlphabet: alphabet,
    preTokenizer: shape.kind,
    threads: options.threads ?? 0,
    memoryCapBytes: options.memoryCapBytes ?? 0,
  });
  const report = reporter(options);
  let bytes = 0;
  // One batch is counted natively while the next one is read.
  let counting = Promise.resolve();
  for await (const batch of utf8Batches(texts, model?.normalizer ? (text) => model.normalize(text) : null)) {
    await counting;
    report('count', (bytes += batch.utf8.length));
    counting = Promise.resolve(trainer.feed(batch.utf8, batch.lengths));
    counting.catch(() => {}); // seen at the next await, and not as an unhandled rejection before it
  }
  await counting;
  if (bytes === 0)
    throw new LatheError('ERR_DATA', 'expected text to train on, received none', {
      at: 'texts',
      remedy: 'check the column that the texts come from',
    });
  const result = await trainer.train((_merges, tokens) => report('merge', tokens, options.vocabSize));
  report('merge', result.tokens.length, options.vocabSize);
  if (result.stats.words === 0)
    throw new LatheError('ERR_CONFIG', 'the memory cap left no word to learn from', {
      at: 'memoryCapBytes',
      remedy: 'raise it: a few hundred bytes per distinct word that matters',
    });

  const tokenizerJson = JSON.stringify(assemble(shape.json, special, result, options));
  const config = model ? renamedConfig(model, options) : freshConfig(options);
  const tokenizer = new Tokenizer({
    tokenizerJson,
    config,
    chatTemplates: new Map(model?.chatTemplates),
    originals: new Map(),
    origin: 'trained tokenizer',
  });
  return { tokenizer, stats: result.stats };
}

// --- what is trained ----------------------------------------------------------------------------------------------

interface Shape {
  kind: PreTokenizerKind;
  json: TokenizerJson;
}

function freshShape(kind: PreTokenizerKind): Shape {
  const json: TokenizerJson = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: preTokenizerComponent(kind),
    post_processor: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
    },
  };
  return { kind, json };
}

function shapeOf(model: Tokenizer): Shape {
  const json = JSON.parse(model.toJson()) as TokenizerJson;
  const kind = preTokenizerKind(json.pre_tokenizer);
  const plain = !json.model.continuing_subword_prefix && !json.model.end_of_word_suffix;
  if (json.model.type !== 'BPE' || kind === undefined || !plain) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected byte-level BPE with a known pre-tokenizer, received ${json.model.type} with ${JSON.stringify(json.pre_tokenizer)?.slice(0, 120)}`,
      {
        at: model.origin,
        remedy: "pass null as model and choose preTokenizer ('gpt2', 'gpt2-digits', 'llama3', 'qwen2')",
      },
    );
  }
  return { kind, json };
}

function specialEntries(model: Tokenizer | null, options: TrainTokenizerOptions): AddedTokenEntry[] {
  const renamed = (token: string) => options.specialTokensMap?.[token] ?? token;
  const kept = (model?.addedTokens ?? [])
    .filter((entry) => entry.special)
    .map((entry) => ({ ...entry, content: renamed(entry.content) }));
  const named = [options.bosToken, options.eosToken, options.padToken, options.unkToken].filter(
    (token) => token !== undefined,
  );
  const fresh = [...(options.specialTokens ?? []), ...named].map((content): AddedTokenEntry => ({ content }));
  const entries = new Map<string, AddedTokenEntry>();
  for (const entry of [...kept, ...fresh]) if (!entries.has(entry.content)) entries.set(entry.content, entry);
  if (entries.has(''))
    throw new LatheError('ERR_CONFIG', 'expected special tokens with a text, received an empty one', {
      at: 'specialTokens',
      remedy: 'remove it',
    });
  return [...entries.values()];
}

function alphabetBytes(characters: readonly string[]): Uint8Array {
  const bytes = characters.map((character) => {
    const byte = BYTE_ALPHABET.indexOf(character);
    if (byte < 0) {
      throw new LatheError(
        'ERR_CONFIG',
        `expected characters of the byte-level alphabet, received ${JSON.stringify(character)}`,
        {
          at: 'initialAlphabet',
          remedy: 'leave initialAlphabet out: all 256 are the default',
        },
      );
    }
    return byte;
  });
  return Uint8Array.from(new Set(bytes));
}

function requireVocabSize(vocabSize: number, fixed: number): void {
  if (Number.isInteger(vocabSize) && vocabSize > fixed && vocabSize < 2 ** 31) return;
  throw new LatheError(
    'ERR_CONFIG',
    `expected vocabSize above ${fixed} (special tokens and alphabet), received ${vocabSize}`,
    {
      at: 'vocabSize',
      remedy: 'use a larger vocabulary, or a smaller initialAlphabet',
    },
  );
}

// --- texts ----------------------------------------------------------------------------------------------------------

async function* utf8Batches(
  texts: TextSource,
  normalize: ((text: string) => string) | null,
): AsyncGenerator<{ utf8: Uint8Array; lengths: Uint32Array }> {
  // One buffer for all batches: who takes one has read it before asking for the next.
  const buffer = Buffer.allocUnsafe(BATCH_BYTES);
  let lengths: number[] = [];
  let bytes = 0;
  let row = 0;
  const take = () => {
    const batch = { utf8: buffer.subarray(0, bytes), lengths: Uint32Array.from(lengths) };
    lengths = [];
    bytes = 0;
    return batch;
  };
  for await (const item of texts) {
    // A wrong item is one text, which is then refused.
    for (const given of Array.isArray(item) ? item : [item]) {
      if (typeof given !== 'string') {
        throw new LatheError('ERR_DATA', `expected a text, received ${given === null ? 'null' : typeof given}`, {
          at: `texts[${row}]`,
          remedy: 'drop rows without text, or map rows to their text',
        });
      }
      row++;
      const text = normalize ? normalize(given) : given;
      // A UTF-16 unit becomes three bytes at most.
      if (3 * text.length > BATCH_BYTES - bytes && bytes > 0) yield take();
      if (3 * text.length > BATCH_BYTES) {
        const utf8 = Buffer.from(text, 'utf8');
        yield { utf8, lengths: Uint32Array.of(utf8.length) };
      } else {
        const written = buffer.write(text, bytes, 'utf8');
        lengths.push(written);
        bytes += written;
      }
    }
  }
  if (bytes > 0) yield take();
}

// --- the files --------------------------------------------------------------------------------------------------------

function assemble(
  shape: TokenizerJson,
  special: readonly AddedTokenEntry[],
  result: NativeBpeResult,
  options: TrainTokenizerOptions,
): TokenizerJson {
  const vocab = Object.create(null) as Record<string, number>;
  result.tokens.forEach((token, id) => (vocab[token] = id));
  const merges: [string, string][] = [];
  for (let i = 0; i < result.merges.length; i += 2)
    merges.push([result.tokens[result.merges[i]], result.tokens[result.merges[i + 1]]]);
  const unknown = shape.model.unk_token;
  return {
    ...shape,
    added_tokens: special.map((entry) => ({
      id: vocab[entry.content],
      content: entry.content,
      single_word: entry.single_word ?? false,
      lstrip: entry.lstrip ?? false,
      rstrip: entry.rstrip ?? false,
      normalized: entry.normalized ?? false,
      special: true,
    })),
    post_processor: renumbered(shape.post_processor, vocab, options),
    model: {
      ...shape.model,
      unk_token: unknown ? (options.specialTokensMap?.[unknown] ?? unknown) : null,
      vocab,
      merges,
    },
  };
}

/** The post-processor with the new ids (and names) of the tokens it adds. */
function renumbered(
  processor: Component | null | undefined,
  vocab: Record<string, number>,
  options: TrainTokenizerOptions,
): Component | null {
  if (!processor) return null;
  const rename = (token: string) => options.specialTokensMap?.[token] ?? token;
  const idOf = (token: string) => {
    const id = vocab[token];
    if (id !== undefined) return id;
    throw new LatheError(
      'ERR_CONFIG',
      `the model tokenizer's post-processor adds '${token}', which the new vocabulary lacks`,
      {
        at: 'post_processor',
        remedy: 'name it in specialTokens',
      },
    );
  };
  if (processor.type === 'Sequence') {
    return {
      ...processor,
      processors: (processor.processors as Component[]).map((part) => renumbered(part, vocab, options)),
    };
  }
  const result: Component = { ...processor };
  for (const end of ['cls', 'sep']) {
    const pair = processor[end] as [string, number] | undefined;
    if (Array.isArray(pair)) result[end] = [rename(pair[0]), idOf(rename(pair[0]))];
  }
  if (processor.type === 'TemplateProcessing') {
    const tokens = Object.values((processor.special_tokens ?? {}) as Record<string, { id: string; tokens: string[] }>);
    result.special_tokens = Object.fromEntries(
      tokens.map(({ id, tokens: parts }) => [
        rename(id),
        { id: rename(id), ids: parts.map((part) => idOf(rename(part))), tokens: parts.map(rename) },
      ]),
    );
    const pieces = (list: unknown) =>
      (list as { SpecialToken?: { id: string } }[]).map((piece) =>
        piece.SpecialToken ? { SpecialToken: { ...piece.SpecialToken, id: rename(piece.SpecialToken.id) } } : piece,
      );
    result.single = pieces(processor.single);
    result.pair = pieces(processor.pair);
  }
  return result;
}

function renamedConfig(model: Tokenizer, options: TrainTokenizerOptions): TokenizerConfig {
  const rename = (token: string) => options.specialTokensMap?.[token] ?? token;
  const nothing = { tokenizerJson: '', config: {}, chatTemplates: new Map(), originals: new Map(), origin: '' };
  const table = readSpecialTokens(nothing, () => false);
  for (const [name, token] of model.specialTokensMap) table.named.set(name, rename(token));
  table.extra = [...new Set([...model.extraSpecialTokens.map(rename), ...(options.specialTokens ?? [])])];
  return currentConfig(model.config, table);
}

function freshConfig(options: TrainTokenizerOptions): TokenizerConfig {
  const config: TokenizerConfig = { tokenizer_class: 'PreTrainedTokenizerFast', clean_up_tokenization_spaces: false };
  const named = {
    bos_token: options.bosToken,
    eos_token: options.eosToken,
    pad_token: options.padToken,
    unk_token: options.unkToken,
  };
  for (const [name, token] of Object.entries(named)) if (token !== undefined) config[name] = token;
  return config;
}

function reporter(options: TrainTokenizerOptions): (phase: 'count' | 'merge', done: number, total?: number) => void {
  let last = 0;
  return (phase, done, total) => {
    options.onProgress?.({ phase, done, total });
    if (!options.showProgress || (Date.now() - last < 500 && done !== total)) return;
    last = Date.now();
    const amount = phase === 'count' ? `${(done / 1e6).toFixed(1)} MB of text counted` : `${done} of ${total} tokens`;
    process.stderr.write(`tokenizer: ${amount}\n`);
  };
}
