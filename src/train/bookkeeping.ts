/**
 * The numbers of a run: what a step adds to the state, what a log entry and the final entry say of it. transformers' names; mean
 * losses are per trained label, averaged over steps.
 */
import type { StepBatches } from '../data/step-source';
import { emptyWindow, type LogEntry, type TrainerState } from './state';

/** A step over all ranks. */
export interface StepTotals {
  /** Mean over the trained labels. */
  readonly loss: number;
  readonly tokens: number;
  readonly flops: number;
  readonly metricSums: Readonly<Record<string, number>>;
}

/** Counts a step that is done; `stepsPerEpoch` is null for a stream. */
export function recordStep(
  state: TrainerState,
  batches: StepBatches,
  { loss, tokens, flops, metricSums }: StepTotals,
  stepsPerEpoch: number | null,
): void {
  const { window } = state;
  state.globalStep++;
  state.totalFlos += flops;
  // Of a stream the length is not known before its end; transformers counts max_steps as an epoch then.
  state.epoch = batches.endsEpoch
    ? batches.epoch + 1
    : batches.epoch +
      (batches.epochShare ?? Math.min((batches.stepInEpoch + 1) / (stepsPerEpoch ?? state.maxSteps), 1));
  state.numTokens += tokens;
  state.totalLoss += loss;
  window.steps++;
  window.lossSum += loss;
  window.labels += batches.numLabels;
  for (const [name, sum] of Object.entries(metricSums)) window.metricSums[name] = (window.metricSums[name] ?? 0) + sum;
}

/** The entry of the steps since the last one, which the history gets too; the next ones are summed from nothing. */
export function closeWindow(state: TrainerState, last: { gradNorm: number; learningRate: number }): LogEntry {
  const { window } = state;
  const entry: LogEntry = {
    loss: window.lossSum / window.steps,
    grad_norm: last.gradNorm,
    learning_rate: last.learningRate,
    num_tokens: state.numTokens,
  };
  for (const [name, sum] of Object.entries(window.metricSums)) entry[name] = sum / window.labels;
  entry.epoch = state.epoch;
  entry.step = state.globalStep;
  state.window = emptyWindow();
  state.logHistory.push(entry);
  return entry;
}

/** Of the steps since `stepsBefore`, which took `seconds`. */
export function finalMetrics(state: TrainerState, stepsBefore: number, rowsPerStep: number, seconds: number): LogEntry {
  const steps = state.globalStep - stepsBefore;
  return {
    train_runtime: seconds,
    train_samples_per_second: (steps * rowsPerStep) / seconds,
    train_steps_per_second: steps / seconds,
    total_flos: state.totalFlos,
    train_loss: state.globalStep ? state.totalLoss / state.globalStep : 0,
    epoch: state.epoch,
  };
}
