/**
 * Cursors: what an IterableDataset is while it is being read.
 *
 * The idea: each stage of a stream is a function that opens a cursor, at its beginning or at a state that an earlier
 * cursor of the same stage gave. A stage's state holds that of the stage below it, down to a byte offset in a shard, so
 * going on is opening at the state: nothing that was used before is read, mapped or drawn again.
 *
 * Invariants: the state taken after k rows opens a cursor whose rows are those from k on; states are plain JSON once
 * they went through JSON.stringify (rows held in a buffer are packed only then); a closed cursor still tells its state.
 */
import { deserialize, serialize } from 'node:v8';
import { deflateSync, inflateSync } from 'node:zlib';
import { LatheError } from '../errors';
import type { Row } from './types';

/** A row and where it came from (`train.jsonl:17`), when that is known. */
export interface StreamRow {
  readonly row: Row;
  readonly at?: string;
}

/** Of one stage; only the stage that made it can read it. */
export type CursorState = Readonly<Record<string, unknown>>;

export interface Cursor {
  /** The next row, or null at the end, also when asked again. */
  next(): Promise<StreamRow | null>;
  /** Passes over the next n rows in the cheapest way. */
  skip(n: number): Promise<void>;
  state(): CursorState;
  /** Gives files back. */
  close(): Promise<void>;
}

/** What holds for a whole pass over a stream. */
export interface Pass {
  /** Counts passes: shuffles differ from one to the next. */
  readonly epoch: number;
  /** Set below a shuffle: sources visit their files in an order drawn from it. */
  readonly shardSeed: number | null;
  /** Only the part of the files that is dealt to this lane; null: all of them. */
  readonly lane: Lane | null;
}

/** One of several parts of a stream that are read each for itself: every `count`-th file from the `index`-th on. */
export interface Lane {
  readonly index: number;
  readonly count: number;
}

/** What tells the draws of a pass from those of others; lanes of an epoch never share them. */
export function drawsOf({ epoch, lane }: Pass): number {
  return (epoch + 65537 * (lane?.index ?? 0)) >>> 0;
}

export type OpenCursor = (pass: Pass, from: CursorState | null) => Cursor;

/** Skips by reading; for stages that know no shorter way. */
export async function skipByReading(cursor: Cursor, n: number): Promise<void> {
  for (let left = n; left > 0 && (await cursor.next()) !== null; left--);
}

/** Rows inside a state. They may hold what JSON cannot (bigint, dates, bytes), hence the packing. */
export class StoredRows {
  constructor(readonly rows: readonly StreamRow[]) {}

  toJSON(): { packed: string } {
    return { packed: deflateSync(serialize(this.rows), { level: 1 }).toString('base64') };
  }

  /** From a state, before or after JSON. @throws ERR_CHECKPOINT when it is neither */
  static read(value: unknown): StreamRow[] {
    if (value instanceof StoredRows) return [...value.rows];
    try {
      return deserialize(inflateSync(Buffer.from((value as { packed: string }).packed, 'base64'))) as StreamRow[];
    } catch (cause) {
      throw badState(value, cause);
    }
  }
}

/** A count inside a state. @throws ERR_CHECKPOINT when it is none */
export function countIn(state: CursorState, name: string): number {
  const value = state[name];
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw badState(state);
}

/** The state of the stage below. @throws ERR_CHECKPOINT when there is none */
export function innerState(state: CursorState | null, name = 'inner'): CursorState | null {
  if (state === null) return null;
  const inner = state[name];
  if (typeof inner === 'object' && inner !== null) return inner as CursorState;
  throw badState(state);
}

export function badState(state: unknown, cause?: unknown): LatheError {
  return new LatheError(
    'ERR_CHECKPOINT',
    `stream state: expected one of this stream, received ${(JSON.stringify(state) ?? 'nothing').slice(0, 80)}`,
    {
      remedy: 'resume with the same files and the same steps (map, filter, shuffle...) as before',
      cause,
    },
  );
}
