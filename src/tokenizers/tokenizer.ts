/**
 * Tokenizer: text to ids and back, chat, training, saving. What transformers calls PreTrainedTokenizerFast; tokens and special
 * tokens are in vocabulary.ts.
 *
 * The work is done by Hugging Face's own library (`tokenizers`, Rust): the same code, so the same ids. It encodes on
 * its own threads, so `encode` and `encodeBatch` are asynchronous; decoding is cheap and synchronous. Where only ids are
 * asked for and the whole pipeline is known, the addon gives the same ids sooner (id-encoder.ts).
 *
 * Invariants: a tokenizer that was not changed saves byte-identical files;
 * offsets are UTF-16 positions (what `text.slice` takes), though the library counts code points.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LatheError } from '../errors';
import { assistantSpans, maskOfSpans, type SpanOptions } from './chat-spans';
import { renderChat, selectChatTemplate, type ChatMessage, type ChatTemplateOptions } from './chat-template';
import { DecodeStream } from './decode-stream';
import { LazyEncoding, type EncodedText } from './encoded-text';
import { IdEncoder } from './id-encoder';
import { currentConfig } from './special-tokens';
import { currentFormat, writeTokenizerFiles, type TokenizerFiles, type TokenizerJson } from './tokenizer-files';
import type { TextSource } from './train';
import { tokenizerTrainer, type TrainOptions } from './training-hook';
import { Vocabulary } from './vocabulary';

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

export class Tokenizer extends Vocabulary {
  private readonly templates: Map<string, string>;
  /** Made when it is first needed, anew when tokens were added; `encoder` is null where the pipeline is not known. */
  private fast: { encoder: IdEncoder | null; additions: number } | null = null;

  /** Use `AutoTokenizer.fromPretrained`, `tokenizerFromGguf` or `trainNewFromIterator`. */
  constructor(files: TokenizerFiles) {
    super(files);
    this.templates = files.chatTemplates;
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

  /** The ids of many texts, when nothing else is asked for: several times as fast where the pipeline is known (id-encoder.ts). */
  async encodeIds(texts: readonly string[], options: EncodeOptions = {}): Promise<ArrayLike<number>[]> {
    texts.forEach((text, i) => requireText(text, `texts[${i}]`));
    if (this.fast?.additions !== this.additions)
      this.fast = { encoder: IdEncoder.of(JSON.parse(this.toJson()) as TokenizerJson), additions: this.additions };
    const fast = this.fast.encoder;
    const known = fast ? texts.filter((text) => fast.knows(text)) : [];
    const slow = texts.filter((text) => !fast?.knows(text));
    const addSpecialTokens = options.addSpecialTokens ?? true;
    const [quick, others] = await Promise.all([
      fast && known.length ? fast.encode(known, addSpecialTokens) : [],
      this.encodeBatch(slow, options),
    ]);
    let [q, o] = [0, 0];
    return texts.map((text) => (fast?.knows(text) ? quick[q++] : others[o++].ids));
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
