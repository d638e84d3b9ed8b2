/**
 * The tokens of a tokenizer: their ids, which of them are special, and adding more. The part of `Tokenizer` that is about tokens
 * and not about texts.
 *
 * Invariants: ids never move when tokens are added; tokens that the files name and tokenizer.json lacks are there after loading.
 */
import { AddedToken, Tokenizer as Backend } from 'tokenizers';
import { LatheError, nearest } from '../errors';
import {
  addedTokensDecoder,
  parseSpecialTokensUpdate,
  readSpecialTokens,
  type SpecialTokenTable,
  type SpecialTokensUpdate,
} from './special-tokens';
import {
  parseTokenizerJson,
  type AddedTokenEntry,
  type Component,
  type TokenizerConfig,
  type TokenizerFiles,
} from './tokenizer-files';

/** tokenizer.json without its vocabulary: what is asked for after loading. */
interface Pipeline {
  modelType: string;
  unkToken?: string;
  preTokenizer?: Component | null;
  normalizer?: Component | null;
  postProcessor?: Component | null;
  decoder?: Component | null;
}

export class Vocabulary {
  /** Where the tokenizer came from (a folder, a GGUF file, 'trained'). */
  readonly origin: string;
  protected readonly backend: Backend;
  protected readonly files: TokenizerFiles;
  protected readonly pipeline: Pipeline;
  protected readonly special: SpecialTokenTable;
  protected readonly added = new Map<string, AddedTokenEntry>();
  private readonly tokens: (string | null | undefined)[] = [];
  /** The library's state is ahead of the text of tokenizer.json. */
  protected jsonStale = false;
  /** Something differs from the files, other than tokens that loading them adds every time. */
  protected changed = false;
  /** Times that tokens were added. */
  protected additions = 0;

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
    this.special = readSpecialTokens(files, (token) => this.tokenToId(token) !== undefined);
    this.addMissingTokens();
    this.changed = false;
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

  // --- inside ------------------------------------------------------------------------------------------------

  protected isSpecialToken(token: string): boolean {
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
    this.additions++;
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
