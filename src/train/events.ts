/** What a run tells its listener, and the callbacks people know from transformers. */
import type { MemoryPlan, Remedy } from '../compile/plan';
import type { LogEntry, TrainerState } from './state';

export type TrainEvent =
  | { type: 'plan'; plan: MemoryPlan; remedies: readonly Remedy[]; policy: string }
  | { type: 'begin'; state: Readonly<TrainerState>; resumedFrom: string | null }
  | { type: 'step'; step: number; epoch: number; loss: number; gradNorm: number; learningRate: number; numTokens: number; tokensPerSecond: number; stepMs: number; cpuPerWall: number; peakBytes: number }
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

export interface CallbackContext {
  readonly state: Readonly<TrainerState>;
  readonly control: TrainerControl;
  readonly outputDir: string;
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
 * Stops when `metric` (eval_loss by default) has not improved by more than `threshold` for `patience` evaluations. It reads the log
 * history, so a resumed run counts on.
 */
export class EarlyStoppingCallback implements TrainerCallback {
  constructor(
    private readonly patience = 1,
    private readonly threshold = 0,
    private readonly metric = 'eval_loss',
  ) {}

  onEvaluate({ state, control }: CallbackContext): void {
    let best = Infinity;
    let waited = 0;
    for (const entry of state.logHistory) {
      const value = entry[this.metric];
      if (value === undefined) continue;
      waited = value < best - this.threshold ? 0 : waited + 1;
      best = Math.min(best, value);
    }
    if (waited >= this.patience) control.shouldTrainingStop = true;
  }
}
