/**
 * Rows to examples: encode, mask.
 *
 * The idea: what TRL's SFTTrainer does to a dataset, in one pass and with notes. Plain text and completions get the
 * EOS token if they do not end with it; conversations are rendered by the chat template, whose business special
 * tokens are. The completion begins where the tokens of the prompt and of prompt + completion part; when that is not
 * the end of the prompt, the example carries a note and the doctor stops the run.
 *
 * Invariants: examples keep the order of their rows; a row that cannot be used is an error, or reported to `onBadRow`.
 * Source: trl/trainer/sft_trainer.py `_prepare_dataset`; trl <= 0.19 DataCollatorForCompletionOnlyLM.
 */
import { hasCode, LatheError } from '../errors';
import type { OnBadRow } from './byte-source';
import { RowFormatter, type FormatOptions, type NormalRow, type RowKind } from './format';
import { commonPrefixLength, maskBefore, maskByFlags, maskByTemplate } from './masks';
import type {
  ChatMessage,
  ChatRenderOptions,
  EncodedText,
  ExampleNote,
  PrefixMismatch,
  Row,
  TextTokenizer,
  TokenizedExample,
} from './types';

export interface RowEncoderOptions extends FormatOptions {
  /** Train completions only; default: true for rows with a prompt and a completion. */
  completionOnlyLoss?: boolean;
  /** Train what the assistant wrote only; needs conversations. */
  assistantOnlyLoss?: boolean;
  /** Train what follows this text (or these ids) only. */
  responseTemplate?: string | readonly number[];
  /** With responseTemplate: where instructions begin, for rows with several turns. */
  instructionTemplate?: string | readonly number[];
  /** End texts and completions with the EOS token (true). */
  appendEos?: boolean;
  /** Let the tokenizer add BOS and the like to texts (true); never to rendered conversations. */
  addSpecialTokens?: boolean;
  /** Told of a row that lacks what its kind needs, which is then left out; default: it is an error. */
  onBadRow?: OnBadRow;
}

/** Texts collected for one call of the tokenizer; each remembers its place in the answer. */
class EncodeQueue {
  private readonly texts: string[] = [];
  private encoded: EncodedText[] = [];

  add(text: string): number {
    return this.texts.push(text) - 1;
  }

  async run(tokenizer: TextTokenizer, addSpecialTokens: boolean, needsOffsets: boolean): Promise<void> {
    const { texts } = this;
    if (texts.length === 0) return;
    if (needsOffsets || !tokenizer.encodeIds) this.encoded = await tokenizer.encodeBatch(texts, { addSpecialTokens });
    else this.encoded = (await tokenizer.encodeIds(texts, { addSpecialTokens })).map((ids) => ({ ids, offsets: [] }));
  }

  get(i: number): { text: string; encoded: EncodedText } {
    return { text: this.texts[i], encoded: this.encoded[i] };
  }
}

interface EncodedRow {
  ids: ArrayLike<number>;
  /** Ids of the prompt alone, for rows with a completion. */
  promptIds?: ArrayLike<number>;
  assistantMask?: Uint8Array;
  labels?: number[];
  /** The text and its encoding, to tell how a template that was not found is spelt there. */
  source?: { text: string; encoded: EncodedText };
  hasAnswer: boolean;
}

/** Rows of one kind to examples; the kind is that of the first row. */
export class RowEncoder {
  private readonly formatter: RowFormatter;

  private constructor(
    private readonly tokenizer: TextTokenizer,
    private readonly options: RowEncoderOptions,
    private readonly responseIds: ArrayLike<number> | undefined,
    private readonly instructionIds: ArrayLike<number> | undefined,
  ) {
    this.formatter = new RowFormatter(options);
  }

  static async create(tokenizer: TextTokenizer, options: RowEncoderOptions): Promise<RowEncoder> {
    if (options.instructionTemplate !== undefined && options.responseTemplate === undefined) {
      throw new LatheError('ERR_CONFIG', 'instructionTemplate: expected responseTemplate beside it, received none', {
        remedy: 'give both, or use assistantOnlyLoss',
      });
    }
    const idsOf = async (
      template: string | readonly number[] | undefined,
      name: string,
    ): Promise<ArrayLike<number> | undefined> => {
      if (template === undefined) return undefined;
      const ids =
        typeof template === 'string'
          ? (await tokenizer.encodeBatch([template], { addSpecialTokens: false }))[0].ids
          : template;
      if (ids.length > 0) return ids;
      throw new LatheError(
        'ERR_CONFIG',
        `${name}: expected text with at least one token, received ${JSON.stringify(template)}`,
        { remedy: 'write the text that precedes every answer' },
      );
    };
    return new RowEncoder(
      tokenizer,
      options,
      await idsOf(options.responseTemplate, 'responseTemplate'),
      await idsOf(options.instructionTemplate, 'instructionTemplate'),
    );
  }

  get kind(): RowKind | undefined {
    return this.formatter.kind;
  }

  /** One example per row that can be used; row i of the batch is dataset row `first` + i. */
  async encode(batch: Row[], first: number, describeRow: (row: number) => string): Promise<TokenizedExample[]> {
    const plain = new EncodeQueue();
    const chat = new EncodeQueue();
    const pending = batch.map((row, i) => this.enqueueOr(row, plain, chat, describeRow(first + i)));
    // Only the report of a template that was not found tells where tokens lie.
    const needsOffsets = this.responseIds !== undefined;
    await plain.run(this.tokenizer, this.options.addSpecialTokens ?? true, needsOffsets);
    await chat.run(this.tokenizer, false, needsOffsets);
    const examples: TokenizedExample[] = [];
    for (let i = 0; i < pending.length; i++) {
      const collect = pending[i];
      if (collect) examples.push(this.finish(await collect(), first + i));
    }
    return examples;
  }

  /** As `enqueue`, or null for a row that cannot be used and was reported. */
  private enqueueOr(
    row: Row,
    plain: EncodeQueue,
    chat: EncodeQueue,
    at: string,
  ): (() => EncodedRow | Promise<EncodedRow>) | null {
    try {
      return this.enqueue(this.formatter.normalise(row, at), plain, chat, at);
    } catch (error) {
      if (!this.options.onBadRow || !hasCode(error, 'ERR_DATA')) throw error;
      this.options.onBadRow(error as LatheError);
      return null;
    }
  }

  /** Puts the row's texts into the queues; the returned function collects the answer after they ran. */
  private enqueue(
    row: NormalRow,
    plain: EncodeQueue,
    chat: EncodeQueue,
    at: string,
  ): () => EncodedRow | Promise<EncodedRow> {
    this.checkOptions(row, at);
    if (row.kind === 'tokens')
      return () => ({ ids: row.inputIds, labels: row.labels, hasAnswer: row.labels !== undefined });
    if (row.kind === 'text') {
      const whole = plain.add(this.withEos(row.text));
      return () => ({
        ids: plain.get(whole).encoded.ids,
        source: plain.get(whole),
        hasAnswer: this.responseIds !== undefined,
      });
    }
    if (row.kind === 'prompt_completion') {
      const prompt = plain.add(row.prompt);
      const whole = plain.add(row.prompt + this.withEos(row.completion));
      return () => ({
        ids: plain.get(whole).encoded.ids,
        promptIds: plain.get(prompt).encoded.ids,
        source: plain.get(whole),
        hasAnswer: true,
      });
    }
    const options: ChatRenderOptions = { tools: row.tools, kwargs: row.kwargs };
    const prompt =
      row.kind === 'chat_completion'
        ? chat.add(this.render(row.prompt, { ...options, addGenerationPrompt: true }, at))
        : undefined;
    const messages = row.kind === 'chat_completion' ? [...row.prompt, ...row.completion] : row.messages;
    const promptIds = (): ArrayLike<number> | undefined =>
      prompt === undefined ? undefined : chat.get(prompt).encoded.ids;
    if (this.options.assistantOnlyLoss) {
      return async () => {
        const { ids, mask } = await this.tokenizer
          .chatTemplateSpans(messages, options)
          .catch((error: unknown) => rethrowAt(error, at));
        return { ids, assistantMask: mask, promptIds: promptIds(), hasAnswer: true };
      };
    }
    const whole = chat.add(this.render(messages, options, at));
    return () => ({
      ids: chat.get(whole).encoded.ids,
      promptIds: promptIds(),
      source: chat.get(whole),
      hasAnswer: true,
    });
  }

  private render(
    messages: ChatMessage[],
    options: ChatRenderOptions & { addGenerationPrompt?: boolean },
    at: string,
  ): string {
    try {
      return this.tokenizer.applyChatTemplate(messages, options);
    } catch (error) {
      return rethrowAt(error, at);
    }
  }

  private withEos(text: string): string {
    const { eosToken } = this.tokenizer;
    if (this.options.appendEos === false || eosToken === undefined || text.endsWith(eosToken)) return text;
    return text + eosToken;
  }

  private checkOptions(row: NormalRow, at: string): void {
    const hasCompletion = row.kind === 'prompt_completion' || row.kind === 'chat_completion';
    if (this.options.completionOnlyLoss && !hasCompletion && row.kind !== 'tokens') {
      throw new LatheError(
        'ERR_CONFIG',
        `completionOnlyLoss: expected rows with a prompt and a completion, received ${row.kind} rows`,
        {
          at,
          remedy:
            row.kind === 'messages'
              ? 'use assistantOnlyLoss'
              : 'split the text into prompt and completion columns, or use responseTemplate',
        },
      );
    }
    if (this.options.assistantOnlyLoss && row.kind !== 'messages' && row.kind !== 'chat_completion') {
      throw new LatheError('ERR_CONFIG', `assistantOnlyLoss: expected conversations, received ${row.kind} rows`, {
        at,
        remedy: 'write the rows as messages, or use completionOnlyLoss or responseTemplate',
      });
    }
  }

  private finish(encoded: EncodedRow, row: number): TokenizedExample {
    const inputIds = encoded.ids instanceof Int32Array ? encoded.ids : Int32Array.from(encoded.ids);
    const labels = encoded.labels ? Int32Array.from(encoded.labels) : inputIds.slice();
    const note: ExampleNote = {};
    if (encoded.promptIds) {
      const shared = commonPrefixLength(encoded.promptIds, inputIds);
      if (shared < encoded.promptIds.length) note.prefixMismatch = mismatch(encoded.promptIds, inputIds, shared);
      if (this.options.completionOnlyLoss ?? true) maskBefore(labels, shared);
    }
    if (encoded.assistantMask) maskByFlags(labels, encoded.assistantMask);
    if (this.responseIds) {
      const result = maskByTemplate(labels, this.responseIds, this.instructionIds);
      if (!result.found) note.templateMissing = this.missing(result.which, encoded);
    }
    const allTrained = isEqual(labels, inputIds);
    const example: TokenizedExample = { inputIds, labels: allTrained ? inputIds : labels, row };
    if (encoded.hasAnswer) example.hasAnswer = true;
    if (Object.keys(note).length > 0) example.note = note;
    return example;
  }

  private missing(which: 'response' | 'instruction', encoded: EncodedRow): NonNullable<ExampleNote['templateMissing']> {
    const template = which === 'response' ? this.options.responseTemplate : this.options.instructionTemplate;
    const ids = (which === 'response' ? this.responseIds : this.instructionIds) ?? [];
    const found = { which, templateIds: Array.from(ids) };
    if (typeof template !== 'string' || !encoded.source) return found;
    const start = encoded.source.text.lastIndexOf(template);
    if (start < 0) return found;
    const { offsets } = encoded.source.encoded;
    const contextIds = Array.from(encoded.ids).filter(
      (_, i) => offsets[i][1] > start && offsets[i][0] < start + template.length,
    );
    return { ...found, contextIds };
  }
}

function isEqual(a: Int32Array, b: Int32Array): boolean {
  return (
    a.length === b.length &&
    Buffer.compare(
      new Uint8Array(a.buffer, a.byteOffset, a.byteLength),
      new Uint8Array(b.buffer, b.byteOffset, b.byteLength),
    ) === 0
  );
}

const kShownTokens = 3;

function mismatch(promptIds: ArrayLike<number>, fullIds: ArrayLike<number>, at: number): PrefixMismatch {
  const from = Math.max(at - kShownTokens, 0);
  const window = (ids: ArrayLike<number>): number[] => Array.from(ids).slice(from, at + kShownTokens);
  return { at, from, promptIds: window(promptIds), fullIds: window(fullIds) };
}

/** The tokenizer's errors do not know the row. */
function rethrowAt(error: unknown, at: string): never {
  if (!(error instanceof Error) || (error as Partial<LatheError>).code === undefined) throw error;
  const { code } = error as LatheError;
  throw new LatheError(code, error.message, { at, cause: error });
}
