/**
 * The stages of a stream as cursors: map, filter, take, skip, shuffle, concatenate, interleave.
 *
 * The idea: a stage's state is a few numbers of its own and the state of the cursor below; only the shuffle buffer holds
 * rows, and they go into its state, because the files they came from have been read past.
 *
 * Invariants: see cursor.ts. A stage opens the one below when it is opened, or, where it has several, when it comes to it.
 */
import {
  countIn,
  drawsOf,
  innerState,
  skipByReading,
  StoredRows,
  type Cursor,
  type CursorState,
  type OpenCursor,
  type Pass,
  type StreamRow,
} from './cursor';
import { PhiloxStream, RANDOM_DOMAIN } from './philox';
import type { Row } from './types';

type MaybePromise<T> = T | Promise<T>;
type OpenBelow = (from: CursorState | null) => Cursor;

export type StoppingStrategy = 'first_exhausted' | 'all_exhausted';

export class MapCursor implements Cursor {
  private readonly below: Cursor;
  private index: number;

  constructor(
    open: OpenBelow,
    private readonly fn: (row: Row, index: number) => MaybePromise<Row>,
    from: CursorState | null,
  ) {
    this.index = from ? countIn(from, 'index') : 0;
    this.below = open(innerState(from));
  }

  async next(): Promise<StreamRow | null> {
    const item = await this.below.next();
    return item && { row: await this.fn(item.row, this.index++), at: item.at };
  }

  skip(n: number): Promise<void> {
    this.index += n;
    return this.below.skip(n);
  }

  state(): CursorState {
    return { index: this.index, inner: this.below.state() };
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

/** Batches of rows to batches of rows; a position is the beginning of a batch and the rows used of its result. */
export class BatchMapCursor implements Cursor {
  private readonly below: Cursor;
  private start: CursorState;
  private out: Row[] = [];
  private used: number;

  constructor(
    open: OpenBelow,
    private readonly fn: (rows: Row[]) => MaybePromise<Row[]>,
    private readonly batchSize: number,
    from: CursorState | null,
  ) {
    this.below = open(innerState(from));
    this.start = this.below.state();
    this.used = from ? countIn(from, 'used') : 0;
  }

  async next(): Promise<StreamRow | null> {
    while (this.used >= this.out.length) {
      const before = this.below.state();
      const rows: Row[] = [];
      for (let item: StreamRow | null; rows.length < this.batchSize && (item = await this.below.next());)
        rows.push(item.row);
      if (rows.length === 0) return null;
      // After a seek nothing was mapped yet: `used` then counts into the batch that is read now.
      if (this.out.length > 0) this.used -= this.out.length;
      this.start = before;
      this.out = await this.fn(rows);
      // A result may have no rows at all; `used` is 0 then, and the loop goes on.
    }
    return { row: this.out[this.used++] };
  }

  skip(n: number): Promise<void> {
    return skipByReading(this, n);
  }

  state(): CursorState {
    return { used: this.used, inner: this.start };
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

export class FilterCursor implements Cursor {
  private readonly below: Cursor;
  private index: number;

  constructor(
    open: OpenBelow,
    private readonly fn: (row: Row, index: number) => MaybePromise<boolean>,
    from: CursorState | null,
  ) {
    this.index = from ? countIn(from, 'index') : 0;
    this.below = open(innerState(from));
  }

  async next(): Promise<StreamRow | null> {
    for (let item = await this.below.next(); item; item = await this.below.next())
      if (await this.fn(item.row, this.index++)) return item;
    return null;
  }

  skip(n: number): Promise<void> {
    return skipByReading(this, n);
  }

  state(): CursorState {
    return { index: this.index, inner: this.below.state() };
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

export class TakeCursor implements Cursor {
  private readonly below: Cursor;
  private left: number;

  constructor(open: OpenBelow, n: number, from: CursorState | null) {
    this.left = from ? countIn(from, 'left') : n;
    this.below = open(innerState(from));
  }

  async next(): Promise<StreamRow | null> {
    if (this.left <= 0) return null;
    const item = await this.below.next();
    if (item) this.left--;
    return item;
  }

  async skip(n: number): Promise<void> {
    const skipped = Math.min(n, Math.max(this.left, 0));
    this.left -= skipped;
    await this.below.skip(skipped);
  }

  state(): CursorState {
    return { left: Math.max(this.left, 0), inner: this.below.state() };
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

export class SkipCursor implements Cursor {
  private readonly below: Cursor;
  private pending: number;

  constructor(open: OpenBelow, n: number, from: CursorState | null) {
    this.pending = from ? 0 : n;
    this.below = open(innerState(from));
    if (from) this.pending = countIn(from, 'pending');
  }

  async next(): Promise<StreamRow | null> {
    await this.begin();
    return this.below.next();
  }

  async skip(n: number): Promise<void> {
    await this.begin();
    await this.below.skip(n);
  }

  private async begin(): Promise<void> {
    const { pending } = this;
    this.pending = 0;
    if (pending > 0) await this.below.skip(pending);
  }

  state(): CursorState {
    return { pending: this.pending, inner: this.below.state() };
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

/** Fills a buffer, then gives a random one of its rows for each row that comes in. */
export class ShuffleCursor implements Cursor {
  private readonly below: Cursor;
  private readonly random: PhiloxStream;
  private readonly bufferSize: number;
  private readonly buffer: StreamRow[];

  constructor(open: OpenCursor, pass: Pass, options: { bufferSize: number; seed: number }, from: CursorState | null) {
    // The rows held do not grow with the number of lanes.
    this.bufferSize = Math.ceil(options.bufferSize / (pass.lane?.count ?? 1));
    this.random = new PhiloxStream(options.seed, RANDOM_DOMAIN.buffer, drawsOf(pass));
    if (from) this.random.position = countIn(from, 'drawn');
    this.buffer = from ? StoredRows.read(from.buffer) : [];
    this.below = open(pass, innerState(from));
  }

  async next(): Promise<StreamRow | null> {
    const { buffer, random, bufferSize } = this;
    for (let item = await this.below.next(); item; item = await this.below.next()) {
      if (buffer.length < bufferSize) {
        buffer.push(item);
        continue;
      }
      const drawn = random.below(bufferSize);
      const row = buffer[drawn];
      buffer[drawn] = item;
      return row;
    }
    if (buffer.length === 0) return null;
    const drawn = random.below(buffer.length);
    const row = buffer[drawn];
    const last = buffer.pop() as StreamRow;
    if (drawn < buffer.length) buffer[drawn] = last;
    return row;
  }

  skip(n: number): Promise<void> {
    return skipByReading(this, n);
  }

  state(): CursorState {
    return { drawn: this.random.position, buffer: new StoredRows([...this.buffer]), inner: this.below.state() };
  }

  close(): Promise<void> {
    return this.below.close();
  }
}

/** One stream after the other. */
export class ConcatenateCursor implements Cursor {
  private part: number;
  private current: Cursor | null;

  constructor(
    private readonly opens: readonly OpenCursor[],
    private readonly pass: Pass,
    from: CursorState | null,
  ) {
    this.part = from ? countIn(from, 'part') : 0;
    this.current = this.part < opens.length ? opens[this.part](pass, innerState(from)) : null;
  }

  async next(): Promise<StreamRow | null> {
    while (this.current) {
      const item = await this.current.next();
      if (item) return item;
      await this.current.close();
      this.part++;
      this.current = this.part < this.opens.length ? this.opens[this.part](this.pass, null) : null;
    }
    return null;
  }

  skip(n: number): Promise<void> {
    return skipByReading(this, n);
  }

  state(): CursorState {
    return { part: this.part, inner: this.current?.state() ?? {} };
  }

  async close(): Promise<void> {
    await this.current?.close();
  }
}

export interface InterleaveSettings {
  probabilities?: readonly number[];
  seed: number;
  stoppingStrategy: StoppingStrategy;
}

/** Draws from several streams, by turns or by weights. */
export class InterleaveCursor implements Cursor {
  private readonly random: PhiloxStream;
  private readonly cursors: Cursor[];
  private readonly ended: Set<number>;
  private turn: number;
  private finished: boolean;

  constructor(
    private readonly opens: readonly OpenCursor[],
    private readonly pass: Pass,
    private readonly settings: InterleaveSettings,
    from: CursorState | null,
  ) {
    this.random = new PhiloxStream(settings.seed, RANDOM_DOMAIN.interleave, drawsOf(pass));
    this.turn = from ? countIn(from, 'turn') : 0;
    if (from) this.random.position = countIn(from, 'drawn');
    this.ended = new Set((from?.ended as number[] | undefined) ?? []);
    this.finished = from?.finished === true;
    const inner = from ? (innerState(from, 'inner') as unknown as CursorState[]) : null;
    this.cursors = opens.map((open, i) => open(pass, inner?.[i] ?? null));
  }

  async next(): Promise<StreamRow | null> {
    if (this.finished) return null;
    const { probabilities, stoppingStrategy } = this.settings;
    const source = probabilities ? weighted(probabilities, this.random.uniform()) : this.turn++ % this.opens.length;
    let item = await this.cursors[source].next();
    if (item) return item;
    this.ended.add(source);
    this.finished = stoppingStrategy !== 'all_exhausted' || this.ended.size === this.opens.length;
    if (this.finished) return null;
    await this.cursors[source].close();
    this.cursors[source] = this.opens[source](this.pass, null);
    item = await this.cursors[source].next();
    // A stream without any row can be repeated for ever.
    this.finished = item === null;
    return item;
  }

  skip(n: number): Promise<void> {
    return skipByReading(this, n);
  }

  state(): CursorState {
    return {
      turn: this.turn,
      drawn: this.random.position,
      ended: [...this.ended],
      finished: this.finished,
      inner: this.cursors.map((cursor) => cursor.state()),
    };
  }

  async close(): Promise<void> {
    for (const cursor of this.cursors) await cursor.close();
  }
}

function weighted(probabilities: readonly number[], draw: number): number {
  let sum = 0;
  for (let i = 0; i < probabilities.length - 1; i++) {
    sum += probabilities[i];
    if (draw < sum) return i;
  }
  return probabilities.length - 1;
}
