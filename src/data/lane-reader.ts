/**
 * Reads a stream, or one lane of it, for a StreamLoader: windows of rows, tokenised and packed one after another.
 *
 * The idea: read rows until a window's worth of tokens is there, tokenise, pack, hand out whole steps; documents that do
 * not fill a step go into the next window, so no step is short before the stream ends. The next window is read and
 * tokenised while the steps of this one run. A position is where the stream stood at the window's beginning (a state of
 * its cursor, down to a byte in a shard), the documents that were left over then, and the steps taken since.
 *
 * Invariants: memory is bounded by two windows; every document appears once per pass; every batch has one of `shapes`;
 * the last step of a pass may be short, and nothing is dropped.
 */
import { LatheError } from '../errors';
import { bucketFor } from './buckets';
import { collate } from './collate';
import type { Cursor, CursorState, Lane, StreamRow } from './cursor';
import { countTrained } from './masks';
import { packBestFit, splitLong, wrapStream, type PackingStrategy } from './pack';
import { permutation, PhiloxStream, RANDOM_DOMAIN } from './philox';
import { RowEncoder } from './row-encoder';
import type { StepBatches, StepSourceState } from './step-source';
import type { IterableDataset } from './stream';
import { limits, type TokenizeOptions } from './tokenize';
import { describeTruncation, truncateExample, type TruncationReport } from './truncate';
import type { Batch, TextTokenizer, TokenizedExample } from './types';

export interface LaneReaderOptions extends Omit<TokenizeOptions, 'maxLength' | 'batchSize'> {
  batchSize: number;
  gradientAccumulationSteps?: number;
  packing: PackingStrategy | false;
  maxLength: number;
  windowRows: number;
  windowTokens: number;
  shuffleWindows?: boolean;
  documentsPerRow: number;
  seed?: number;
  padId?: number;
  /** Of several ranks that read the same rows, the micro-batches that are this one's. */
  rank?: number;
  worldSize?: number;
  lane: Lane | null;
  shapes: readonly { tokens: number; documents: number }[];
  /** What truncation has cut. */
  report: TruncationReport;
}

/** Plain JSON once stringified. Without `stream`: the beginning of the epoch. */
export interface LaneState extends StepSourceState {
  fingerprint?: string;
  stream?: {
    window: number;
    /** Steps of the epoch before the window, and rows of the stream. */
    firstStep: number;
    row: number;
    cursor: CursorState | null;
    /** Documents left over from the window before. */
    carried: { row: number; inputIds: number[]; labels: number[] }[];
  };
}

/** Where a window begins. */
interface WindowStart {
  epoch: number;
  window: number;
  firstStep: number;
  row: number;
  cursor: CursorState | null;
  carried: TokenizedExample[];
}

/** Where a reader stands, to go back to within its life. */
export interface LanePosition {
  readonly start: WindowStart;
  readonly stepInEpoch: number;
}

interface Window {
  start: WindowStart;
  /** By step, its rows, each a list of documents. */
  steps: TokenizedExample[][][];
  /** Where the next window of the epoch begins; null when the stream has ended. */
  following: WindowStart | null;
  /** Rows of the stream up to its end. */
  rows: number;
}

const kChunkRows = 64;
/** Encodings are several times the size of their text, and native: a chunk bounds how many there are at a time. */
const kChunkCharacters = 1 << 18;

export class LaneReader {
  private readonly perStep: number;
  private start: WindowStart = firstWindow(0);
  private stepInEpoch = 0;
  private window: Window | null = null;
  /** The window after this one, being read. */
  private ahead: Promise<Window> | null = null;
  private cursor: Cursor | null = null;
  private encoder: RowEncoder | null = null;

  constructor(
    private readonly source: IterableDataset,
    private readonly tokenizer: TextTokenizer,
    private readonly options: LaneReaderOptions,
  ) {
    this.perStep = options.batchSize * (options.gradientAccumulationSteps ?? 1) * (options.worldSize ?? 1);
  }

  async next(): Promise<StepBatches> {
    const window = await this.windowAtPosition();
    const { epoch, firstStep } = window.start;
    const { stepInEpoch } = this;
    const rows = window.steps[stepInEpoch - firstStep];
    const isLastOfWindow = stepInEpoch - firstStep === window.steps.length - 1;
    // A window that follows may turn out to hold no step: the epoch then ends here.
    const endsEpoch =
      isLastOfWindow && (window.following === null || (await this.following(window)).steps.length === 0);
    const step = { epoch, stepInEpoch, endsEpoch, ...this.makeStep(rows) };
    if (endsEpoch) this.moveTo(firstWindow(epoch + 1), 0, null);
    else this.stepInEpoch++;
    return step;
  }

  state(): LaneState {
    const { epoch, window, firstStep, row, cursor, carried } = this.start;
    return {
      epoch,
      stepInEpoch: this.stepInEpoch,
      fingerprint: this.fingerprint(),
      stream: { window, firstStep, row, cursor, carried: carried.map(store) },
    };
  }

  position(): LanePosition {
    return { start: this.start, stepInEpoch: this.stepInEpoch };
  }

  /** Back to a position that this reader had. */
  rewind({ start, stepInEpoch }: LanePosition): void {
    if (start !== this.start || stepInEpoch !== this.stepInEpoch) this.moveTo(start, stepInEpoch, null);
  }

  /** @throws LatheError ERR_CHECKPOINT for a state of other options or other files */
  seek(state: LaneState): void {
    const { epoch, stepInEpoch, fingerprint, stream } = state;
    const counts = [
      epoch,
      stepInEpoch,
      ...(stream ? [stream.window, stream.firstStep, stream.row, stepInEpoch - stream.firstStep] : []),
    ];
    if (
      !counts.every((count) => Number.isSafeInteger(count) && count >= 0) ||
      (stream ? !Array.isArray(stream.carried) : stepInEpoch !== 0)
    ) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `stream loader state: expected what state() returned, received ${JSON.stringify(state).slice(0, 80)}`,
        {
          remedy: 'resume from the checkpoint of a run on a stream, or set ignore_data_skip: true',
        },
      );
    }
    if (fingerprint !== undefined && fingerprint !== this.fingerprint()) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `stream loader state: expected the options ${this.fingerprint()}, received ${fingerprint}`,
        {
          remedy:
            'resume with the same seed, batch size, accumulation, packing, max_length and world size; to go on with others, set ignore_data_skip: true',
        },
      );
    }
    this.moveTo(
      stream ? { epoch, ...stream, carried: stream.carried.map(restore) } : firstWindow(epoch),
      stepInEpoch,
      null,
    );
    // Now rather than at the first step: a state that does not fit these files is refused here.
    this.cursor = this.source.open(epoch, this.start.cursor, this.options.lane);
  }

  async close(): Promise<void> {
    const { cursor, ahead } = this;
    this.window = this.ahead = this.cursor = null;
    await ahead?.catch(() => undefined);
    await cursor?.close();
  }

  /** Options that decide what a step holds. */
  private fingerprint(): string {
    const {
      batchSize,
      gradientAccumulationSteps = 1,
      worldSize = 1,
      packing,
      maxLength,
      seed = 42,
      windowRows,
      windowTokens,
      documentsPerRow,
    } = this.options;
    return [
      batchSize,
      gradientAccumulationSteps * worldSize,
      packing,
      maxLength,
      seed,
      windowRows,
      windowTokens,
      documentsPerRow,
    ].join(',');
  }

  private moveTo(start: WindowStart, stepInEpoch: number, window: Window | null): void {
    if (window === null && this.cursor) {
      const { cursor, ahead } = this;
      this.cursor = null;
      void Promise.allSettled([ahead]).then(() => cursor.close());
    }
    this.start = start;
    this.stepInEpoch = stepInEpoch;
    this.window = window;
    this.ahead = null;
  }

  /** The window that holds the step at the position, read if need be; the one after it is on its way when this returns. */
  private async windowAtPosition(): Promise<Window> {
    for (;;) {
      this.window ??= await this.read(this.start);
      const { window } = this;
      if (this.stepInEpoch - window.start.firstStep < window.steps.length) {
        void this.following(window);
        return window;
      }
      if (window.following === null) {
        if (window.start.firstStep + window.steps.length > 0) this.moveTo(firstWindow(window.start.epoch + 1), 0, null);
        else throw this.noRows(window.rows);
      } else {
        const next = await this.following(window);
        this.moveTo(next.start, this.stepInEpoch, next);
      }
    }
  }

  private noRows(rows: number): LatheError {
    const { lane, report } = this.options;
    const where = lane ? `lane ${lane.index} of ${lane.count}` : 'the stream';
    const fix = lane
      ? 'take files without rows out of the data set, or set stream_lanes: 1'
      : 'check the files and filters';
    if (rows === 0) return new LatheError('ERR_DATA', `expected rows in ${where}, received none`, { remedy: fix });
    const why = describeTruncation(report);
    return new LatheError(
      'ERR_DATA',
      `expected rows in ${where}, received ${rows} of which none can be used${why ? `: ${why}` : ''}`,
      { remedy: why ? `raise max_length or set another truncation_mode; else ${fix}` : fix },
    );
  }

  private following(window: Window): Promise<Window> {
    if (window.following === null) return Promise.resolve(window);
    if (this.ahead === null) {
      this.ahead = this.read(window.following);
      // A failure is the caller's when it comes to that window.
      this.ahead.catch(() => undefined);
    }
    return this.ahead;
  }

  private async read(start: WindowStart): Promise<Window> {
    this.cursor ??= this.source.open(start.epoch, start.cursor, this.options.lane);
    const { cursor } = this;
    // Also of the first window: a state names the files that it is a position in.
    start.cursor ??= cursor.state();
    const documents = [...start.carried];
    const { windowRows, windowTokens } = this.options;
    let rows = 0;
    let hasEnded = false;
    let { packed, rest } = { packed: [] as TokenizedExample[][][], rest: [] as TokenizedExample[] };
    // A window holds at least one step unless the stream ends: what follows it can then be told from its end.
    while (!hasEnded && packed.length === 0) {
      const mostRows = rows + windowRows;
      // Only new tokens count, so that reading goes on however much was left over.
      let tokens = 0;
      while (!hasEnded && rows < mostRows && tokens < windowTokens) {
        const chunk = await readChunk(cursor, Math.min(kChunkRows, mostRows - rows));
        hasEnded = chunk.hasEnded;
        for (const example of await this.tokenise(chunk.rows, start.row + rows)) {
          documents.push(example);
          tokens += example.inputIds.length;
        }
        rows += chunk.rows.length;
      }
      ({ packed, rest } = this.arrange(documents, start, hasEnded));
    }
    if (hasEnded) return { start, steps: packed, following: null, rows: start.row + rows };
    const following: WindowStart = {
      epoch: start.epoch,
      window: start.window + 1,
      firstStep: start.firstStep + packed.length,
      row: start.row + rows,
      cursor: cursor.state(),
      carried: rest,
    };
    return { start, steps: packed, following, rows: following.row };
  }

  private async tokenise(chunk: readonly StreamRow[], firstRow: number): Promise<TokenizedExample[]> {
    if (chunk.length === 0) return [];
    const { options } = this;
    const { packing } = options;
    const cuts = packing === 'bfd_split' || packing === 'wrapped';
    const { maxLength, policy } = limits(options);
    this.encoder ??= await RowEncoder.create(this.tokenizer, options);
    const describe = (row: number): string => chunk[row - firstRow].at ?? `row ${row}`;
    const examples = await this.encoder.encode(
      chunk.map(({ row }) => row),
      firstRow,
      describe,
    );
    const kept: TokenizedExample[] = [];
    for (const example of examples) {
      const cut = truncateExample(example, cuts ? null : maxLength, policy, options.report, describe(example.row));
      if (cut && cut.inputIds.length > 0) kept.push(cut);
    }
    return kept;
  }

  /** Packed rows grouped into whole steps, and the documents of what is left over unless the stream has ended. */
  private arrange(
    documents: readonly TokenizedExample[],
    start: WindowStart,
    isLast: boolean,
  ): { packed: TokenizedExample[][][]; rest: TokenizedExample[] } {
    const rows = this.pack(documents);
    // The end of a cut stream stays last, so that what follows joins it.
    const last = rows[rows.length - 1];
    const tail =
      this.options.packing === 'wrapped' && last !== undefined && last[0].inputIds.length < this.options.maxLength
        ? [last]
        : [];
    const { seed = 42, shuffleWindows = true, lane } = this.options;
    const bodyRows = rows.length - tail.length;
    // Two windows of a run never share a stream of numbers before the 65,537th window of an epoch.
    const random = new PhiloxStream(
      seed + (lane?.index ?? 0),
      RANDOM_DOMAIN.epoch,
      (start.window + start.epoch * 65537) >>> 0,
    );
    const order: Iterable<number> = shuffleWindows ? permutation(bodyRows, random) : Array(bodyRows).keys();
    const ordered = [...Array.from(order, (i) => rows[i]), ...tail];
    const whole = isLast ? rows.length : bodyRows - (bodyRows % this.perStep);
    const packed: TokenizedExample[][][] = [];
    for (let from = 0; from < whole; from += this.perStep)
      packed.push(ordered.slice(from, Math.min(from + this.perStep, whole)));
    return { packed, rest: ordered.slice(whole).flat().map(detached) };
  }

  private pack(documents: readonly TokenizedExample[]): TokenizedExample[][] {
    const { packing, maxLength } = this.options;
    if (packing === 'wrapped') return wrapStream(documents, maxLength).map((piece) => [piece]);
    if (packing === false) return documents.map((document) => [document]);
    const pieces = packing === 'bfd_split' ? splitLong(documents, maxLength) : documents;
    const lengths = pieces.map(({ inputIds }) => inputIds.length);
    return packBestFit(lengths, maxLength, this.options.documentsPerRow).rows.map((row) => row.map((i) => pieces[i]));
  }

  private makeStep(rows: TokenizedExample[][]): { microBatches: Batch[]; numLabels: number } {
    const { batchSize, worldSize = 1, rank = 0, padId, shapes } = this.options;
    const sizes = shapes.map(({ tokens }) => tokens);
    const microBatches: Batch[] = [];
    let numLabels = 0;
    for (let start = 0, i = 0; start < rows.length; start += batchSize, i++) {
      const documents = rows.slice(start, start + batchSize).flat();
      let total = 0;
      for (const { labels } of documents) {
        numLabels += countTrained(labels);
        total += labels.length;
      }
      if (i % worldSize === rank)
        microBatches.push(
          collate(documents, { tokens: bucketFor(total, sizes), documents: shapes[0].documents, padId }),
        );
    }
    return { microBatches, numLabels };
  }
}

const firstWindow = (epoch: number): WindowStart => ({
  epoch,
  window: 0,
  firstStep: 0,
  row: 0,
  cursor: null,
  carried: [],
});

/** Up to `most` rows, fewer when they are long: a bound on the text that is held at a time. */
async function readChunk(cursor: Cursor, most: number): Promise<{ rows: StreamRow[]; hasEnded: boolean }> {
  const rows: StreamRow[] = [];
  for (let characters = 0; rows.length < most && characters < kChunkCharacters;) {
    const item = await cursor.next();
    if (item === null) return { rows, hasEnded: true };
    rows.push(item);
    for (const value of Object.values(item.row)) if (typeof value === 'string') characters += value.length;
  }
  return { rows, hasEnded: false };
}

/** A copy that does not keep the window it was cut from in memory. */
function detached(example: TokenizedExample): TokenizedExample {
  const inputIds = example.inputIds.slice();
  return {
    row: example.row,
    inputIds,
    labels: example.labels === example.inputIds ? inputIds : example.labels.slice(),
  };
}

function store({ row, inputIds, labels }: TokenizedExample): { row: number; inputIds: number[]; labels: number[] } {
  return { row, inputIds: Array.from(inputIds), labels: Array.from(labels) };
}

function restore({ row, inputIds, labels }: { row: number; inputIds: number[]; labels: number[] }): TokenizedExample {
  return { row, inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels) };
}
