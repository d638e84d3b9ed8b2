/**
 * Truncation policies that say what they cut.
 *
 * The idea: cutting is allowed, silence is not. Each policy gives the kept example (or nothing) and a note with the
 * numbers; `TruncationReport` adds them up for a run. keep_start is TRL's default, after which rows that have no
 * trained token left are dropped, as TRL does.
 *
 * Invariants: no example is longer than maxLength afterwards; the report's totals equal the sum of the notes.
 */
import { LatheError } from '../errors';
import { countTrained } from './masks';
import type { CutNote, TokenizedExample } from './types';

export type TruncationPolicy = 'keep_start' | 'keep_end' | 'drop' | 'error';
export const TRUNCATION_POLICIES: readonly TruncationPolicy[] = ['keep_start', 'keep_end', 'drop', 'error'];

const kListedRows = 5;

/** What truncation did to a dataset. */
export interface TruncationReport {
  policy: TruncationPolicy;
  maxLength: number | null;
  /** Rows shortened and kept. */
  cutRows: number;
  /** Tokens lost by shortening. */
  cutTokens: number;
  cutTrainedTokens: number;
  /** Rows left out for their length (policy drop). */
  droppedRows: number;
  /** Rows left out because nothing trained was left of them. */
  emptiedRows: number;
  /** The first rows of each sort. */
  firstRows: { cut: number[]; dropped: number[]; emptied: number[] };
}

export function emptyReport(policy: TruncationPolicy, maxLength: number | null): TruncationReport {
  return {
    policy,
    maxLength,
    cutRows: 0,
    cutTokens: 0,
    cutTrainedTokens: 0,
    droppedRows: 0,
    emptiedRows: 0,
    firstRows: { cut: [], dropped: [], emptied: [] },
  };
}

function list(rows: number[], row: number): void {
  if (rows.length < kListedRows) rows.push(row);
}

/**
 * The example within `maxLength` tokens, or undefined when it is left out; `report` is updated.
 * @throws ERR_DATA under policy "error"
 */
export function truncateExample(
  example: TokenizedExample,
  maxLength: number | null,
  policy: TruncationPolicy,
  report: TruncationReport,
  at: string,
): TokenizedExample | undefined {
  const n = example.inputIds.length;
  if (maxLength === null || n <= maxLength) return example;
  if (policy === 'error') {
    throw new LatheError('ERR_DATA', `expected at most ${maxLength} tokens, received ${n}`, {
      at,
      remedy: `raise max_length to ${n}, shorten the row, or choose truncation keep_start, keep_end or drop`,
    });
  }
  if (policy === 'drop') {
    report.droppedRows++;
    list(report.firstRows.dropped, example.row);
    return undefined;
  }
  const [from, to] = policy === 'keep_start' ? [0, maxLength] : [n - maxLength, n];
  const inputIds = example.inputIds.slice(from, to);
  const labels = example.labels === example.inputIds ? inputIds : example.labels.slice(from, to);
  const trainedBefore = countTrained(example.labels);
  const trainedAfter = countTrained(labels);
  if (trainedBefore > 0 && trainedAfter === 0) {
    report.emptiedRows++;
    list(report.firstRows.emptied, example.row);
    return undefined;
  }
  const cut: CutNote = { originalTokens: n, cutTokens: n - maxLength, cutTrainedTokens: trainedBefore - trainedAfter };
  report.cutRows++;
  report.cutTokens += cut.cutTokens;
  report.cutTrainedTokens += cut.cutTrainedTokens;
  list(report.firstRows.cut, example.row);
  return { ...example, inputIds, labels, note: { ...example.note, cut } };
}

/** One line that says what happened, or undefined when nothing did. */
export function describeTruncation(report: TruncationReport): string | undefined {
  const parts: string[] = [];
  const rows = (list: number[]): string => `(first rows: ${list.join(', ')})`;
  if (report.cutRows > 0) {
    parts.push(
      `cut ${report.cutTokens} tokens, ${report.cutTrainedTokens} of them trained, from ${report.cutRows} rows ${rows(report.firstRows.cut)}`,
    );
  }
  if (report.droppedRows > 0) parts.push(`dropped ${report.droppedRows} rows ${rows(report.firstRows.dropped)}`);
  if (report.emptiedRows > 0)
    parts.push(`dropped ${report.emptiedRows} rows with no trained token left ${rows(report.firstRows.emptied)}`);
  return parts.length > 0
    ? `truncation ${report.policy} at ${report.maxLength} tokens: ${parts.join('; ')}`
    : undefined;
}
