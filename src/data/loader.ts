/**
 * The loader: examples to optimizer steps of micro-batches, at a position that can be saved.
 *
 * The idea: an epoch is an order of units (rows, or packed rows); a micro-batch is the next `batchSize` units laid end
 * to end; a step is `gradientAccumulationSteps` micro-batches per rank. Everything is computed from (seed, epoch,
 * step), so `seek` goes anywhere at once. A step states the labels of all its micro-batches on all ranks, which is what
 * the loss is divided by.
 *
 * Invariants: within an epoch every unit is used once (dropLast aside); steps per epoch as the HF Trainer counts them, the
 * last partial accumulation kept; every batch has one of `shapes`.
 */
import { crc32 } from 'node:zlib';
import { LatheError } from '../errors';
import { bucketFor, chooseBuckets, largestTotal } from './buckets';
import { collate } from './collate';
import { countTrained } from './masks';
import { packExamples, type PackingStrategy } from './pack';
import { epochOrder, type SamplingStrategy } from './sampler';
import { FileExample, lengthOf } from './token-file';
import type { StepBatches, StepSource, StepSourceState } from './step-source';
import type { Batch, TokenizedExample } from './types';

export interface LoaderOptions {
  /** Rows (packed rows when packing) per micro-batch and rank. */
  batchSize: number;
  gradientAccumulationSteps?: number;
  /** true means 'bfd'. */
  packing?: boolean | PackingStrategy;
  /** Tokens of a packed row; needed for packing. */
  maxLength?: number;
  seed?: number;
  /** false is samplingStrategy 'sequential'. */
  shuffle?: boolean;
  samplingStrategy?: SamplingStrategy;
  /** Leave out a last micro-batch of fewer rows. */
  dropLast?: boolean;
  /** Flat lengths T to pad to; default: chosen from the data. Not used when packing. */
  buckets?: readonly number[];
  maxBuckets?: number;
  bucketMultiple?: number;
  padId?: number;
  /** What errors call the rows; default: the rows. */
  name?: string;
  /** This process and how many there are; rank r takes every worldSize-th micro-batch. */
  rank?: number;
  worldSize?: number;
}

export interface LoaderState extends StepSourceState {
  /** Of the data and options that order depends on. */
  fingerprint?: string;
}

export interface LoaderSummary {
  examples: number;
  tokens: number;
  trainedTokens: number;
  /** Rows or packed rows of an epoch. */
  units: number;
  /** Share of computed positions that hold tokens: packing fill, or what buckets leave. */
  fill: number;
  stepsPerEpoch: number;
  /** Tokens of the longest document. */
  longestDocument: number;
  shapes: { tokens: number; documents: number }[];
}

interface Units {
  documents: readonly TokenizedExample[];
  /** Per unit, its documents. */
  members: number[][];
  lengths: Float64Array;
  labels: Float64Array;
  /** Set when packing: every micro-batch has B times this many tokens. */
  rowTokens?: number;
}

export class Loader implements StepSource {
  readonly stepsPerEpoch: number;
  /** Flat lengths T that batches come in, ascending. */
  readonly buckets: readonly number[];
  /** S: the capacity of every batch's cuSeqlens. */
  readonly maxDocuments: number;
  readonly summary: LoaderSummary;
  private readonly fingerprint: string;
  private position = { epoch: 0, stepInEpoch: 0 };
  private order?: { epoch: number; rows: Uint32Array };

  /** @internal use createLoader */
  constructor(
    private readonly units: Units,
    private readonly options: ResolvedOptions,
  ) {
    const microBatches = this.microBatchCount();
    this.stepsPerEpoch = Math.max(Math.ceil(microBatches / this.microBatchesPerStep()), 1);
    this.maxDocuments = largestTotal(
      units.members.map((documents) => documents.length),
      options.batchSize,
    );
    const { sizes, waste } = this.chooseSizes();
    this.buckets = sizes;
    this.fingerprint = fingerprintOf(units, options);
    const sum = (values: Float64Array): number => values.reduce((a, b) => a + b, 0);
    this.summary = {
      examples: units.documents.length,
      tokens: sum(units.lengths),
      trainedTokens: sum(units.labels),
      units: units.members.length,
      fill: 1 / (1 + waste),
      stepsPerEpoch: this.stepsPerEpoch,
      longestDocument: units.documents.reduce((longest, document) => Math.max(longest, lengthOf(document)), 0),
      shapes: sizes.map((tokens) => ({ tokens, documents: this.maxDocuments })),
    };
  }

  get shapes(): readonly { tokens: number; documents: number }[] {
    return this.summary.shapes;
  }

  get gradientAccumulationSteps(): number {
    return this.options.gradientAccumulationSteps;
  }

  /** The step at the position; the position moves on, from the end of an epoch into the next. */
  next(): StepBatches {
    const step = this.step(this.position.epoch, this.position.stepInEpoch);
    const stepInEpoch = this.position.stepInEpoch + 1;
    this.position =
      stepInEpoch < this.stepsPerEpoch
        ? { ...this.position, stepInEpoch }
        : { epoch: this.position.epoch + 1, stepInEpoch: 0 };
    return step;
  }

  /** Any step, without moving. @throws ERR_CONFIG outside 0 .. stepsPerEpoch - 1 */
  step(epoch: number, stepInEpoch: number): StepBatches {
    if (stepInEpoch < 0 || stepInEpoch >= this.stepsPerEpoch) {
      throw new LatheError(
        'ERR_CONFIG',
        `loader: expected a step below ${this.stepsPerEpoch}, received ${stepInEpoch}`,
        { remedy: 'steps restart at 0 in every epoch' },
      );
    }
    const { worldSize, rank } = this.options;
    const first = stepInEpoch * this.microBatchesPerStep();
    const end = Math.min(first + this.microBatchesPerStep(), this.microBatchCount());
    const microBatches: Batch[] = [];
    let numLabels = 0;
    for (let i = first; i < end; i++) {
      const units = this.unitsOf(epoch, i);
      for (const unit of units) numLabels += this.units.labels[unit];
      if (i % worldSize === rank) microBatches.push(this.collateUnits(units));
    }
    return {
      epoch,
      stepInEpoch,
      epochShare: end / this.microBatchCount(),
      endsEpoch: stepInEpoch === this.stepsPerEpoch - 1,
      microBatches,
      numLabels,
    };
  }

  /** The remaining steps of the current epoch; the position moves along. */
  *epochSteps(): Generator<StepBatches> {
    const { epoch } = this.position;
    while (this.position.epoch === epoch) yield this.next();
  }

  /** What `seek` needs to go on from here. */
  state(): LoaderState {
    return { ...this.position, fingerprint: this.fingerprint };
  }

  /**
   * Makes `next()` give the step after the one the state was taken at.
   * @throws ERR_CHECKPOINT when the state is of other data or options, or out of range
   */
  seek(state: LoaderState): void {
    const whole = Number.isSafeInteger(state.epoch) && Number.isSafeInteger(state.stepInEpoch);
    if (!whole || state.epoch < 0 || state.stepInEpoch < 0 || state.stepInEpoch > this.stepsPerEpoch) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `loader state: expected an epoch and a step up to ${this.stepsPerEpoch}, received ${JSON.stringify(state)}`,
        {
          remedy: 'resume with the data and batch sizes that the checkpoint was made with',
        },
      );
    }
    if (state.fingerprint !== undefined && state.fingerprint !== this.fingerprint) {
      throw new LatheError(
        'ERR_CHECKPOINT',
        `loader state: expected fingerprint ${this.fingerprint} of this data and these options, received ${state.fingerprint}`,
        {
          remedy:
            'resume with the same data, seed, batch size, accumulation, packing and world size; to go on with other data, set ignore_data_skip: true',
        },
      );
    }
    const atEnd = state.stepInEpoch === this.stepsPerEpoch;
    this.position = atEnd
      ? { epoch: state.epoch + 1, stepInEpoch: 0 }
      : { epoch: state.epoch, stepInEpoch: state.stepInEpoch };
  }

  private microBatchesPerStep(): number {
    return this.options.gradientAccumulationSteps * this.options.worldSize;
  }

  /** Of all ranks, per epoch. */
  private microBatchCount(): number {
    const exact = this.units.members.length / this.options.batchSize;
    return this.options.dropLast ? Math.floor(exact) : Math.ceil(exact);
  }

  private orderOf(epoch: number): Uint32Array {
    if (this.order?.epoch !== epoch) {
      const { samplingStrategy: strategy, seed, batchSize } = this.options;
      this.order = { epoch, rows: epochOrder(this.units.lengths, epoch, { strategy, seed, batchSize }) };
    }
    return this.order.rows;
  }

  private unitsOf(epoch: number, microBatch: number): Uint32Array {
    const { batchSize } = this.options;
    return this.orderOf(epoch).subarray(microBatch * batchSize, (microBatch + 1) * batchSize);
  }

  private collateUnits(units: Uint32Array): Batch {
    const documents: TokenizedExample[] = [];
    let total = 0;
    for (const unit of units) {
      for (const d of this.units.members[unit]) documents.push(this.units.documents[d]);
      total += this.units.lengths[unit];
    }
    return collate(documents, {
      tokens: bucketFor(total, this.buckets),
      documents: this.maxDocuments,
      padId: this.options.padId,
    });
  }

  private chooseSizes(): { sizes: readonly number[]; waste: number } {
    const { options, units } = this;
    if (units.rowTokens !== undefined) {
      const tokens = units.lengths.reduce((a, b) => a + b, 0);
      return {
        sizes: [options.batchSize * units.rowTokens],
        waste: (units.lengths.length * units.rowTokens) / tokens - 1,
      };
    }
    const totals = this.sampleTotals();
    const fixedOrder = options.samplingStrategy === 'sequential';
    const cover = fixedOrder
      ? totals.reduce((a, b) => Math.max(a, b), 0)
      : largestTotal(units.lengths, options.batchSize);
    if (options.buckets === undefined)
      return chooseBuckets(totals, { maxBuckets: options.maxBuckets, multiple: options.bucketMultiple, cover });
    const sizes = [...options.buckets].sort((a, b) => a - b);
    bucketFor(cover, sizes);
    let padded = 0;
    for (const total of totals) padded += bucketFor(total, sizes);
    return { sizes, waste: padded / totals.reduce((a, b) => a + b, 0) - 1 };
  }

  /** Tokens of the micro-batches of the first epochs: the distribution that buckets are chosen for. */
  private sampleTotals(): number[] {
    const totals: number[] = [];
    const count = this.microBatchCount();
    const epochs =
      this.options.samplingStrategy === 'sequential' ? 1 : Math.min(Math.ceil(kSampledBatches / count), kSampledEpochs);
    for (let epoch = 0; epoch < epochs; epoch++) {
      for (let i = 0; i < count && (epoch === 0 || totals.length < kSampledBatches); i++) {
        let total = 0;
        for (const unit of this.unitsOf(epoch, i)) total += this.units.lengths[unit];
        totals.push(total);
      }
    }
    return totals;
  }
}

const kSampledBatches = 4096;
const kSampledEpochs = 8;

type ResolvedOptions = Required<
  Pick<
    LoaderOptions,
    'batchSize' | 'gradientAccumulationSteps' | 'seed' | 'samplingStrategy' | 'dropLast' | 'rank' | 'worldSize'
  >
> &
  LoaderOptions;

/** @throws ERR_CONFIG for options out of range, ERR_DATA when there is no micro-batch, or none with a trained token */
export function createLoader(examples: readonly TokenizedExample[], options: LoaderOptions): Loader {
  const resolved: ResolvedOptions = {
    ...options,
    gradientAccumulationSteps: options.gradientAccumulationSteps ?? 1,
    seed: options.seed ?? 42,
    samplingStrategy: options.shuffle === false ? 'sequential' : (options.samplingStrategy ?? 'random'),
    dropLast: options.dropLast ?? false,
    rank: options.rank ?? 0,
    worldSize: options.worldSize ?? 1,
  };
  for (const name of ['batchSize', 'gradientAccumulationSteps', 'worldSize'] as const)
    requireCount(name, resolved[name]);
  if (!Number.isInteger(resolved.rank) || resolved.rank < 0 || resolved.rank >= resolved.worldSize) {
    throw new LatheError('ERR_CONFIG', `rank: expected 0 to ${resolved.worldSize - 1}, received ${resolved.rank}`, {
      remedy: 'check RANK and WORLD_SIZE',
    });
  }
  const units = makeUnits(
    examples.filter((example) => lengthOf(example) > 0),
    options,
  );
  requireTraining(units, examples.length, resolved);
  return new Loader(units, resolved);
}

/** A loader without a micro-batch, or without a label, would only be noticed when the loss is divided by nought. */
function requireTraining({ members, labels, rowTokens }: Units, rows: number, options: ResolvedOptions): void {
  const { name = 'the rows', dropLast, batchSize } = options;
  const fail = (message: string, remedy: string): never => {
    throw new LatheError('ERR_DATA', `${name}: ${message}`, { remedy });
  };
  if (rows === 0)
    fail('expected at least one, received none', 'check the file, the split, filters and what truncation leaves out');
  if (members.length === 0)
    fail(
      `expected at least one token, received ${rows} rows without any`,
      'check the column that the text is read from',
    );
  if (dropLast && members.length < batchSize) {
    const what =
      rowTokens === undefined ? `${members.length} rows` : `${members.length} packed rows of ${rowTokens} tokens`;
    fail(
      `expected at least one whole micro-batch of ${batchSize} (the last one, if smaller, is dropped), received ${what}`,
      'set dataloader_drop_last: false, or lower the batch size',
    );
  }
  if (labels.every((count) => count === 0)) {
    fail(
      `expected at least one token that is not masked, received ${rows} rows without any`,
      'check completion_only_loss, assistant_only_loss and response_template against a row (lathe data preview), and that max_length leaves something of the answers',
    );
  }
}

function requireCount(name: string, value: number): void {
  if (Number.isInteger(value) && value >= 1) return;
  throw new LatheError('ERR_CONFIG', `${name}: expected a whole number from 1 on, received ${value}`, {
    remedy: 'check the configuration',
  });
}

function makeUnits(examples: readonly TokenizedExample[], options: LoaderOptions): Units {
  const strategy = options.packing === true ? 'bfd' : options.packing || undefined;
  if (strategy === undefined)
    return measure(
      examples,
      examples.map((_, i) => [i]),
    );
  if (options.maxLength === undefined) {
    throw new LatheError('ERR_CONFIG', 'packing: expected maxLength, received none', {
      remedy: 'give the tokens of a packed row, e.g. 1024',
    });
  }
  requireCount('maxLength', options.maxLength);
  const { documents, packing } = packExamples(examples, options.maxLength, strategy);
  return { ...measure(documents, packing.rows), rowTokens: options.maxLength };
}

function measure(documents: readonly TokenizedExample[], members: number[][]): Units {
  const lengths = new Float64Array(members.length);
  const labels = new Float64Array(members.length);
  members.forEach((list, unit) => {
    for (const d of list) {
      lengths[unit] += lengthOf(documents[d]);
      labels[unit] += trainedOf(documents[d]);
    }
  });
  return { documents, members, lengths, labels };
}

/** Labels that the loss will see; of a file's rows without reading them, where the file knows. */
function trainedOf(document: TokenizedExample): number {
  return (document instanceof FileExample ? document.trained : undefined) ?? countTrained(document.labels);
}

/** CRC-32 over everything that the steps of an epoch depend on, ids and labels included. */
function fingerprintOf(units: Units, options: ResolvedOptions): string {
  let hash = 0;
  const mix = (value: string | ArrayBufferView): void => {
    const bytes = typeof value === 'string' ? value : new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    hash = crc32(bytes, hash);
  };
  const { batchSize, gradientAccumulationSteps, seed, samplingStrategy, dropLast, worldSize } = options;
  // How a step is split over ranks changes nothing about what is in it.
  const step = gradientAccumulationSteps * worldSize;
  mix(JSON.stringify([batchSize, step, seed, samplingStrategy, dropLast, units.rowTokens ?? 0]));
  const [first] = units.documents;
  // The content of a file is told by its key: reading every row at the start would take long.
  if (first instanceof FileExample) mix(first.file.header.key);
  mix(Float64Array.from(units.documents.flatMap((document) => [lengthOf(document), document.row])));
  for (const document of units.documents) {
    if (document instanceof FileExample) continue;
    mix(document.inputIds);
    if (document.labels !== document.inputIds) mix(document.labels);
  }
  return (hash >>> 0).toString(16).padStart(8, '0');
}
