/**
 * IterableDataset: rows that never all sit in memory; map, filter, shuffle buffer, take, skip, interleave.
 *
 * The idea: a stage is one function, `open(skip)`, that yields its rows after the first `skip`. Each stage knows the
 * cheapest way to do that (a map does not call its function for skipped rows; a reader does not parse them), so
 * resuming is "open at the saved position", and is exact because every stage is deterministic. A shuffle buffer or a
 * filter must look at the rows before the position again: their resume costs reading time, never memory.
 *
 * Invariants: memory is bounded by buffer sizes; iterating twice gives the same rows; state is plain JSON.
 */
import { LatheError } from '../errors';
import type { Dataset } from './dataset';
import { PhiloxStream, RANDOM_DOMAIN } from './philox';
import type { Row } from './types';

type MaybePromise<T> = T | Promise<T>;

/** Yields the rows of a stage after its first `skip`. */
export type OpenRows = (skip: number) => AsyncIterable<Row>;

/** Where an iteration stands: rows already yielded. */
export interface StreamState {
  position: number;
}

export type StoppingStrategy = 'first_exhausted' | 'all_exhausted';

export interface InterleaveOptions {
  /** Weights per source, summing to 1; default: take turns. */
  probabilities?: number[];
  seed?: number;
  /** Stop with the first source that ends, or repeat ended ones until each has ended once. */
  stoppingStrategy?: StoppingStrategy;
}

export class IterableDataset {
  private position = 0;
  private startAt = 0;

  private constructor(private readonly open: OpenRows) {}

  static fromSource(open: OpenRows): IterableDataset {
    return new IterableDataset(open);
  }

  static fromDataset(dataset: Dataset): IterableDataset {
    return new IterableDataset(async function* (skip) {
      for (let i = skip; i < dataset.length; i++) yield dataset.get(i);
    });
  }

  /** All rows, or after `seek` those from its position on (once: the iteration after that starts at 0 again). */
  async *[Symbol.asyncIterator](): AsyncGenerator<Row> {
    this.position = this.startAt;
    this.startAt = 0;
    for await (const row of this.open(this.position)) {
      // Counted before it is handed out, so that state() asked for while a row is in use includes that row.
      this.position++;
      yield row;
    }
  }

  state(): StreamState {
    return { position: this.position };
  }

  /** The next iteration starts after `state.position` rows. @throws ERR_CHECKPOINT for a state that is not one */
  seek(state: StreamState): void {
    if (!Number.isSafeInteger(state.position) || state.position < 0) {
      throw new LatheError('ERR_CHECKPOINT', `stream state: expected a position, received ${JSON.stringify(state)}`, {
        remedy: 'pass what state() returned',
      });
    }
    this.position = state.position;
    this.startAt = state.position;
  }

  /** The function's result is merged over the row. */
  map(fn: (row: Row, index: number) => MaybePromise<Row>, options: { removeColumns?: string[] } = {}): IterableDataset {
    const { open } = this;
    const removed = options.removeColumns ?? [];
    return new IterableDataset(async function* (skip) {
      let index = skip;
      for await (const row of open(skip)) {
        const merged = { ...row };
        for (const name of removed) delete merged[name];
        yield Object.assign(merged, await fn(row, index++));
      }
    });
  }

  /** The function gets up to `batchSize` rows and returns any number of rows. */
  mapBatches(fn: (rows: Row[]) => MaybePromise<Row[]>, options: { batchSize?: number } = {}): IterableDataset {
    const { open } = this;
    const batchSize = options.batchSize ?? 1000;
    return dropFirst(async function* () {
      let batch: Row[] = [];
      for await (const row of open(0)) {
        batch.push(row);
        if (batch.length === batchSize) {
          yield* await fn(batch);
          batch = [];
        }
      }
      if (batch.length > 0) yield* await fn(batch);
    });
  }

  filter(fn: (row: Row, index: number) => MaybePromise<boolean>): IterableDataset {
    const { open } = this;
    return dropFirst(async function* () {
      let index = 0;
      for await (const row of open(0)) if (await fn(row, index++)) yield row;
    });
  }

  take(n: number): IterableDataset {
    const { open } = this;
    return new IterableDataset(async function* (skip) {
      let left = n - skip;
      if (left <= 0) return;
      for await (const row of open(skip)) {
        yield row;
        if (--left === 0) return;
      }
    });
  }

  skip(n: number): IterableDataset {
    const { open } = this;
    return new IterableDataset((skip) => open(n + skip));
  }

  selectColumns(names: string | string[]): IterableDataset {
    const kept = [names].flat();
    const { open } = this;
    return new IterableDataset(async function* (skip) {
      for await (const row of open(skip)) yield Object.fromEntries(kept.map((name) => [name, row[name] ?? null]));
    });
  }

  removeColumns(names: string | string[]): IterableDataset {
    return this.map(() => ({}), { removeColumns: [names].flat() });
  }

  renameColumn(from: string, to: string): IterableDataset {
    return this.map((row) => ({ [to]: row[from] ?? null }), { removeColumns: [from] });
  }

  /** Approximate shuffle: each yielded row is drawn from a buffer of `bufferSize` rows, which the next row refills. */
  shuffle(options: { seed?: number; bufferSize?: number } = {}): IterableDataset {
    const { open } = this;
    const bufferSize = options.bufferSize ?? 1000;
    const seed = options.seed ?? 42;
    return dropFirst(async function* () {
      const random = new PhiloxStream(seed, RANDOM_DOMAIN.buffer);
      const buffer: Row[] = [];
      for await (const row of open(0)) {
        if (buffer.length < bufferSize) {
          buffer.push(row);
          continue;
        }
        const drawn = random.below(bufferSize);
        yield buffer[drawn];
        buffer[drawn] = row;
      }
      for (let left = buffer.length; left > 0; left--) {
        const drawn = random.below(left);
        yield buffer[drawn];
        buffer[drawn] = buffer[left - 1];
      }
    });
  }

  /** The rows of this stream, then those of the others. */
  concatenate(...others: IterableDataset[]): IterableDataset {
    const parts = [this, ...others];
    return dropFirst(async function* () {
      for (const part of parts) yield* part.open(0);
    });
  }

  /** @internal */
  static opener(dataset: IterableDataset): OpenRows {
    return dataset.open;
  }
}

/** A stage that can only reach a position by running up to it. */
function dropFirst(run: () => AsyncIterable<Row>): IterableDataset {
  return IterableDataset.fromSource(async function* (skip) {
    let left = skip;
    for await (const row of run()) {
      if (left > 0) left--;
      else yield row;
    }
  });
}

/**
 * One stream that draws from several, by turns or by weights; which source is drawn depends on the seed only.
 * @throws ERR_CONFIG when the weights do not fit the sources
 */
export function interleave(sources: IterableDataset[], options: InterleaveOptions = {}): IterableDataset {
  const { probabilities } = options;
  if (probabilities) checkProbabilities(probabilities, sources.length);
  const opens = sources.map((source) => IterableDataset.opener(source));
  const seed = options.seed ?? 42;
  const draws = (): (() => number) => {
    const random = new PhiloxStream(seed, RANDOM_DOMAIN.interleave);
    let turn = 0;
    return () => (probabilities ? weighted(probabilities, random.uniform()) : turn++ % sources.length);
  };
  const runFrom = async function* (skip: number): AsyncGenerator<Row> {
    const next = draws();
    // Until the first source ends, how many rows each has given is known without reading any.
    const taken = new Array<number>(sources.length).fill(0);
    for (let i = 0; i < skip; i++) taken[next()]++;
    const rows = opens.map((open, i) => open(taken[i])[Symbol.asyncIterator]());
    const ended = new Set<number>();
    try {
      for (;;) {
        const source = next();
        let item = await rows[source].next();
        if (item.done) {
          ended.add(source);
          if (options.stoppingStrategy !== 'all_exhausted' || ended.size === sources.length) return;
          rows[source] = opens[source](0)[Symbol.asyncIterator]();
          item = await rows[source].next();
          if (item.done) return;
        }
        yield item.value;
      }
    } finally {
      for (const iterator of rows) await iterator.return?.();
    }
  };
  if (options.stoppingStrategy === 'all_exhausted') return dropFirst(() => runFrom(0));
  return IterableDataset.fromSource(runFrom);
}

function weighted(probabilities: number[], draw: number): number {
  let sum = 0;
  for (let i = 0; i < probabilities.length - 1; i++) {
    sum += probabilities[i];
    if (draw < sum) return i;
  }
  return probabilities.length - 1;
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
