/**
 * When a run logs, evaluates and saves, and which evaluation is the best: transformers' DefaultFlowCallback and
 * _determine_best_metric as pure functions of configuration and state.
 *
 * Invariants: a step-based interval counts from 1; the last step is evaluated and saved whatever the interval; epoch
 * strategies act at the end of an epoch, also of one that max_steps cuts short.
 */
import { LatheError } from '../errors';
import { stepInterval, type ResolvedConfig } from './arguments';
import type { LogEntry, TrainerState } from './state';

export interface Due {
  readonly log: boolean;
  readonly evaluate: boolean;
  readonly save: boolean;
}

/**
 * Optimizer steps of a run, and the epochs they stand for (1 where an epoch's length is unknown).
 * @throws LatheError ERR_CONFIG for a stream without max_steps, ERR_DATA for an epoch without a step
 */
export function runLength(args: ResolvedConfig, stepsPerEpoch: number | null): { maxSteps: number; epochs: number } {
  if (stepsPerEpoch === 0)
    throw new LatheError('ERR_DATA', 'expected training data with at least one step an epoch, received none', {
      remedy: 'check the files, filters and what truncation leaves out',
    });
  if (stepsPerEpoch !== null) {
    const maxSteps = args.maxSteps > 0 ? args.maxSteps : Math.ceil(args.numTrainEpochs * stepsPerEpoch);
    return { maxSteps, epochs: Math.ceil(maxSteps / stepsPerEpoch) };
  }
  if (args.maxSteps > 0) return { maxSteps: args.maxSteps, epochs: 1 };
  throw new LatheError(
    'ERR_CONFIG',
    `max_steps: expected a positive number with a stream, whose length is unknown, received ${args.maxSteps}`,
    {
      remedy: 'set max_steps (schedule and intervals are counted in it), or leave out dataset_streaming',
    },
  );
}

/** What is due after an optimizer step. */
export function dueAfterStep(args: ResolvedConfig, state: Readonly<TrainerState>): Due {
  const { globalStep, maxSteps } = state;
  const last = globalStep >= maxSteps;
  const isEvery = (interval: number): boolean => globalStep % stepInterval(interval, maxSteps) === 0;
  return {
    log:
      (args.loggingStrategy === 'steps' && isEvery(args.loggingSteps)) || (args.loggingFirstStep && globalStep === 1),
    evaluate:
      args.evalStrategy === 'steps' &&
      (last || isEvery(args.evalSteps ?? args.loggingSteps)) &&
      args.evalDelay <= globalStep,
    save: args.saveStrategy === 'steps' && (last || isEvery(args.saveSteps)),
  };
}

/** What is due at the end of an epoch. */
export function dueAfterEpoch(args: ResolvedConfig, state: Readonly<TrainerState>): Due {
  return {
    log: args.loggingStrategy === 'epoch',
    evaluate: args.evalStrategy === 'epoch' && args.evalDelay <= state.epoch,
    save: args.saveStrategy === 'epoch',
  };
}

/** @param names the loss's own metrics @throws LatheError ERR_CONFIG when metric_for_best_model is none that an evaluation measures */
export function requireMeasured(args: ResolvedConfig, names: readonly string[]): void {
  const name = args.metricForBestModel?.replace(/^eval_/, '');
  const known = ['loss', 'perplexity', ...names, 'runtime', 'samples_per_second', 'steps_per_second'];
  if (name === undefined || known.includes(name)) return;
  throw new LatheError('ERR_CONFIG', `metric_for_best_model names '${name}', which an evaluation does not measure`, {
    remedy: `use one of ${known.join(', ')}`,
  });
}

/**
 * Notes a new best evaluation in `state`; true when this is one. Without a metric to go by nothing is tracked.
 * @throws LatheError ERR_CONFIG when the metric is not among those measured
 */
export function trackBest(args: ResolvedConfig, state: TrainerState, metrics: LogEntry): boolean {
  const name = args.metricForBestModel;
  if (name === null) return false;
  const key = name.startsWith('eval_') ? name : `eval_${name}`;
  const value = metrics[key];
  if (value === undefined) {
    throw new LatheError('ERR_CONFIG', `metric_for_best_model names '${name}', which an evaluation does not measure`, {
      remedy: `use one of ${Object.keys(metrics)
        .map((k) => k.replace(/^eval_/, ''))
        .join(', ')}`,
    });
  }
  const greater = args.greaterIsBetter ?? !name.endsWith('loss');
  const best = state.bestMetric ?? (greater ? -Infinity : Infinity);
  // Written so that NaN is never an improvement.
  if (!(greater ? value > best : value < best)) return false;
  state.bestMetric = value;
  state.bestGlobalStep = state.globalStep;
  return true;
}
