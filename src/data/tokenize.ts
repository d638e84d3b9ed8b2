/**
 * A dataset to tokenised examples: rows in batches through the encoder, then cut to length.
 *
 * Invariants: examples keep the order of their rows; a row is an example, or counted in the truncation report, or was reported to
 * `onBadRow`.
 */
import { LatheError } from '../errors';
import type { RowKind } from './format';
import { RowEncoder, type RowEncoderOptions } from './row-encoder';
import {
  emptyReport,
  truncateExample,
  TRUNCATION_POLICIES,
  type TruncationPolicy,
  type TruncationReport,
} from './truncate';
import type { Row, TextTokenizer, TokenizedExample } from './types';

export interface TokenizeOptions extends RowEncoderOptions {
  /** Longest example in tokens (1024); null for no limit. */
  maxLength?: number | null;
  /** What to do with longer rows (keep_start). */
  truncation?: TruncationPolicy;
  /** Rows encoded at a time. */
  batchSize?: number;
}

/** Rows with an optional name for each; a `Dataset` is one. */
export interface RowSource extends Iterable<Row> {
  describeRow?(i: number): string;
}

export interface TokenizedDataset {
  examples: readonly TokenizedExample[];
  kind: RowKind;
  /** Rows read. */
  rows: number;
  truncation: TruncationReport;
  /** Names a row for messages: file and line when known. */
  describeRow(row: number): string;
}

/** @throws ERR_DATA naming the row, ERR_CONFIG for options that do not fit the data */
export async function tokenizeDataset(
  source: RowSource,
  tokenizer: TextTokenizer,
  options: TokenizeOptions = {},
): Promise<TokenizedDataset> {
  const describeRow = (row: number): string => source.describeRow?.(row) ?? `row ${row}`;
  const encoder = await RowEncoder.create(tokenizer, options);
  const { maxLength, policy } = limits(options);
  const truncation = emptyReport(policy, maxLength);
  const examples: TokenizedExample[] = [];
  const batchSize = options.batchSize ?? 256;
  let rows = 0;
  const flush = async (batch: Row[]): Promise<void> => {
    const first = rows - batch.length;
    for (const example of await encoder.encode(batch, first, describeRow)) {
      const kept = truncateExample(example, maxLength, policy, truncation, describeRow(example.row));
      if (kept) examples.push(kept);
    }
  };
  let batch: Row[] = [];
  for (const row of source) {
    batch.push(row);
    rows++;
    if (batch.length === batchSize) {
      await flush(batch);
      batch = [];
    }
  }
  if (batch.length > 0) await flush(batch);
  return { examples, kind: encoder.kind ?? 'text', rows, truncation, describeRow };
}

/** The checked limits of `options`. @throws ERR_CONFIG */
export function limits(options: TokenizeOptions): { maxLength: number | null; policy: TruncationPolicy } {
  const maxLength = options.maxLength === undefined ? 1024 : options.maxLength;
  const policy = options.truncation ?? 'keep_start';
  if (maxLength !== null && (!Number.isInteger(maxLength) || maxLength < 2)) {
    throw new LatheError('ERR_CONFIG', `maxLength: expected a whole number from 2 on or null, received ${maxLength}`, {
      remedy: 'two tokens are the least that give one label',
    });
  }
  if (!TRUNCATION_POLICIES.includes(policy)) {
    throw new LatheError(
      'ERR_CONFIG',
      `truncation: expected one of ${TRUNCATION_POLICIES.join(', ')}, received ${JSON.stringify(policy)}`,
      { remedy: 'choose one of them' },
    );
  }
  return { maxLength, policy };
}
