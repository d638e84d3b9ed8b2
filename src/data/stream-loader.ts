/**
 * The loader for data that does not fit in memory: steps from a stream that is read, tokenised and packed on the way.
 *
 * The idea: the files are dealt to lanes; each lane is read, shuffled and packed by itself (lane-reader.ts) and has its own
 * exact position, so a rank need only read its own. Micro-batch n of a run comes from lane n mod L, and rank r of W takes
 * the micro-batches n = r mod W: with L a multiple of W these are of its lanes. So the data of a step is a function of L alone, and
 * one process with L lanes trains what W ranks with L lanes do. The idea of MosaicML streaming's num_canonical_nodes.
 *
 * Invariants: with one lane every rank reads everything and takes its part, and only the last step of a pass may be short. With
 * more, every step is full but for the end of a lane, which goes on with its next pass; an epoch ends when the last lane has
 * ended it. Nothing is dropped. A step that a rank cannot read moves nobody on.
 */
import { LatheError } from '../errors';
import { LaneReader, type LanePosition, type LaneReaderOptions, type LaneState } from './lane-reader';
import type { PackingStrategy } from './pack';
import type { StepBatches, StepSource } from './step-source';
import type { IterableDataset } from './stream';
import type { TokenizeOptions } from './tokenize';
import { emptyReport, type TruncationReport } from './truncate';
import type { TextTokenizer } from './types';

/** The ranks of a job as the loader needs them; all of them make the same calls. */
export interface StreamPeers {
  /** What each rank gave, in rank order; of any length. */
  gather(bytes: Uint8Array): Promise<readonly Uint8Array[]>;
}

export interface StreamLoaderOptions extends Omit<TokenizeOptions, 'maxLength' | 'batchSize'> {
  /** Rows (packed rows when packing) per micro-batch and rank. */
  batchSize: number;
  gradientAccumulationSteps?: number;
  /** false: a row of text is a row of the batch. Default 'bfd'. */
  packing?: PackingStrategy | false;
  /** Tokens of a packed row; longest row without packing. */
  maxLength: number;
  /** Most rows of the stream that are packed together, over all lanes (2048). */
  windowRows?: number;
  /** A window ends sooner when it holds this many new tokens (64 steps), over all lanes. */
  windowTokens?: number;
  /** Visit the rows of a window in random order (true): neighbours in a file would else share a batch. */
  shuffleWindows?: boolean;
  /** Most documents in a packed row (64, wrapped 1); sets the capacity of cuSeqlens. */
  maxDocumentsPerRow?: number;
  seed?: number;
  padId?: number;
  rank?: number;
  worldSize?: number;
  /**
   * Parts of the stream that are read each for itself, a multiple of the ranks; 1: every rank reads all of it. Default: as many as
   * ranks where the stream has as many files. The data of a step depends on it, and not on how lanes are dealt to ranks.
   */
  lanes?: number | null;
  /** The other ranks; needed where each reads lanes of its own. */
  peers?: StreamPeers;
}

/** Plain JSON once stringified. Of one lane: its state. Without `stream` and `lanes`: the beginning of the epoch. */
export interface StreamLoaderState extends LaneState {
  /** Of several lanes, each one's; null: another rank's, which `jobState` collects. */
  lanes?: (LaneState | null)[];
  /** The lane that the next step begins with. */
  turn?: number;
}

const kBuckets = 4;
const kWindowSteps = 64;
const kWindowRows = 2048;

export class StreamLoader implements StepSource {
  readonly stepsPerEpoch = null;
  readonly shapes: readonly { tokens: number; documents: number }[];
  readonly gradientAccumulationSteps: number;
  /** What truncation has cut so far in this process. */
  readonly truncation: TruncationReport;
  private readonly rank: number;
  private readonly worldSize: number;
  /** Of a step, over all ranks. */
  private readonly microBatches: number;
  /** By lane; null where another rank reads it. */
  private lanes: (LaneReader | null)[];
  private turn = 0;
  private epoch = 0;
  private stepInEpoch = 0;
  /** Passes that each of this rank's lanes has ended. */
  private passes: number[];

  /** @throws LatheError ERR_CONFIG for lanes that do not fit the files or the ranks */
  constructor(
    private readonly source: IterableDataset,
    private readonly tokenizer: TextTokenizer,
    private readonly options: StreamLoaderOptions,
  ) {
    const { batchSize, gradientAccumulationSteps = 1, worldSize = 1, rank = 0, maxLength } = options;
    this.rank = rank;
    this.worldSize = worldSize;
    this.gradientAccumulationSteps = gradientAccumulationSteps;
    this.microBatches = gradientAccumulationSteps * worldSize;
    this.shapes = shapesOf(batchSize, maxLength, options.packing ?? 'bfd', this.documentsPerRow());
    this.truncation = emptyReport(options.truncation ?? 'keep_start', maxLength);
    if (options.lanes != null) requireLanes(options.lanes, source.numShards, worldSize);
    this.lanes = this.makeLanes(options.lanes ?? (source.numShards >= worldSize ? worldSize : 1));
    this.passes = this.lanes.map(() => 0);
  }

  /** How the files are shared among the ranks, when it is not as one would wish; else null. */
  get note(): string | null {
    const { worldSize, options, source } = this;
    if (worldSize === 1 || options.lanes != null || this.lanes.length > 1) return null;
    const what =
      source.numShards === 1
        ? 'one file (or rows that are counted over all files: test_split_size, max_train_samples)'
        : `${source.numShards} files`;
    return `the stream has ${what} for ${worldSize} ranks: every rank reads all of it and takes its part. With ${worldSize} files or more each reads its own`;
  }

  private documentsPerRow(): number {
    const { packing = 'bfd', maxDocumentsPerRow = 64 } = this.options;
    return packing === false || packing === 'wrapped' ? 1 : maxDocumentsPerRow;
  }

  private makeLanes(count: number): (LaneReader | null)[] {
    const { options, truncation, shapes, microBatches } = this;
    const {
      windowRows = kWindowRows,
      windowTokens = microBatches * kWindowSteps * options.batchSize * options.maxLength,
    } = options;
    const common: LaneReaderOptions = {
      ...options,
      packing: options.packing ?? 'bfd',
      documentsPerRow: this.documentsPerRow(),
      shapes,
      report: truncation,
      windowRows,
      windowTokens,
      lane: null,
    };
    if (count === 1) return [new LaneReader(this.source, this.tokenizer, common)];
    // A step of a lane is one micro-batch; all windows together hold what one lane's would.
    const each = {
      ...common,
      gradientAccumulationSteps: 1,
      rank: 0,
      worldSize: 1,
      windowRows: Math.ceil(windowRows / count),
      windowTokens: Math.ceil(windowTokens / count),
    };
    return Array.from({ length: count }, (_, index) =>
      index % this.worldSize === this.rank
        ? new LaneReader(this.source, this.tokenizer, { ...each, lane: { index, count } })
        : null,
    );
  }

  async next(): Promise<StepBatches> {
    const { lanes } = this;
    if (lanes.length === 1) return lanes[0]!.next();
    const before = lanes.map((lane) => lane?.position());
    const own = await this.ownSteps();
    const { numLabels, passes } = await this.overRanks(own, before);
    this.passes = own.passes;
    const { epoch, stepInEpoch } = this;
    const endsEpoch = passes > epoch;
    this.turn = (this.turn + this.microBatches) % lanes.length;
    this.epoch = endsEpoch ? passes : epoch;
    this.stepInEpoch = endsEpoch ? 0 : stepInEpoch + 1;
    return { epoch, stepInEpoch, endsEpoch, microBatches: own.steps.flatMap((step) => step.microBatches), numLabels };
  }

  /** This rank's micro-batches of the step in order; lanes are read side by side. */
  private async ownSteps(): Promise<OwnSteps> {
    const { lanes, worldSize } = this;
    const passes = [...this.passes];
    const steps: StepBatches[] = [];
    const slotsOf = new Map<number, number[]>();
    for (let slot = 0, n = this.rank; n < this.microBatches; slot++, n += worldSize) {
      const lane = (this.turn + n) % lanes.length;
      slotsOf.set(lane, [...(slotsOf.get(lane) ?? []), slot]);
    }
    const results = await Promise.allSettled(
      Array.from(slotsOf, async ([lane, slots]) => {
        for (const slot of slots) {
          const step = (steps[slot] = await lanes[lane]!.next());
          if (step.endsEpoch) passes[lane] = step.epoch + 1;
        }
      }),
    );
    const failed = results.find((result) => result.status === 'rejected');
    return { steps, passes, failure: failed ? { cause: failed.reason as unknown } : null };
  }

  /** Sums over the ranks, unless one of them failed: then all go back. */
  private async overRanks(
    { steps, passes, failure }: OwnSteps,
    before: (LanePosition | undefined)[],
  ): Promise<{ numLabels: number; passes: number }> {
    const labels = steps.reduce((sum, step) => sum + step.numLabels, 0);
    const slowest = passes.filter((_, lane) => this.lanes[lane]).reduce((a, b) => Math.min(a, b));
    const all = await this.gathered(Float64Array.of(failure ? 1 : 0, labels, slowest));
    if (all.some(([hasFailed]) => hasFailed === 1)) {
      this.lanes.forEach((lane, i) => lane?.rewind(before[i]!));
      if (failure) throw failure.cause;
      throw new LatheError('ERR_DATA', 'another rank could not read its part of the step', {
        remedy: 'see its message',
      });
    }
    return {
      numLabels: all.reduce((sum, rank) => sum + rank[1], 0),
      passes: all.reduce((least, rank) => Math.min(least, rank[2]), Infinity),
    };
  }

  private async gathered(values: Float64Array): Promise<readonly Float64Array[]> {
    if (this.worldSize === 1) return [values];
    const all = await this.peers().gather(new Uint8Array(values.buffer));
    return all.map((bytes) => new Float64Array(bytes.slice().buffer));
  }

  private peers(): StreamPeers {
    const { peers } = this.options;
    if (peers) return peers;
    throw new LatheError(
      'ERR_CONFIG',
      `stream loader: expected peers for ${this.worldSize} ranks with lanes of their own, received none`,
      { remedy: 'give peers, or lanes: 1' },
    );
  }

  state(): StreamLoaderState {
    const { lanes, epoch, stepInEpoch, turn } = this;
    if (lanes.length === 1) return lanes[0]!.state();
    const begun = stepInEpoch > 0 || epoch > 0;
    return {
      epoch,
      stepInEpoch,
      fingerprint: this.fingerprint(),
      ...(begun ? { turn, lanes: lanes.map((lane) => lane?.state() ?? null) } : {}),
    };
  }

  async jobState(): Promise<StreamLoaderState> {
    const own = this.state();
    if (!own.lanes || this.worldSize === 1) return own;
    const parts = await this.peers().gather(Buffer.from(JSON.stringify(own.lanes)));
    const lanesOf = parts.map((part) => JSON.parse(Buffer.from(part).toString()) as (LaneState | null)[]);
    return { ...own, lanes: own.lanes.map((_, lane) => lanesOf[lane % this.worldSize][lane]) };
  }

  seek(state: StreamLoaderState): void {
    const { epoch, stepInEpoch, lanes: states, turn = 0, fingerprint } = state;
    const isBeginning = !states && !state.stream && stepInEpoch === 0;
    const count = isBeginning ? this.lanes.length : (states?.length ?? 1);
    if (count !== this.lanes.length) this.adopt(count);
    if (count === 1) return this.lanes[0]!.seek(state);
    if (!isBeginning && fingerprint !== this.fingerprint()) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `stream loader state: expected the options ${this.fingerprint()}, received ${fingerprint ?? 'none'}`,
        {
          remedy:
            'resume with the same seed, batch size, packing, max_length and product of accumulation and ranks; to go on with others, set ignore_data_skip: true',
        },
      );
    }
    this.lanes.forEach((lane, i) => {
      const from = states ? states[i] : { epoch, stepInEpoch: 0 };
      if (!from)
        throw new LatheError(
          'ERR_CHECKPOINT',
          `stream loader state: expected a position for each of ${count} lanes, received none for lane ${i}`,
          { remedy: 'resume from an earlier checkpoint' },
        );
      lane?.seek(from);
      this.passes[i] = from.epoch;
    });
    Object.assign(this, { epoch, stepInEpoch, turn });
  }

  /** Goes over to the lanes of a checkpoint: they decide what a step holds. @throws LatheError ERR_CHECKPOINT where they cannot be had */
  private adopt(count: number): void {
    const { worldSize, options, source } = this;
    if (options.lanes != null) {
      throw new LatheError('ERR_CHECKPOINT', `the checkpoint's stream has ${count} lanes, this run ${options.lanes}`, {
        remedy: `leave out stream_lanes or set it to ${count}, or begin the data anew with ignore_data_skip: true`,
      });
    }
    if (count > 1 && count % worldSize !== 0) {
      const fitting = Array.from({ length: count }, (_, i) => i + 1).filter((ranks) => count % ranks === 0);
      throw new LatheError(
        'ERR_CHECKPOINT',
        `the checkpoint's stream has ${count} lanes, which ${worldSize} ranks cannot share evenly`,
        {
          remedy: `start ${fitting.join(', ').replace(/, (\d+)$/, ' or $1')} ranks, or begin the data anew with ignore_data_skip: true`,
        },
      );
    }
    if (count > source.numShards && count > 1) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `the checkpoint's stream has ${count} lanes, and the data ${source.numShards} files`,
        { remedy: 'put the same files back, or set ignore_data_skip: true to begin them anew' },
      );
    }
    this.lanes = this.makeLanes(count);
    this.passes = this.lanes.map(() => 0);
  }

  private fingerprint(): string {
    const { batchSize, packing = 'bfd', maxLength, seed = 42 } = this.options;
    return [batchSize, this.microBatches, packing, maxLength, seed, this.lanes.length].join(',');
  }

  async close(): Promise<void> {
    for (const lane of this.lanes) await lane?.close();
  }
}

interface OwnSteps {
  readonly steps: StepBatches[];
  readonly passes: number[];
  readonly failure: { readonly cause: unknown } | null;
}

function requireLanes(lanes: number, shards: number, ranks: number): void {
  if (!Number.isInteger(lanes) || lanes < 1)
    throw new LatheError('ERR_CONFIG', `stream_lanes: expected a whole number from 1 on, received ${lanes}`, {
      remedy: 'leave it out, or give a multiple of the ranks',
    });
  if (lanes > 1 && lanes % ranks !== 0)
    throw new LatheError(
      'ERR_CONFIG',
      `stream_lanes: expected 1 or a multiple of the ${ranks} ranks, received ${lanes}`,
      { remedy: 'leave it out, or give such a number' },
    );
  if (lanes > 1 && lanes > shards) {
    throw new LatheError(
      'ERR_CONFIG',
      `stream_lanes: expected at most ${shards}, the files that can be dealt out, received ${lanes}`,
      {
        remedy:
          'write the data to more files; test_split_size and max_train_samples count rows over all files, so leave them out or set stream_lanes: 1',
      },
    );
  }
}

function shapesOf(
  batchSize: number,
  maxLength: number,
  packing: PackingStrategy | false,
  documentsPerRow: number,
): { tokens: number; documents: number }[] {
  // Rows as they come are of any length: a few sizes keep the padding bounded.
  const parts = packing === false ? Array.from({ length: kBuckets }, (_, i) => (i + 1) / kBuckets) : [1];
  return [...new Set(parts.map((part) => Math.ceil(batchSize * maxLength * part)))].map((tokens) => ({
    tokens,
    documents: batchSize * documentsPerRow,
  }));
}
