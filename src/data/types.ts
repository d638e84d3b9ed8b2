/**
 * The data layer's vocabulary: rows, chat messages, tokenised examples, engine batches, and the few things it
 * needs from a tokenizer.
 *
 * The idea: everything the engine sees is a flat row of tokens with document offsets; padding, packing and
 * micro-batching are only different ways of laying documents end to end. `src/data` depends on no tokenizer
 * implementation, only on the structural `TextTokenizer` below.
 *
 * Invariants: an example's `labels` are NOT shifted (label i judges token i); a batch's `labels` ARE shifted
 * (label t is the id at t+1 of the same document). -100 means "not trained" in both.
 */

/** The label that the loss skips; the value of PyTorch's `ignore_index`. */
export const IGNORE_INDEX = -100;

/** One record as it came from a file. */
export type Row = Record<string, unknown>;

/** A chat message as chat templates expect it; templates may read further keys, so they are kept. */
export interface ChatMessage {
  role: string;
  content?: string | null | Record<string, unknown>[];
  [key: string]: unknown;
}

/** What a chat template may be given besides the messages. */
export interface ChatRenderOptions {
  tools?: Record<string, unknown>[] | null;
  /** Further template variables, e.g. `{ enable_thinking: false }`. */
  kwargs?: Record<string, unknown>;
}

/** Half-open range in UTF-16 units of a text. */
export type Span = readonly [start: number, end: number];

export interface EncodedText {
  readonly ids: ArrayLike<number>;
  /** Per token, the half-open range of the text it came from, in UTF-16 units; empty for an inserted token. */
  readonly offsets: ReadonlyArray<Span>;
}

/** The part of a tokenizer that the data layer uses; `Tokenizer` of src/tokenizers has it. */
export interface TextTokenizer {
  /** Number of ids, added tokens included: every id is below it. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  readonly eosToken: string | undefined;
  encodeBatch(texts: readonly string[], options?: { addSpecialTokens?: boolean }): Promise<EncodedText[]>;
  /** The ids alone, where that is quicker. */
  encodeIds?(texts: readonly string[], options?: { addSpecialTokens?: boolean }): Promise<ArrayLike<number>[]>;
  decode(ids: ArrayLike<number>, options?: { skipSpecialTokens?: boolean }): string;
  /** The rendered conversation. */
  applyChatTemplate(
    messages: readonly ChatMessage[],
    options?: ChatRenderOptions & { addGenerationPrompt?: boolean },
  ): string;
  /** The conversation's ids (no tokens added) and mask[i] = 1 where the assistant wrote token i. */
  chatTemplateSpans(
    messages: readonly ChatMessage[],
    options?: ChatRenderOptions,
  ): Promise<{ ids: ArrayLike<number>; mask: Uint8Array }>;
}

/** What a truncation policy took from a row. */
export interface CutNote {
  /** Tokens before the cut. */
  originalTokens: number;
  cutTokens: number;
  /** How many of the cut tokens were to be trained. */
  cutTrainedTokens: number;
}

/** Where the prompt's own tokens stop being a prefix of the tokens of prompt + completion. */
export interface PrefixMismatch {
  /** Index of the first differing token. */
  at: number;
  /** A few ids of each around `at`, starting at index `from`. */
  from: number;
  promptIds: number[];
  fullIds: number[];
}

/** What happened to a row between the file and the ids; the doctor reads it. */
export interface ExampleNote {
  cut?: CutNote;
  prefixMismatch?: PrefixMismatch;
  /** Which search template was not found; `contextIds` is how the row itself spells it, when its text contains it. */
  templateMissing?: { which: 'response' | 'instruction'; templateIds: number[]; contextIds?: number[] };
}

/** One tokenised row. Treat the arrays as frozen: `labels` is the same object as `inputIds` when all is trained. */
export interface TokenizedExample {
  /** Token ids, [n]. */
  inputIds: Int32Array;
  /** Unshifted labels, [n]; -100 where not trained. */
  labels: Int32Array;
  /** Index of the row in the dataset it came from. */
  row: number;
  /** True for rows that have an answer (prompt/completion, chat, response template), where a lost end matters. */
  hasAnswer?: boolean;
  note?: ExampleNote;
}

/** A micro-batch for the engine: documents laid end to end in one flat row of T tokens. */
export interface Batch {
  /** T, the flat length, padding included. */
  tokens: number;
  /** [T] */
  inputIds: Int32Array;
  /** [T], restarts at 0 in every document. */
  positionIds: Int32Array;
  /** [T], shifted: the id at t+1 of the same document, or -100. */
  labels: Int32Array;
  /** [S+1] document offsets; the last one repeats up to the capacity S, and is the number of real tokens. */
  cuSeqlens: Int32Array;
  /** Tokens that belong to a document. */
  numTokens: number;
  /** Labels other than -100. */
  numLabels: number;
  /** Dataset rows of the documents, in order. */
  rows: number[];
}
