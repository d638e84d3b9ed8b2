/**
 * What will be trained, for the eye: a row's text with masked and trained tokens told apart, and a table of the dataset.
 *
 * The idea: decode the ids that go to the engine, not the text they came from, so that a wrong template, mask or cut is
 * seen as it is. Trained text is green and masked text grey on a terminal; elsewhere trained text stands between
 * marks.
 *
 * Invariants: control characters of the data never reach the terminal; the visible text is the decoded ids in order.
 */
import { countTrained } from './masks';
import { packBestFit } from './pack';
import { describeTruncation } from './truncate';
import type { TokenizedDataset } from './tokenize';
import { IGNORE_INDEX, type TextTokenizer, type TokenizedExample } from './types';

export interface PreviewOptions {
  /** Default: whether stdout is a terminal and NO_COLOR is not set. */
  color?: boolean;
  /** Show each token in its own cell. */
  tokens?: boolean;
  /** Heading instead of the row's number. */
  at?: string;
}

const kTrained = '\u001b[32m';
const kMasked = '\u001b[90m';
const kReset = '\u001b[0m';
const kOpen = '⟦';
const kClose = '⟧';

function wantsColor(): boolean {
  return process.stdout.isTTY === true && !process.env.NO_COLOR;
}

/** Newlines and tabs stay; other control characters become visible escapes. */
function printable(text: string): string {
  return text.replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g,
    (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`,
  );
}

interface Run {
  trained: boolean;
  start: number;
  end: number;
}

/** Maximal runs of equally masked tokens. */
function runsOf(labels: Int32Array): Run[] {
  const runs: Run[] = [];
  for (let i = 0; i < labels.length; i++) {
    const trained = labels[i] !== IGNORE_INDEX;
    const last = runs[runs.length - 1];
    if (last && last.trained === trained) last.end = i + 1;
    else runs.push({ trained, start: i, end: i + 1 });
  }
  return runs;
}

/** Text of ids[start .. end - 1] as it reads in context: some decoders drop a leading blank of what they are given alone. */
function textOf(ids: Int32Array, start: number, end: number, tokenizer: TextTokenizer): string {
  const before = tokenizer.decode(ids.subarray(0, start));
  const through = tokenizer.decode(ids.subarray(0, end));
  return through.startsWith(before) ? through.slice(before.length) : tokenizer.decode(ids.subarray(start, end));
}

/** One row as text, ending in a newline. */
export function renderPreview(
  example: TokenizedExample,
  tokenizer: TextTokenizer,
  options: PreviewOptions = {},
): string {
  const color = options.color ?? wantsColor();
  const { inputIds, labels } = example;
  const heading = `${options.at ?? `row ${example.row}`}: ${inputIds.length} tokens, ${countTrained(labels)} trained${cutText(example)}`;
  const body = runsOf(labels)
    .map(({ trained, start, end }) => {
      const text = options.tokens
        ? Array.from(inputIds.subarray(start, end), (id) => printable(tokenizer.decode([id]))).join('│')
        : printable(textOf(inputIds, start, end, tokenizer));
      if (color) return `${trained ? kTrained : kMasked}${text}${kReset}`;
      return trained ? `${kOpen}${text}${kClose}` : text;
    })
    .join('');
  return `${heading}\n${body}\n`;
}

function cutText(example: TokenizedExample): string {
  const cut = example.note?.cut;
  return cut ? `, ${cut.cutTokens} cut` : '';
}

/** How to read a preview. */
export function previewLegend(color = wantsColor()): string {
  return color ? `${kTrained}trained${kReset} ${kMasked}masked${kReset}` : `${kOpen}trained${kClose} masked`;
}

export interface DatasetSummary {
  rows: number;
  examples: number;
  tokens: number;
  trainedTokens: number;
  shortest: number;
  median: number;
  p95: number;
  longest: number;
  /** Counts of examples with `from` < length <= `to`. */
  histogram: { from: number; to: number; count: number }[];
  /** Fill of best-fit packing at maxLength, when every example fits. */
  packingFill?: number;
  packedRows?: number;
}

/** @param maxLength tokens of a packed row; without it no packing figures */
export function summarise(
  data: TokenizedDataset,
  maxLength: number | null = data.truncation.maxLength,
): DatasetSummary {
  const lengths = data.examples.map(({ inputIds }) => inputIds.length).sort((a, b) => a - b);
  const quantile = (q: number): number =>
    lengths.length === 0 ? 0 : lengths[Math.min(Math.floor(q * lengths.length), lengths.length - 1)];
  let tokens = 0;
  let trainedTokens = 0;
  for (const { inputIds, labels } of data.examples) {
    tokens += inputIds.length;
    trainedTokens += countTrained(labels);
  }
  const longest = quantile(1);
  const summary: DatasetSummary = {
    rows: data.rows,
    examples: data.examples.length,
    tokens,
    trainedTokens,
    shortest: quantile(0),
    median: quantile(0.5),
    p95: quantile(0.95),
    longest,
    histogram: histogram(lengths),
  };
  if (maxLength !== null && lengths.length > 0 && longest <= maxLength) {
    const packing = packBestFit(lengths, maxLength);
    summary.packingFill = packing.fill;
    summary.packedRows = packing.rows.length;
  }
  return summary;
}

/** Bins that double, the smallest power of two below the shortest example first; `lengths` ascending. */
function histogram(lengths: readonly number[]): DatasetSummary['histogram'] {
  const bins: DatasetSummary['histogram'] = [];
  if (lengths.length === 0) return bins;
  let to = 16;
  while (to < lengths[0]) to *= 2;
  let from = to === 16 ? 0 : to / 2;
  for (let i = 0; i < lengths.length;) {
    let count = 0;
    while (i < lengths.length && lengths[i] <= to) {
      count++;
      i++;
    }
    bins.push({ from, to, count });
    from = to;
    to *= 2;
  }
  return bins;
}

const kBarWidth = 32;

/** The summary as a table, ending in a newline. */
export function renderSummary(data: TokenizedDataset, maxLength?: number | null): string {
  const summary = summarise(data, maxLength);
  const number = (value: number): string => value.toLocaleString('en-US');
  const share = (part: number, whole: number): string => (whole === 0 ? '-' : `${((100 * part) / whole).toFixed(1)}%`);
  const lines: [string, string][] = [
    ['kind', data.kind],
    [
      'rows',
      summary.examples === summary.rows
        ? number(summary.rows)
        : `${number(summary.rows)} read, ${number(summary.examples)} kept`,
    ],
    ['tokens', number(summary.tokens)],
    ['trained', `${number(summary.trainedTokens)} (${share(summary.trainedTokens, summary.tokens)})`],
    [
      'length',
      `${summary.shortest} shortest, ${summary.median} median, ${summary.p95} 95th percentile, ${summary.longest} longest`,
    ],
  ];
  if (summary.packingFill !== undefined && summary.packedRows !== undefined) {
    const width = (maxLength === undefined ? data.truncation.maxLength : maxLength) ?? 0;
    lines.push([
      'packing',
      `${number(summary.packedRows)} rows of ${width} tokens, ${(100 * summary.packingFill).toFixed(1)}% full`,
    ]);
  }
  const truncation = describeTruncation(data.truncation);
  if (truncation) lines.push(['cut', truncation]);
  const table = lines.map(([name, value]) => `${name.padEnd(8)} ${value}`);
  const most = Math.max(...summary.histogram.map(({ count }) => count), 1);
  const bars = summary.histogram.map(({ from, to, count }) => {
    const bar = '█'.repeat(count === 0 ? 0 : Math.max(Math.round((kBarWidth * count) / most), 1));
    return `${`${from + 1}-${to}`.padStart(13)} ${bar.padEnd(kBarWidth)} ${number(count)}`;
  });
  return [...table, ...bars, ''].join('\n');
}
