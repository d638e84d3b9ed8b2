/**
 * Where a trainer's steps come from: a Loader over a table in memory or on disk, or a StreamLoader.
 *
 * Invariant: what `next()` gives after `seek(state())` in another process is what it would have given in this one.
 */
import type { Batch } from './types';

/** One optimizer step. */
export interface StepBatches {
  epoch: number;
  stepInEpoch: number;
  /** Micro-batches of the epoch up to the end of this step, over all that it has; absent where these are not known. */
  epochShare?: number;
  /** No further step of this epoch follows. */
  endsEpoch: boolean;
  /** Up to the source's gradientAccumulationSteps; may be empty on a rank in the last step of an epoch. */
  microBatches: Batch[];
  /** Trained labels of the whole step, all ranks: the loss's divisor. */
  numLabels: number;
}

export interface StepSource {
  /** null where only the end of the data tells. */
  readonly stepsPerEpoch: number | null;
  /** Every batch has one of these: T tokens in at most S documents. */
  readonly shapes: readonly { tokens: number; documents: number }[];
  /** The most micro-batches that a step has on one rank. */
  readonly gradientAccumulationSteps: number;
  /** The step at the position; the position moves on, from the end of an epoch into the next. @throws ERR_DATA as the data */
  next(): StepBatches | Promise<StepBatches>;
  /** Plain JSON (once stringified): what `seek` needs to go on after the last step handed out. */
  state(): StepSourceState;
  /** `state()` of the whole job, where ranks hold parts of it; all ranks call it together. */
  jobState?(): Promise<StepSourceState>;
  /** @throws ERR_CHECKPOINT for a state of other data or options */
  seek(state: StepSourceState): void;
  /** Gives files back; `next` opens them again. */
  close?(): Promise<void>;
}

/** The part that all sources share: with nothing else, `seek` goes to the beginning of the epoch or to the step in it. */
export interface StepSourceState {
  epoch: number;
  stepInEpoch: number;
}
