/** What a run tells its listener, and the callbacks people know from transformers. */
import { LatheError } from '../errors';
import type { MemoryPlan, Remedy } from '../compile/plan';
import type { ResolvedConfig } from './arguments';
import type { LogEntry, TrainerState } from './state';

/**
 * What `run()` yields. Losses are nats per trained label (perplexity is their exp), `stepMs` wall-clock milliseconds, `numTokens` real
 * tokens seen so far, `cpuPerWall` CPU seconds per second, `peakBytes` the plan's. `gradNorm` is the one before clipping.
 */
export type TrainEvent =
  | { type: 'plan'; plan: MemoryPlan; remedies: readonly Remedy[]; policy: string }
  | { type: 'begin'; state: Readonly<TrainerState>; resumedFrom: string | null }
  | {
      type: 'step';
      step: number;
      epoch: number;
      loss: number;
      gradNorm: number;
      learningRate: number;
      numTokens: number;
      tokensPerSecond: number;
      stepMs: number;
      cpuPerWall: number;
      peakBytes: number;
    }
  | { type: 'log'; step: number; entry: LogEntry }
  | { type: 'evaluate'; step: number; metrics: LogEntry }
  | { type: 'save'; step: number; path: string }
  | { type: 'end'; state: Readonly<TrainerState>; metrics: LogEntry; interrupted: boolean };

/** Set by callbacks, read by the loop after each step. */
export interface TrainerControl {
  shouldTrainingStop: boolean;
  shouldEvaluate: boolean;
  shouldSave: boolean;
  shouldLog: boolean;
}

/** What every hook is given; `control` may be changed. */
export interface CallbackContext {
  readonly state: Readonly<TrainerState>;
  readonly control: TrainerControl;
  readonly outputDir: string;
  readonly args: ResolvedConfig;
}

type Hook<A extends unknown[] = []> = (context: CallbackContext, ...args: A) => void | Promise<void>;

/** Any subset of transformers' events, in camelCase. */
export interface TrainerCallback {
  onInitEnd?: Hook;
  onTrainBegin?: Hook;
  onTrainEnd?: Hook;
  onEpochBegin?: Hook;
  onEpochEnd?: Hook;
  onStepBegin?: Hook;
  onSubstepEnd?: Hook;
  onPreOptimizerStep?: Hook;
  onOptimizerStep?: Hook;
  onStepEnd?: Hook;
  onEvaluate?: Hook<[LogEntry]>;
  onSave?: Hook<[string]>;
  onLog?: Hook<[LogEntry]>;
  /** Every event of the run, before the loop goes on. */
  onEvent?: Hook<[TrainEvent]>;
}

export type HookName = Exclude<keyof TrainerCallback, 'onEvaluate' | 'onSave' | 'onLog' | 'onEvent'>;

/**
 * Stops when a metric (metric_for_best_model, else the loss) has not improved by more than `threshold` for `patience`
 * evaluations. A resumed run counts on from its log.
 */
export class EarlyStoppingCallback implements TrainerCallback {
  private best: number | null = null;
  private waited = 0;

  constructor(
    private readonly patience = 1,
    private readonly threshold = 0,
  ) {
    for (const [name, value] of Object.entries({ patience, threshold })) {
      if (typeof value === 'number' && value >= 0) continue;
      throw new LatheError(
        'ERR_CONFIG',
        `[EarlyStoppingCallback] ${name} expected a number >= 0, received ${JSON.stringify(value)}`,
        { remedy: 'write new EarlyStoppingCallback(patience, threshold)' },
      );
    }
  }

  onTrainBegin({ state, args }: CallbackContext): void {
    this.best = null;
    this.waited = 0;
    for (const entry of state.logHistory) this.count(entry, args);
  }

  onEvaluate({ control, args }: CallbackContext, metrics: LogEntry): void {
    this.count(metrics, args);
    if (this.waited >= this.patience) control.shouldTrainingStop = true;
  }

  private count(metrics: LogEntry, { metricForBestModel, greaterIsBetter }: ResolvedConfig): void {
    const name = metricForBestModel ?? 'loss';
    const value = metrics[name.startsWith('eval_') ? name : `eval_${name}`];
    if (value === undefined) return;
    const gain = this.best === null ? Infinity : (value - this.best) * (greaterIsBetter ? 1 : -1);
    this.waited = gain > 0 && gain > this.threshold ? 0 : this.waited + 1;
    if (gain > 0) this.best = value;
  }
}
