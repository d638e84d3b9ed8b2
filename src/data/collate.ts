/**
 * Documents to an engine batch: one flat row, no padding between documents.
 *
 * The idea: a micro-batch of B rows is the same thing as one packed row: documents end to end with offsets. Only the
 * tail is padding, up to a bucket, and it belongs to no document.
 *
 * Invariants: labels are shifted inside each document and its last token has none; positions restart per document;
 * cuSeqlens is non-decreasing and its repeated last value is numTokens.
 */
import { LatheError } from '../errors';
import { IGNORE_INDEX, type Batch, type TokenizedExample } from './types';

export interface CollateOptions {
  /** T; default: the documents' total, no padding. */
  tokens?: number;
  /** S, the capacity of cuSeqlens; default: the number of documents. */
  documents?: number;
  /** Id in padding positions (0); nothing reads it, but it must be a valid embedding row. */
  padId?: number;
}

/** @throws ERR_DATA when the documents exceed T tokens or S documents */
export function collate(documents: readonly TokenizedExample[], options: CollateOptions = {}): Batch {
  let total = 0;
  for (const { inputIds } of documents) total += inputIds.length;
  const tokens = options.tokens ?? total;
  const capacity = options.documents ?? documents.length;
  if (total > tokens || documents.length > capacity) {
    throw new LatheError(
      'ERR_DATA',
      `collate: expected at most ${tokens} tokens in ${capacity} documents, received ${total} in ${documents.length}`,
      {
        remedy: 'choose buckets from the lengths of this dataset',
      },
    );
  }
  const batch: Batch = {
    tokens,
    inputIds: new Int32Array(tokens).fill(options.padId ?? 0, total),
    positionIds: new Int32Array(tokens),
    labels: new Int32Array(tokens).fill(IGNORE_INDEX),
    cuSeqlens: new Int32Array(capacity + 1).fill(total),
    numTokens: total,
    numLabels: 0,
    rows: documents.map(({ row }) => row),
  };
  let at = 0;
  documents.forEach((document, d) => {
    batch.cuSeqlens[d] = at;
    const n = document.inputIds.length;
    batch.inputIds.set(document.inputIds, at);
    for (let i = 0; i < n; i++) batch.positionIds[at + i] = i;
    for (let i = 1; i < n; i++) {
      const label = document.labels[i];
      batch.labels[at + i - 1] = label;
      if (label !== IGNORE_INDEX) batch.numLabels++;
    }
    at += n;
  });
  return batch;
}
