/**
 * The files of a streamed data set, one after the other, at a position that can be saved.
 *
 * The idea: a position is the shard, an anchor that its reader can begin at (a byte offset in lines and CSV, the row
 * group follows from the row in Parquet) and the last row used. A plain file is opened there; one inside a gzip or zstd
 * shard decompresses up to it, because those formats have no way in; shards before it are not opened.
 *
 * Invariants: below a shuffle the order of the shards is a function of (seed, epoch); the lanes of a pass share its shards out
 * in that order, each to one lane; a shard that is gone, or has not
 * the size it had when the stream was made, is an error that names it.
 */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { LatheError } from '../errors';
import { badState, countIn, type Cursor, type CursorState, type Pass, type StreamRow } from './cursor';
import { permutation, PhiloxStream, RANDOM_DOMAIN } from './philox';
import { FILE_START, type Anchor, type FilePosition, type RowBatch, type SkipCounter } from './table';

export interface Shard {
  readonly path: string;
  readonly bytes: number;
}

export interface ShardSource {
  readonly shards: readonly Shard[];
  readonly read: (path: string, options: { from: FilePosition; skip: SkipCounter }) => AsyncGenerator<RowBatch>;
  /** Names a row for messages. */
  readonly describe: (path: string, position: number) => string;
}

/** @throws ERR_DATA for a file that is not there */
export async function measureShards(paths: readonly string[]): Promise<Shard[]> {
  return Promise.all(
    paths.map(async (path) => {
      const info = await stat(path).catch((cause: Error) => {
        throw new LatheError('ERR_DATA', `expected a readable file, received ${cause.message}`, {
          at: path,
          remedy: 'check the path and its permissions',
          cause,
        });
      });
      return { path, bytes: info.size };
    }),
  );
}

/** Opens a cursor over the rows of the shards. */
export function openShards(source: ShardSource, pass: Pass, from: CursorState | null): Cursor {
  return new ShardCursor(source, pass, from);
}

class ShardCursor implements Cursor {
  private readonly order: ArrayLike<number>;
  private readonly fingerprint: string;
  /** Index into `order` of the shard that is open or comes next. */
  private shard = 0;
  private position: FilePosition = FILE_START;
  private readonly skipping: SkipCounter = { left: 0 };
  private reader: AsyncGenerator<RowBatch> | null = null;
  private batch: RowBatch = { rows: [], anchor: null };
  private used = 0;

  constructor(
    private readonly source: ShardSource,
    pass: Pass,
    from: CursorState | null,
  ) {
    const { shards } = source;
    const { lane } = pass;
    const order =
      pass.shardSeed === null
        ? shards.map((_, i) => i)
        : permutation(shards.length, new PhiloxStream(pass.shardSeed, RANDOM_DOMAIN.shards, pass.epoch));
    this.order = lane ? order.filter((_, place) => place % lane.count === lane.index) : order;
    this.fingerprint = fingerprintOf(shards);
    if (from) this.restore(from);
  }

  private restore(from: CursorState): void {
    if (from.shards !== this.fingerprint) {
      throw typeof from.shards === 'string'
        ? new LatheError(
            'ERR_CHECKPOINT',
            `the ${this.source.shards.length} files of the data set are not those that the checkpoint was made with`,
            {
              at: this.source.shards[0]?.path,
              remedy:
                'put the same files back (names and sizes count, folders do not), or set ignore_data_skip: true to begin them anew',
            },
          )
        : badState(from);
    }
    this.shard = countIn(from, 'shard');
    this.skipping.left = countIn(from, 'skip');
    this.position = { anchor: (from.anchor ?? null) as Anchor, after: Number(from.after) };
  }

  state(): CursorState {
    const { anchor, after } = this.position;
    return { shards: this.fingerprint, shard: this.shard, anchor, after, skip: this.skipping.left };
  }

  skip(n: number): Promise<void> {
    const here = Math.min(n, this.batch.rows.length - this.used);
    this.use(here);
    // The reader looks at the counter as it goes, and passes over rows without parsing them.
    this.skipping.left += n - here;
    return Promise.resolve();
  }

  async next(): Promise<StreamRow | null> {
    while (this.used === this.batch.rows.length) if (!(await this.readBatch())) return null;
    const { row, position } = this.batch.rows[this.used];
    this.use(1);
    return { row, at: this.source.describe(this.path(), position) };
  }

  private use(rows: number): void {
    if (rows === 0) return;
    this.used += rows;
    this.position = { anchor: this.batch.anchor, after: this.batch.rows[this.used - 1].position };
  }

  /** False at the end of the last shard. */
  private async readBatch(): Promise<boolean> {
    if (this.shard >= this.order.length) return false;
    if (!this.reader) {
      await this.checkShard(this.source.shards[this.order[this.shard]]);
      this.reader = this.source.read(this.path(), { from: this.position, skip: this.skipping });
    }
    const item = await this.reader.next();
    this.used = 0;
    if (item.done) {
      this.reader = null;
      this.shard++;
      this.position = FILE_START;
      this.batch = { rows: [], anchor: null };
    } else this.batch = item.value;
    return true;
  }

  private path(): string {
    return this.source.shards[this.order[this.shard]].path;
  }

  private async checkShard({ path, bytes }: Shard): Promise<void> {
    const remedy = 'put the file back as it was and resume from the last checkpoint';
    const info = await stat(path).catch((cause: Error) => {
      throw new LatheError(
        'ERR_DATA',
        `expected a file that was there when the stream was opened, received ${cause.message}`,
        { at: path, remedy, cause },
      );
    });
    if (info.size === bytes) return;
    throw new LatheError(
      'ERR_DATA',
      `expected the ${bytes} bytes that the file had when the stream was opened, received ${info.size}`,
      { at: path, remedy },
    );
  }

  async close(): Promise<void> {
    const { reader } = this;
    // What was read ahead is not used: the next read begins at the position.
    this.reader = null;
    this.batch = { rows: [], anchor: null };
    this.used = 0;
    await reader?.return(undefined);
  }
}

/** Names and sizes: what makes an offset point at the same row, wherever the files lie. */
function fingerprintOf(shards: readonly Shard[]): string {
  const hash = createHash('sha256');
  for (const { path, bytes } of shards) hash.update(`${basename(path)}\0${bytes}\0`);
  return hash.digest('hex').slice(0, 16);
}
