/**
 * IterableDataset: rows that never all sit in memory; map, filter, shuffle buffer, take, skip, interleave.
 *
 * The idea: a data set is a recipe, `open(pass, state)`, and reading it is a cursor (cursor.ts). Each stage wraps the
 * cursor of the stage below; the classes are in stages.ts. Names are those of Hugging Face `datasets`: a shuffle
 * also shuffles the order of the files below it, and both differ from epoch to epoch (`setEpoch`).
 *
 * Invariants: memory is bounded by buffer sizes; iterating twice in one epoch gives the same rows; state is plain JSON.
 */
import { LatheError } from '../errors';
import { countIn, skipByReading, type Cursor, type CursorState, type Lane, type OpenCursor, type Pass } from './cursor';
import type { Dataset } from './dataset';
import { openShards, type ShardSource } from './shards';
import {
  BatchMapCursor,
  ConcatenateCursor,
  FilterCursor,
  InterleaveCursor,
  MapCursor,
  ShuffleCursor,
  SkipCursor,
  TakeCursor,
  type StoppingStrategy,
} from './stages';
import type { Row } from './types';

export type { StoppingStrategy } from './stages';

type MaybePromise<T> = T | Promise<T>;

/** Yields the rows of a source after its first `skip`. */
export type OpenRows = (skip: number) => AsyncIterable<Row>;

/** Where an iteration stands: plain JSON once it went through JSON.stringify. */
export interface StreamState {
  /** Rows already given. */
  position: number;
  epoch?: number;
  /** How the stages stand; without it, rows are passed over up to the position. */
  cursor?: CursorState;
}

export interface InterleaveOptions {
  /** Weights per source, summing to 1; default: take turns. */
  probabilities?: number[];
  seed?: number;
  /** Stop with the first source that ends, or repeat ended ones until each has ended once. */
  stoppingStrategy?: StoppingStrategy;
}

export class IterableDataset {
  private epoch = 0;
  private position = 0;
  private startAt: StreamState | null = null;
  private cursor: Cursor | null = null;

  private constructor(
    private readonly openCursor: OpenCursor,
    /** Files that can be dealt to lanes; 1 where rows cannot be told apart by file (rows in memory, a function's, after `take` or `skip`). */
    readonly numShards: number,
  ) {}

  /** Rows from anything that can begin at a row number. */
  static fromSource(open: OpenRows): IterableDataset {
    return new IterableDataset((_pass, from) => new SourceCursor(open, from), 1);
  }

  static fromDataset(dataset: Dataset): IterableDataset {
    return new IterableDataset((_pass, from) => new TableCursor(dataset, from), 1);
  }

  /** @internal */
  static fromShards(source: ShardSource): IterableDataset {
    return new IterableDataset((pass, from) => openShards(source, pass, from), source.shards.length);
  }

  /** A cursor over one pass, or over a lane of it (of at most `numShards`). @throws ERR_CHECKPOINT for a state of another stream */
  open(epoch = 0, from: CursorState | null = null, lane: Lane | null = null): Cursor {
    return this.openCursor({ epoch, shardSeed: null, lane }, from);
  }

  /** Later iterations shuffle as in this epoch, counted from 0. */
  setEpoch(epoch: number): void {
    this.epoch = epoch;
  }

  /** All rows, or after `seek` those from its position on (once: the iteration after that starts at 0 again). */
  async *[Symbol.asyncIterator](): AsyncGenerator<Row> {
    const from = this.startAt;
    this.startAt = null;
    this.position = from?.position ?? 0;
    this.epoch = from?.epoch ?? this.epoch;
    const cursor = (this.cursor = this.open(this.epoch, from?.cursor ?? null));
    try {
      if (!from?.cursor) await cursor.skip(this.position);
      for (let item = await cursor.next(); item; item = await cursor.next()) {
        // Counted before it is handed out, so that state() asked for while a row is in use includes that row.
        this.position++;
        yield item.row;
      }
    } finally {
      await cursor.close();
    }
  }

  state(): StreamState {
    if (this.startAt) return this.startAt;
    return { position: this.position, epoch: this.epoch, ...(this.cursor ? { cursor: this.cursor.state() } : {}) };
  }

  /** The next iteration starts after `state.position` rows. @throws ERR_CHECKPOINT for a state that is not one */
  seek(state: StreamState): void {
    if (!Number.isSafeInteger(state.position) || state.position < 0) {
      throw new LatheError('ERR_CHECKPOINT', `stream state: expected a position, received ${JSON.stringify(state)}`, {
        remedy: 'pass what state() returned',
      });
    }
    this.startAt = state;
  }

  /** The function's result is merged over the row. */
  map(fn: (row: Row, index: number) => MaybePromise<Row>, options: { removeColumns?: string[] } = {}): IterableDataset {
    const removed = options.removeColumns ?? [];
    const merge = async (row: Row, index: number): Promise<Row> => {
      const merged = { ...row };
      for (const name of removed) delete merged[name];
      return Object.assign(merged, await fn(row, index));
    };
    return this.replaceRows(merge);
  }

  /** Each row becomes what the function returns. */
  private replaceRows(fn: (row: Row, index: number) => MaybePromise<Row>): IterableDataset {
    return this.stage((open, from) => new MapCursor(open, fn, from));
  }

  /** The function gets up to `batchSize` rows and returns any number of rows. */
  mapBatches(fn: (rows: Row[]) => MaybePromise<Row[]>, options: { batchSize?: number } = {}): IterableDataset {
    return this.stage((open, from) => new BatchMapCursor(open, fn, options.batchSize ?? 1000, from));
  }

  filter(fn: (row: Row, index: number) => MaybePromise<boolean>): IterableDataset {
    return this.stage((open, from) => new FilterCursor(open, fn, from));
  }

  /** The first n rows; a shuffle above it does not change which files they come from. */
  take(n: number): IterableDataset {
    return this.stage((open, from) => new TakeCursor(open, n, from), { countsRows: true });
  }

  /** All but the first n rows; a shuffle above it does not change which files those come from. */
  skip(n: number): IterableDataset {
    return this.stage((open, from) => new SkipCursor(open, n, from), { countsRows: true });
  }

  selectColumns(names: string | string[]): IterableDataset {
    const kept = [names].flat();
    return this.replaceRows((row) => Object.fromEntries(kept.map((name) => [name, row[name] ?? null])));
  }

  removeColumns(names: string | string[]): IterableDataset {
    return this.map(() => ({}), { removeColumns: [names].flat() });
  }

  renameColumn(from: string, to: string): IterableDataset {
    return this.map((row) => ({ [to]: row[from] ?? null }), { removeColumns: [from] });
  }

  /**
   * Approximate shuffle: each yielded row is drawn from a buffer of `bufferSize` rows, which the next row refills; the files
   * below are visited in a drawn order. A position holds the rows of the buffer.
   */
  shuffle(options: { seed?: number; bufferSize?: number } = {}): IterableDataset {
    const bufferSize = options.bufferSize ?? 1000;
    const seed = options.seed ?? 42;
    if (!Number.isInteger(bufferSize) || bufferSize < 1) {
      throw new LatheError('ERR_CONFIG', `shuffle: expected a bufferSize from 1 on, received ${bufferSize}`, {
        remedy: 'give the number of rows to draw from',
      });
    }
    return new IterableDataset(
      (pass, from) =>
        new ShuffleCursor(
          (below, state) => this.openCursor({ ...below, shardSeed: seed }, state),
          pass,
          { bufferSize, seed },
          from,
        ),
      this.numShards,
    );
  }

  /** The rows of this stream, then those of the others. */
  concatenate(...others: IterableDataset[]): IterableDataset {
    const parts = [this, ...others];
    const opens = parts.map((part) => part.openCursor);
    return new IterableDataset((pass, from) => new ConcatenateCursor(opens, pass, from), fewestShards(parts));
  }

  private stage(
    make: (open: (from: CursorState | null) => Cursor, from: CursorState | null) => Cursor,
    options: { countsRows?: boolean } = {},
  ): IterableDataset {
    const below = this.openCursor;
    return new IterableDataset(
      (pass, from) => {
        const inner: Pass = options.countsRows ? { ...pass, shardSeed: null } : pass;
        return make((state) => below(inner, state), from);
      },
      options.countsRows ? 1 : this.numShards,
    );
  }

  /** @internal */
  static interleaved(sources: IterableDataset[], options: InterleaveOptions): IterableDataset {
    const opens = sources.map((source) => source.openCursor);
    const settings = {
      probabilities: options.probabilities,
      seed: options.seed ?? 42,
      stoppingStrategy: options.stoppingStrategy ?? 'first_exhausted',
    };
    return new IterableDataset(
      (pass, from) => new InterleaveCursor(opens, pass, settings, from),
      fewestShards(sources),
    );
  }
}

const fewestShards = (parts: readonly IterableDataset[]): number => Math.min(...parts.map((part) => part.numShards));

/**
 * One stream that draws from several, by turns or by weights; which source is drawn depends on the seed and the epoch only.
 * @throws ERR_CONFIG when the weights do not fit the sources
 */
export function interleave(sources: IterableDataset[], options: InterleaveOptions = {}): IterableDataset {
  if (options.probabilities) checkProbabilities(options.probabilities, sources.length);
  return IterableDataset.interleaved(sources, options);
}

function checkProbabilities(probabilities: number[], sources: number): void {
  const sum = probabilities.reduce((a, b) => a + b, 0);
  if (probabilities.length === sources && probabilities.every((p) => p >= 0) && Math.abs(sum - 1) < 1e-6) return;
  throw new LatheError(
    'ERR_CONFIG',
    `interleave: expected ${sources} probabilities that sum to 1, received ${JSON.stringify(probabilities)}`,
    {
      remedy: 'give one non-negative weight per source and divide them by their sum',
    },
  );
}

/** Rows of a table in memory. */
class TableCursor implements Cursor {
  private index: number;

  constructor(
    private readonly dataset: Dataset,
    from: CursorState | null,
  ) {
    this.index = from ? countIn(from, 'index') : 0;
  }

  next(): ReturnType<Cursor['next']> {
    if (this.index >= this.dataset.length) return Promise.resolve(null);
    const at = this.dataset.describeRow(this.index);
    return Promise.resolve({ row: this.dataset.get(this.index++), at });
  }

  skip(n: number): Promise<void> {
    this.index = Math.min(this.index + n, this.dataset.length);
    return Promise.resolve();
  }

  state(): CursorState {
    return { index: this.index };
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Rows of a function of the user. */
class SourceCursor implements Cursor {
  private index: number;
  private rows: AsyncIterator<Row> | null = null;

  constructor(
    private readonly openRows: OpenRows,
    from: CursorState | null,
  ) {
    this.index = from ? countIn(from, 'index') : 0;
  }

  async next(): ReturnType<Cursor['next']> {
    this.rows ??= this.openRows(this.index)[Symbol.asyncIterator]();
    const item = await this.rows.next();
    if (item.done) return null;
    return { row: item.value, at: `row ${this.index++}` };
  }

  async skip(n: number): Promise<void> {
    if (this.rows) await skipByReading(this, n);
    else this.index += n;
  }

  state(): CursorState {
    return { index: this.index };
  }

  async close(): Promise<void> {
    const { rows } = this;
    this.rows = null;
    await rows?.return?.();
  }
}
