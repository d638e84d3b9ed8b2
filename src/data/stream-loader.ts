/**
 * The loader for data that does not fit in memory: windows of a stream, packed one after another.
 *
 * The idea: read `windowRows` rows, tokenise, pack, shuffle the packed rows, hand out whole steps; the documents that do
 * not fill a step go into the next window, so no step is short before the stream ends. A position is the window's
 * start in the stream, the documents it began with and the steps taken from it: small, and exact to resume from.
 *
 * Invariants: memory is bounded by the window; every document appears once per pass; every batch has the one shape
 * T = batchSize x maxLength with S = batchSize x maxDocumentsPerRow.
 */
import { LatheError } from '../errors';
import { collate } from './collate';
import { countTrained } from './masks';
import { packBestFit, splitLong, wrapStream, type PackingStrategy } from './pack';
import { permutation, PhiloxStream, RANDOM_DOMAIN } from './philox';
import type { IterableDataset } from './stream';
import { tokenizeStream, type TokenizeOptions } from './tokenize';
import { emptyReport, type TruncationReport } from './truncate';
import type { Batch, TextTokenizer, TokenizedExample } from './types';

export interface StreamLoaderOptions extends Omit<TokenizeOptions, 'maxLength'> {
  /** Packed rows per micro-batch and rank. */
  batchSize: number;
  gradientAccumulationSteps?: number;
  packing?: PackingStrategy;
  /** Tokens of a packed row. */
  maxLength: number;
  /** Rows of the stream that are packed together (2048). */
  windowRows?: number;
  /** Most documents in a packed row (64); sets the capacity of cuSeqlens. */
  maxDocumentsPerRow?: number;
  seed?: number;
  padId?: number;
  rank?: number;
  worldSize?: number;
}

/** Plain JSON. */
export interface StreamLoaderState {
  /** Rows of the stream before the window. */
  position: number;
  window: number;
  stepInWindow: number;
  /** Documents left over from the window before. */
  carried: { row: number; inputIds: number[]; labels: number[] }[];
}

export interface StreamStep {
  microBatches: Batch[];
  /** Trained labels of the whole step, all ranks. */
  numLabels: number;
}

export class StreamLoader {
  /** The one shape of every batch. */
  readonly shape: { tokens: number; documents: number };
  /** What truncation has cut so far in this process. */
  readonly truncation: TruncationReport;
  private current: StreamLoaderState = { position: 0, window: 0, stepInWindow: 0, carried: [] };

  constructor(
    private readonly source: IterableDataset,
    private readonly tokenizer: TextTokenizer,
    private readonly options: StreamLoaderOptions,
  ) {
    this.shape = {
      tokens: options.batchSize * options.maxLength,
      documents: options.batchSize * (options.maxDocumentsPerRow ?? 64),
    };
    this.truncation = emptyReport(options.truncation ?? 'keep_start', options.maxLength);
  }

  /** Steps from the position to the end of the stream, once. The last step may be short. */
  async *steps(): AsyncGenerator<StreamStep> {
    const windowRows = this.options.windowRows ?? 2048;
    for (;;) {
      const { position, window, carried } = this.current;
      const { documents, rowsRead } = await this.readWindow(position, windowRows, carried.map(restore));
      const isLast = rowsRead < windowRows;
      const { packed, rest } = this.arrange(documents, window, isLast);
      for (let step = this.current.stepInWindow; step < packed.length; step++) {
        this.current = { ...this.current, stepInWindow: step + 1 };
        yield this.makeStep(packed[step]);
      }
      this.current = { position: position + rowsRead, window: window + 1, stepInWindow: 0, carried: rest.map(store) };
      if (isLast) break;
    }
    this.current = { position: 0, window: 0, stepInWindow: 0, carried: [] };
  }

  /** What `seek` needs to go on after the last step handed out. */
  state(): StreamLoaderState {
    return this.current;
  }

  /** @throws ERR_CHECKPOINT for a state that is not one */
  seek(state: StreamLoaderState): void {
    const counts = [state.position, state.window, state.stepInWindow];
    if (!counts.every((count) => Number.isSafeInteger(count) && count >= 0) || !Array.isArray(state.carried)) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `stream loader state: expected what state() returned, received ${JSON.stringify(state).slice(0, 80)}`,
        {
          remedy: 'resume from the checkpoint of a run on a stream',
        },
      );
    }
    this.current = state;
  }

  private async readWindow(
    position: number,
    windowRows: number,
    carried: TokenizedExample[],
  ): Promise<{ documents: TokenizedExample[]; rowsRead: number }> {
    const { source, options } = this;
    let rowsRead = 0;
    const rows = source.skip(position).take(windowRows);
    const counted = (async function* () {
      for await (const row of rows) {
        rowsRead++;
        yield row;
      }
    })();
    const cuts = options.packing === 'bfd_split' || options.packing === 'wrapped';
    const documents = carried;
    for await (const example of tokenizeStream(
      counted,
      this.tokenizer,
      { ...options, maxLength: cuts ? null : options.maxLength },
      this.truncation,
    )) {
      if (example.inputIds.length > 0) documents.push({ ...example, row: position + example.row });
    }
    return { documents, rowsRead };
  }

  /** Packed rows in random order, grouped into whole steps; what is left over unless the stream has ended. */
  private arrange(
    documents: TokenizedExample[],
    window: number,
    isLast: boolean,
  ): { packed: TokenizedExample[][][]; rest: TokenizedExample[] } {
    const { maxLength, packing = 'bfd', batchSize } = this.options;
    let pieces: readonly TokenizedExample[] = documents;
    if (packing === 'wrapped') pieces = wrapStream(documents, maxLength);
    else if (packing === 'bfd_split') pieces = splitLong(documents, maxLength);
    const bins =
      packing === 'wrapped'
        ? pieces.map((_, i) => [i])
        : packBestFit(
            pieces.map(({ inputIds }) => inputIds.length),
            maxLength,
            this.options.maxDocumentsPerRow ?? 64,
          ).rows;
    // A cut stream keeps its order, so that what is left over is its end and joins what follows.
    const order =
      packing === 'wrapped'
        ? bins.keys()
        : permutation(bins.length, new PhiloxStream(this.options.seed ?? 42, RANDOM_DOMAIN.epoch, window));
    const rows = Array.from(order, (bin) => bins[bin].map((i) => pieces[i]));
    const perStep = batchSize * (this.options.gradientAccumulationSteps ?? 1) * (this.options.worldSize ?? 1);
    const whole = isLast ? rows.length : this.wholeRows(rows, perStep, packing);
    const packed: TokenizedExample[][][] = [];
    for (let start = 0; start < whole; start += perStep)
      packed.push(rows.slice(start, Math.min(start + perStep, whole)));
    return { packed, rest: rows.slice(whole).flat() };
  }

  private wholeRows(rows: TokenizedExample[][], perStep: number, packing: PackingStrategy): number {
    const last = rows[rows.length - 1];
    const isShort = packing === 'wrapped' && last !== undefined && last[0].inputIds.length < this.options.maxLength;
    const usable = rows.length - (isShort ? 1 : 0);
    return usable - (usable % perStep);
  }

  private makeStep(rows: TokenizedExample[][]): StreamStep {
    const { batchSize, worldSize = 1, rank = 0, padId } = this.options;
    const microBatches: Batch[] = [];
    let numLabels = 0;
    for (let start = 0, i = 0; start < rows.length; start += batchSize, i++) {
      const documents = rows.slice(start, start + batchSize).flat();
      for (const { labels } of documents) numLabels += countTrained(labels);
      if (i % worldSize === rank) microBatches.push(collate(documents, { ...this.shape, padId }));
    }
    return { microBatches, numLabels };
  }
}

function store({ row, inputIds, labels }: TokenizedExample): StreamLoaderState['carried'][number] {
  return { row, inputIds: Array.from(inputIds), labels: Array.from(labels) };
}

function restore({ row, inputIds, labels }: StreamLoaderState['carried'][number]): TokenizedExample {
  return { row, inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels) };
}
