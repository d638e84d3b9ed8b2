/**
 * Packing: many documents into rows of a fixed number of tokens.
 *
 * The idea: best-fit decreasing over the lengths of the whole dataset (TRL packs 1,000 rows at a time, so it leaves more
 * holes). Documents are sorted by length once; each goes into the row with the least space that still holds it, found
 * in a hierarchical bit set over the possible spaces, so the whole is O(n log n) at worst and deterministic.
 * Attention never crosses documents, so what shares a row does not matter to the model.
 *
 * Invariants: every document appears exactly once, whole; no row exceeds maxLength; equal input gives equal packing.
 */
import { LatheError } from '../errors';
import { FileExample, lengthOf } from './token-file';
import type { TokenizedExample } from './types';

/** bfd: whole documents; bfd_split: longer ones in pieces; wrapped: one stream cut at maxLength, across documents. */
export type PackingStrategy = 'bfd' | 'bfd_split' | 'wrapped';
const PACKING_STRATEGIES: readonly PackingStrategy[] = ['bfd', 'bfd_split', 'wrapped'];

export interface Packing {
  /** Per packed row, indices of its documents. */
  rows: number[][];
  maxLength: number;
  /** Share of rows x maxLength that holds tokens. */
  fill: number;
}

/** Which of the numbers 0 .. size - 1 are present; finds the least one from a number on in O(log32 size). */
class PresenceIndex {
  private readonly levels: Uint32Array[] = [];

  constructor(size: number) {
    let words = size;
    do {
      words = Math.ceil(words / 32);
      this.levels.push(new Uint32Array(words));
    } while (words > 1);
  }

  add(value: number): void {
    for (const level of this.levels) {
      level[value >>> 5] |= 1 << (value & 31);
      value >>>= 5;
    }
  }

  remove(value: number): void {
    for (const level of this.levels) {
      level[value >>> 5] &= ~(1 << (value & 31));
      if (level[value >>> 5] !== 0) return;
      value >>>= 5;
    }
  }

  /** The least present value >= `from`, or -1. */
  atLeast(from: number): number {
    let at = from;
    for (let depth = 0; depth < this.levels.length; depth++) {
      const word = at >>> 5;
      if (word >= this.levels[depth].length) return -1;
      const bits = this.levels[depth][word] & (0xffffffff << (at & 31));
      if (bits !== 0) return this.descend(depth, (word << 5) + lowestBit(bits));
      at = word + 1;
    }
    return -1;
  }

  private descend(depth: number, at: number): number {
    for (let below = depth - 1; below >= 0; below--) at = (at << 5) + lowestBit(this.levels[below][at]);
    return at;
  }
}

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

/** Indices by falling length, equal lengths in their order (counting sort). */
function byFallingLength(lengths: ArrayLike<number>, maxLength: number): Uint32Array {
  const starts = new Uint32Array(maxLength + 2);
  for (let i = 0; i < lengths.length; i++) starts[maxLength - lengths[i] + 1]++;
  for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
  const order = new Uint32Array(lengths.length);
  for (let i = 0; i < lengths.length; i++) order[starts[maxLength - lengths[i]]++] = i;
  return order;
}

/**
 * Global best-fit decreasing. Empty documents are left out.
 * @param lengths tokens of each document @param maxDocuments most documents in a row
 * @throws ERR_DATA for a document longer than maxLength
 */
export function packBestFit(lengths: ArrayLike<number>, maxLength: number, maxDocuments = Infinity): Packing {
  let total = 0;
  for (let i = 0; i < lengths.length; i++) {
    if (lengths[i] > maxLength) {
      throw new LatheError(
        'ERR_DATA',
        `packing: expected documents of at most ${maxLength} tokens, received ${lengths[i]}`,
        {
          at: `document ${i}`,
          remedy: 'truncate to maxLength when tokenising, or choose packing bfd_split',
        },
      );
    }
    total += lengths[i];
  }
  const rows: number[][] = [];
  // Rows with equal space form a chain: first[space] -> next[row] -> ...
  const first = new Int32Array(maxLength + 1).fill(-1);
  const next: number[] = [];
  const spaces = new PresenceIndex(maxLength + 1);
  const order = byFallingLength(lengths, maxLength);
  for (const document of order) {
    const length = lengths[document];
    if (length === 0) break;
    const space = spaces.atLeast(length);
    let row: number;
    if (space < 0) {
      row = rows.push([]) - 1;
    } else {
      row = first[space];
      first[space] = next[row];
      if (first[space] < 0) spaces.remove(space);
    }
    rows[row].push(document);
    const left = (space < 0 ? maxLength : space) - length;
    // A full row leaves the chains: space 0 is never looked for, since every document has at least one token.
    if (left === 0 || rows[row].length >= maxDocuments) continue;
    next[row] = first[left];
    first[left] = row;
    spaces.add(left);
  }
  return { rows, maxLength, fill: rows.length === 0 ? 0 : total / (rows.length * maxLength) };
}

function part(example: TokenizedExample, from: number, to: number): TokenizedExample {
  if (example instanceof FileExample) return example.part(from, to);
  const inputIds = example.inputIds.subarray(from, to);
  return {
    ...example,
    inputIds,
    labels: example.labels === example.inputIds ? inputIds : example.labels.subarray(from, to),
  };
}

/** Documents longer than maxLength in consecutive pieces of maxLength; the others as they are. */
export function splitLong(examples: readonly TokenizedExample[], maxLength: number): TokenizedExample[] {
  const pieces: TokenizedExample[] = [];
  for (const example of examples) {
    const n = lengthOf(example);
    if (n <= maxLength) pieces.push(example);
    else
      for (let from = 0; from < n; from += maxLength) pieces.push(part(example, from, Math.min(from + maxLength, n)));
  }
  return pieces;
}

/** All tokens as one stream, cut every maxLength; each piece is one document and `row` is its first token's row. */
export function wrapStream(examples: readonly TokenizedExample[], maxLength: number): TokenizedExample[] {
  if (examples.every((example) => example instanceof FileExample)) return wrapRanges(examples, maxLength);
  let total = 0;
  for (const example of examples) total += example.inputIds.length;
  const ids = new Int32Array(total);
  const labels = new Int32Array(total);
  const pieces: TokenizedExample[] = [];
  let at = 0;
  for (const example of examples) {
    ids.set(example.inputIds, at);
    labels.set(example.labels, at);
    for (let start = Math.ceil(at / maxLength) * maxLength; start < at + example.inputIds.length; start += maxLength) {
      const end = Math.min(start + maxLength, total);
      pieces.push({ inputIds: ids.subarray(start, end), labels: labels.subarray(start, end), row: example.row });
    }
    at += example.inputIds.length;
  }
  return pieces;
}

/** The same without reading a token: blocks of ranges. */
function wrapRanges(ranges: readonly FileExample[], maxLength: number): TokenizedExample[] {
  const pieces: TokenizedExample[] = [];
  let open: FileExample[] = [];
  let space = maxLength;
  for (const range of ranges) {
    for (let from = 0; from < range.length;) {
      const to = Math.min(from + space, range.length);
      open.push(range.part(from, to));
      space -= to - from;
      from = to;
      if (space > 0) continue;
      pieces.push(FileExample.join(open));
      open = [];
      space = maxLength;
    }
  }
  if (open.length > 0) pieces.push(FileExample.join(open));
  return pieces;
}

/** Documents and their rows under a strategy. `documents` is `examples` unless the strategy cuts. */
export function packExamples(
  examples: readonly TokenizedExample[],
  maxLength: number,
  strategy: PackingStrategy,
): { documents: readonly TokenizedExample[]; packing: Packing } {
  if (!PACKING_STRATEGIES.includes(strategy)) {
    throw new LatheError(
      'ERR_CONFIG',
      `packing: expected one of ${PACKING_STRATEGIES.join(', ')}, received ${JSON.stringify(strategy)}`,
      { remedy: 'choose one of them' },
    );
  }
  if (strategy === 'wrapped') {
    const documents = wrapStream(examples, maxLength);
    const total = documents.reduce((sum, document) => sum + lengthOf(document), 0);
    return {
      documents,
      packing: {
        rows: documents.map((_, i) => [i]),
        maxLength,
        fill: documents.length === 0 ? 0 : total / (documents.length * maxLength),
      },
    };
  }
  const documents = strategy === 'bfd_split' ? splitLong(examples, maxLength) : examples;
  return {
    documents,
    packing: packBestFit(documents.map(lengthOf), maxLength),
  };
}
