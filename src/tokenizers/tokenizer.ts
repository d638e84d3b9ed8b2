/**
 * Tokenizer: text to ids and back, special tokens, chat, saving. What transformers calls PreTrainedTokenizerFast.
 *
 * The work is done by Hugging Face's own library (`tokenizers`, Rust): the same code, so the same ids. It encodes on
 * its own threads, so `encode` and `encodeBatch` are asynchronous; decoding is cheap and synchronous. This class adds
 * what transformers adds on top: named special tokens, chat templates, the folder format.
 *
 * Invariants: a tokenizer that was not changed saves byte-identical files; ids never move when tokens are added;
 * offsets are UTF-16 positions (what `text.slice` takes), though the library counts code points.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AddedToken, Tokenizer as Backend } from 'tokenizers';
import { LatheError, nearest } from '../errors';
import { assistantSpans, maskOfSpans, type SpanOptions } from './chat-spans';
import { renderChat, selectChatTemplate, type ChatMessage, type ChatTemplateOptions } from './chat-template';
import { DecodeStream } from './decode-stream';
import { LazyEncoding, type EncodedText } from './encoded-text';
import {
  addedTokensDecoder,
  currentConfig,
  parseSpecialTokensUpdate,
  readSpecialTokens,
  type SpecialTokenTable,
  type SpecialTokensUpdate,
} from './special-tokens';
import {
  currentFormat,
  parseTokenizerJson,
  writeTokenizerFiles,
  type AddedTokenEntry,
  type Component,
  type TokenizerConfig,
  type TokenizerFiles,
} from './tokenizer-files';
import type { TextSource } from './train';
import { tokenizerTrainer, type TrainOptions } from './training-hook';

export interface EncodeOptions {
  /** Lets the post-processor add its tokens (BOS, CLS/SEP...); true by default. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leaves special tokens out; false by default. */
  skipSpecialTokens?: boolean;
  /** Removes blanks before punctuation (WordPiece models); the config's value by default, never for BPE. */
  cleanUpTokenizationSpaces?: boolean;
}

/** A conversation as ids, with mask[i] = 1 where the assistant wrote token i. */
export interface ChatSpans {
  text: string;
  ids: number[];
  mask: Uint8Array;
  /** [start, end) character ranges behind the mask. */
  spans: [number, number][];
}

/** tokenizer.json without its vocabulary: what is asked for after loading. */
interface Pipeline {
  modelType: string;
  unkToken?: string;
  preTokenizer?: Component | null;
  normalizer?: Component | null;
  postProcessor?: Component | null;
  decoder?: Component | null;
}

export class Tokenizer {
  /** Where the tokenizer came from (a folder, a GGUF file, 'trained'). */
  readonly origin: string;
  private readonly backend: Backend;
  private readonly files: TokenizerFiles;
  private readonly pipeline: Pipeline;
  private readonly special: SpecialTokenTable;
  private readonly added = new Map<string, AddedTokenEntry>();
  private readonly templates: Map<string, string>;
  private readonly tokens: (string | null | undefined)[] = [];
  /** The library's state is ahead of the text of tokenizer.json. */
  private jsonStale = false;
  /** Something differs from the files, other than tokens that loading them adds every time. */
  private changed = false;

  /** Use `AutoTokenizer.fromPretrained`, `tokenizerFromGguf` or `trainNewFromIterator`. */
  constructor(files: TokenizerFiles) {
    this.files = files;
    this.origin = files.origin;
    const json = parseTokenizerJson(files.tokenizerJson, files.origin);
    this.pipeline = {
      modelType: json.model.type ?? 'unknown',
      unkToken: json.model.unk_token ?? undefined,
      preTokenizer: json.pre_tokenizer,
      normalizer: json.normalizer,
      postProcessor: json.post_processor,
      decoder: json.decoder,
    };
    for (const entry of json.added_tokens ?? []) this.added.set(entry.content, entry);
    this.backend = openBackend(files);
    // Length is the caller's business (packing, truncation with a report), as in transformers when nothing is asked.
    this.backend.disableTruncation();
    this.backend.disablePadding();
    this.templates = files.chatTemplates;
    this.special = readSpecialTokens(files, (token) => this.tokenToId(token) !== undefined);
    this.addMissingTokens();
    this.changed = false;
  }

  // --- text to ids -------------------------------------------------------------------------------------------

  /** Ids of one text. */
  async encode(text: string, options: EncodeOptions = {}): Promise<number[]> {
    return (
      await this.backend.encode(requireText(text, 'text'), null, { addSpecialTokens: options.addSpecialTokens ?? true })
    ).getIds();
  }

  /** Ids and offsets of one text. */
  async encodeWithOffsets(text: string, options: EncodeOptions = {}): Promise<EncodedText> {
    const encoding = await this.backend.encode(requireText(text, 'text'), null, {
      addSpecialTokens: options.addSpecialTokens ?? true,
    });
    return new LazyEncoding(text, encoding);
  }

  /** Many texts at once, on all cores. Offsets are only computed when they are read. */
  async encodeBatch(texts: readonly string[], options: EncodeOptions = {}): Promise<EncodedText[]> {
    texts.forEach((text, i) => requireText(text, `texts[${i}]`));
    if (texts.length === 0) return [];
    const encodings = await this.backend.encodeBatch(texts as string[], {
      addSpecialTokens: options.addSpecialTokens ?? true,
    });
    return encodings.map((encoding, i) => new LazyEncoding(texts[i], encoding));
  }

  /** The text as the normalizer leaves it (NFC, lower case...), before it is cut into words. */
  normalize(text: string): string {
    return this.backend.getNormalizer()?.normalizeString(text) ?? text;
  }

  // --- ids to text -------------------------------------------------------------------------------------------

  /** Text of ids; ids outside the vocabulary are left out, as in the reference. */
  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const tokens: string[] = [];
    for (let i = 0; i < ids.length; i++) {
      const token = this.idToToken(ids[i]);
      if (token === undefined || (options.skipSpecialTokens && this.isSpecialToken(token))) continue;
      tokens.push(token);
    }
    const decoder = this.backend.getDecoder();
    const text = decoder ? decoder.decode(tokens) : tokens.join(' ');
    const cleanUp = options.cleanUpTokenizationSpaces ?? this.files.config.clean_up_tokenization_spaces === true;
    return cleanUp && this.pipeline.modelType !== 'BPE' ? cleanUpSpaces(text) : text;
  }

  /** A decoder that is fed one id at a time and gives out whole characters. */
  createDecoder(options: { skipSpecialTokens?: boolean } = {}): DecodeStream {
    const skip = options.skipSpecialTokens ?? false;
    return new DecodeStream({
      byteLevel: this.pipeline.decoder?.type === 'ByteLevel',
      tokenOf: (id) => {
        const token = this.idToToken(id);
        return token !== undefined && skip && this.isSpecialToken(token) ? undefined : token;
      },
      decode: (ids) => this.decode(ids, { cleanUpTokenizationSpaces: false }),
    });
  }

  // --- vocabulary --------------------------------------------------------------------------------------------

  /** Number of tokens, added ones included: the number of rows an embedding needs when ids have no gaps. */
  get vocabSize(): number {
    return this.backend.getVocabSize(true);
  }

  /** Number of tokens of the model itself. */
  get baseVocabSize(): number {
    return this.backend.getVocabSize(false);
  }

  /** token -> id of every token. A new object at each call. */
  getVocab(): Record<string, number> {
    return this.backend.getVocab(true);
  }

  tokenToId(token: string): number | undefined {
    return this.backend.tokenToId(token) ?? undefined;
  }

  idToToken(id: number): string | undefined {
    let token = this.tokens[id];
    if (token === undefined) {
      token = Number.isInteger(id) && id >= 0 ? this.backend.idToToken(id) : null;
      if (token !== null || id < this.vocabSize) this.tokens[id] = token;
    }
    return token ?? undefined;
  }

  /** 'BPE', 'WordPiece', 'Unigram' or 'WordLevel'. */
  get modelType(): string {
    return this.pipeline.modelType;
  }

  /** The pre-tokenizer as tokenizer.json describes it. */
  get preTokenizer(): Component | null | undefined {
    return this.pipeline.preTokenizer;
  }

  get normalizer(): Component | null | undefined {
    return this.pipeline.normalizer;
  }

  get postProcessor(): Component | null | undefined {
    return this.pipeline.postProcessor;
  }

  /** Tokens that were added on top of the model, by id. */
  get addedTokens(): AddedTokenEntry[] {
    return [...this.added.values()]
      .map((entry) => ({ ...entry, id: this.tokenToId(entry.content) }))
      .sort((a, b) => a.id! - b.id!);
  }

  get config(): Readonly<TokenizerConfig> {
    return this.files.config;
  }

  /** The model's longest input in tokens, when the config states a sensible one. */
  get modelMaxLength(): number | undefined {
    const value = this.files.config.model_max_length;
    return typeof value === 'number' && value < 1e9 ? value : undefined;
  }

  // --- special tokens ----------------------------------------------------------------------------------------

  get bosToken(): string | undefined {
    return this.special.named.get('bos_token');
  }
  set bosToken(token: string) {
    this.setNamed('bos_token', token);
  }
  get eosToken(): string | undefined {
    return this.special.named.get('eos_token');
  }
  set eosToken(token: string) {
    this.setNamed('eos_token', token);
  }
  get padToken(): string | undefined {
    return this.special.named.get('pad_token');
  }
  /** Names an existing token as padding; ERR_CONFIG for one that is not in the vocabulary. */
  set padToken(token: string) {
    this.setNamed('pad_token', token);
  }
  get unkToken(): string | undefined {
    return this.special.named.get('unk_token') ?? this.pipeline.unkToken;
  }
  get bosTokenId(): number | undefined {
    return this.specialId(this.bosToken);
  }
  get eosTokenId(): number | undefined {
    return this.specialId(this.eosToken);
  }
  get padTokenId(): number | undefined {
    return this.specialId(this.padToken);
  }
  get unkTokenId(): number | undefined {
    return this.specialId(this.unkToken);
  }
  get sepTokenId(): number | undefined {
    return this.specialId(this.special.named.get('sep_token'));
  }
  get clsTokenId(): number | undefined {
    return this.specialId(this.special.named.get('cls_token'));
  }
  get maskTokenId(): number | undefined {
    return this.specialId(this.special.named.get('mask_token'));
  }

  /** Named special tokens, e.g. 'eos_token' -> '</s>'. */
  get specialTokensMap(): ReadonlyMap<string, string> {
    return this.special.named;
  }

  /** Every special token's text: named, extra, and those marked special in tokenizer.json. */
  get allSpecialTokens(): string[] {
    const marked = [...this.added.values()].filter((entry) => entry.special).map((entry) => entry.content);
    return [...new Set([...this.special.named.values(), ...this.special.extra, ...marked])];
  }

  get allSpecialIds(): number[] {
    return this.allSpecialTokens.map((token) => this.tokenToId(token)).filter((id) => id !== undefined);
  }

  get extraSpecialTokens(): readonly string[] {
    return this.special.extra;
  }

  /**
   * Sets named special tokens and adds extra ones; tokens that the vocabulary lacks are appended to it.
   * Returns how many ids are new: what the model's embedding must grow by.
   * Errors: ERR_CONFIG for an unknown key or an empty token. snake_case keys are accepted too.
   */
  addSpecialTokens(update: SpecialTokensUpdate | Record<string, string | readonly string[]>): number {
    const before = this.vocabSize;
    const { named, extra } = parseSpecialTokensUpdate(update);
    this.addEntries(
      [...named.map(([, content]) => content), ...extra].map((content) => ({
        content,
        special: true,
        normalized: false,
      })),
    );
    for (const [name, content] of named) this.special.named.set(name, content);
    for (const content of extra) if (!this.special.extra.includes(content)) this.special.extra.push(content);
    this.changed ||= named.length + extra.length > 0;
    return this.vocabSize - before;
  }

  /** Appends ordinary tokens (matched whole before the model sees the text). Returns how many ids are new. */
  addTokens(tokens: readonly (string | AddedTokenEntry)[]): number {
    const before = this.vocabSize;
    this.addEntries(tokens.map((token) => (typeof token === 'string' ? { content: token } : token)));
    return this.vocabSize - before;
  }

  // --- chat --------------------------------------------------------------------------------------------------

  /** Templates by name; the unnamed one is 'default'. */
  get chatTemplates(): ReadonlyMap<string, string> {
    return this.templates;
  }

  /** The default chat template; setting it changes what is saved. */
  get chatTemplate(): string | undefined {
    return this.templates.get('default');
  }
  set chatTemplate(template: string) {
    this.templates.set('default', template);
    this.changed = true;
  }

  /** Renders a conversation; with `tokenize`, its ids. Special tokens are the template's business, so none are added. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: false }): string;
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions & { tokenize: true },
  ): Promise<number[]>;
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options: ChatTemplateOptions & { tokenize?: boolean } = {},
  ): string | Promise<number[]> {
    const text = renderChat(selectChatTemplate(this.templates, options), messages, this.special.named, options).text;
    return options.tokenize ? this.encode(text, { addSpecialTokens: false }) : text;
  }

  /**
   * A conversation as ids, and which of them the assistant wrote. Errors: ERR_DATA when the template's text of a
   * prefix is no prefix of its text of the whole (see chat-spans.ts).
   */
  async chatTemplateSpans(messages: readonly ChatMessage[], options: SpanOptions = {}): Promise<ChatSpans> {
    const template = selectChatTemplate(this.templates, options);
    const { text, spans } = assistantSpans(template, messages, this.special.named, this.allSpecialTokens, options);
    const { ids, offsets } = await this.encodeWithOffsets(text, { addSpecialTokens: false });
    return { text, ids, mask: maskOfSpans(spans, offsets), spans };
  }

  // --- training ----------------------------------------------------------------------------------------------

  /**
   * A new tokenizer with this one's pipeline and special tokens and a vocabulary learned from `texts`, as transformers'
   * `train_new_from_iterator`. This one stays as it is.
   * Errors: ERR_UNSUPPORTED when this is not byte-level BPE with a known pre-tokenizer; else as AutoTokenizer's.
   */
  trainNewFromIterator(texts: TextSource, options: TrainOptions): Promise<Tokenizer> {
    return tokenizerTrainer()(this, texts, options);
  }

  // --- saving ------------------------------------------------------------------------------------------------

  /**
   * Writes the tokenizer into `folder`, so that transformers loads it with equal ids. Nothing changed since it was
   * loaded: the same bytes as were read. Otherwise today's format (tokenizer.json, tokenizer_config.json,
   * chat_template.jinja).
   */
  savePretrained(folder: string): void {
    if (!this.changed && this.files.originals.size) {
      writeTokenizerFiles(folder, this.files.originals);
      return;
    }
    writeTokenizerFiles(
      folder,
      currentFormat(this.toJson(), currentConfig(this.files.config, this.special), this.templates),
    );
  }

  /** The text of tokenizer.json as it is now. */
  toJson(): string {
    if (!this.jsonStale) return this.files.tokenizerJson;
    // The library can only serialise to a file.
    const folder = mkdtempSync(join(tmpdir(), 'lathe-tokenizer-'));
    try {
      this.backend.save(join(folder, 'tokenizer.json'), true);
      return readFileSync(join(folder, 'tokenizer.json'), 'utf8');
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  // --- inside ------------------------------------------------------------------------------------------------

  private isSpecialToken(token: string): boolean {
    return this.added.get(token)?.special === true;
  }

  private specialId(token: string | undefined): number | undefined {
    return token === undefined ? undefined : this.tokenToId(token);
  }

  private setNamed(name: string, token: string): void {
    if (this.tokenToId(token) === undefined) {
      const close = nearest(token, this.added.keys());
      throw new LatheError('ERR_CONFIG', `expected a token of the vocabulary for ${name}, received '${token}'`, {
        at: this.origin,
        remedy: `${close ? `did you mean '${close}'? Otherwise ` : ''}add it with addSpecialTokens and resize the model's embedding`,
      });
    }
    this.special.named.set(name, token);
    this.changed = true;
  }

  /** Tokens that the config names and tokenizer.json does not add: the reference adds them when it loads. */
  private addMissingTokens(): void {
    const legacy = addedTokensDecoder(this.files.config);
    if (legacy.length === 0 && this.files.addedTokens) {
      const special = new Set([...this.special.named.values(), ...this.special.extra]);
      for (const [content, id] of Object.entries(this.files.addedTokens).sort((a, b) => a[1] - b[1])) {
        legacy.push({ id, content, special: special.has(content), normalized: !special.has(content) });
      }
    }
    const named = [...this.special.named.values(), ...this.special.extra].map(
      (content) => this.special.entries.get(content) ?? { content, special: true, normalized: false },
    );
    this.addEntries([...legacy, ...named].filter((entry) => !this.added.has(entry.content)));
  }

  private addEntries(entries: readonly AddedTokenEntry[]): void {
    const fresh = entries.filter((entry, i) => {
      if (typeof entry.content !== 'string' || entry.content === '') {
        throw new LatheError('ERR_CONFIG', `expected a token's text, received ${JSON.stringify(entry.content)}`, {
          at: this.origin,
          remedy: 'pass a non-empty string',
        });
      }
      const known = this.added.get(entry.content);
      const repeated = entries.findIndex((other) => other.content === entry.content) < i;
      return !repeated && (known === undefined || (entry.special === true && known.special !== true));
    });
    if (fresh.length === 0) return;
    this.backend.addAddedTokens(
      fresh.map(
        (entry) =>
          new AddedToken(entry.content, entry.special ?? false, {
            singleWord: entry.single_word ?? false,
            leftStrip: entry.lstrip ?? false,
            rightStrip: entry.rstrip ?? false,
            normalized: entry.normalized ?? !entry.special,
          }),
      ),
    );
    for (const entry of fresh) this.added.set(entry.content, { ...entry });
    this.tokens.length = 0;
    this.jsonStale = true;
    this.changed = true;
  }
}

function openBackend(files: TokenizerFiles): Backend {
  try {
    return Backend.fromString(files.tokenizerJson);
  } catch (cause) {
    throw new LatheError('ERR_FORMAT', `the tokenizers library refused tokenizer.json: ${(cause as Error).message}`, {
      at: files.origin,
      remedy:
        'copy tokenizer.json from the original model; if that one fails too, it needs a newer version of the package `tokenizers`',
      cause,
    });
  }
}

function requireText(text: unknown, at: string): string {
  if (typeof text === 'string') return text;
  throw new LatheError('ERR_DATA', `expected a text, received ${text === null ? 'null' : typeof text}`, {
    at,
    remedy: 'drop rows without text, or map them to strings',
  });
}

const CLEAN_UP: [string, string][] = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

function cleanUpSpaces(text: string): string {
  return CLEAN_UP.reduce((result, [from, to]) => result.replaceAll(from, to), text);
}
