/**
 * TrainerState: what trainer_state.json holds, with exactly transformers' keys (its TrainerState.load_from_json refuses any
 * other), and our own part, lathe_state.json, that makes a resumed run the same run: the data position and the sums of the
 * logging window that was open.
 */
import type { StepSourceState } from '../data/step-source';

export type LogEntry = Record<string, number>;

/** Sums since the last log. */
export interface Window {
  /** Optimizer steps. */
  steps: number;
  /** Of the steps' mean losses, nats per label. */
  lossSum: number;
  /** Trained labels: the divisor of `metricSums`. */
  labels: number;
  metricSums: Record<string, number>;
}

export interface TrainerState {
  /** Optimizer steps done. */
  globalStep: number;
  maxSteps: number;
  /** Epochs done, with the fraction of the one under way. */
  epoch: number;
  numTrainEpochs: number;
  /** Floating-point operations of all micro-batches, recomputation included. */
  totalFlos: number;
  /** Real tokens seen. */
  numTokens: number;
  /** Sum over steps of the step loss, for the final train_loss. */
  totalLoss: number;
  window: Window;
  logHistory: LogEntry[];
  bestMetric: number | null;
  bestGlobalStep: number | null;
  bestModelCheckpoint: string | null;
  /** Position in the data, as its source tells it. */
  loader: StepSourceState | null;
}

export const emptyWindow = (): Window => ({ steps: 0, lossSum: 0, labels: 0, metricSums: {} });

export function initialState(maxSteps: number, numTrainEpochs: number): TrainerState {
  return {
    globalStep: 0,
    maxSteps,
    epoch: 0,
    numTrainEpochs,
    totalFlos: 0,
    numTokens: 0,
    totalLoss: 0,
    window: emptyWindow(),
    logHistory: [],
    bestMetric: null,
    bestGlobalStep: null,
    bestModelCheckpoint: null,
    loader: null,
  };
}

export interface StateSettings {
  loggingSteps: number;
  evalSteps: number;
  saveSteps: number;
  trainBatchSize: number;
}

/** trainer_state.json as transformers writes it: its keys, sorted. */
export function stateToJson(s: TrainerState, settings: StateSettings): Record<string, unknown> {
  return {
    best_global_step: s.bestGlobalStep,
    best_metric: s.bestMetric,
    best_model_checkpoint: s.bestModelCheckpoint,
    epoch: s.epoch,
    eval_steps: settings.evalSteps,
    global_step: s.globalStep,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: s.logHistory,
    logging_steps: settings.loggingSteps,
    max_steps: s.maxSteps,
    num_input_tokens_seen: s.numTokens,
    num_train_epochs: s.numTrainEpochs,
    save_steps: settings.saveSteps,
    stateful_callbacks: {
      TrainerControl: {
        args: {
          should_epoch_stop: false,
          should_evaluate: false,
          should_log: false,
          should_save: true,
          should_training_stop: s.globalStep >= s.maxSteps,
        },
        attributes: {},
      },
    },
    total_flos: s.totalFlos,
    train_batch_size: settings.trainBatchSize,
    trial_name: null,
    trial_params: null,
  };
}

type OwnState = Pick<TrainerState, 'loader' | 'numTokens' | 'totalLoss' | 'window'>;

/** lathe_state.json. */
export function ownStateToJson({ loader, numTokens, totalLoss, window }: TrainerState): Record<string, unknown> {
  const own: OwnState = { loader, numTokens, totalLoss, window };
  return { ...own };
}

/** The inverse of both, for resuming. */
export function stateFromJson(
  json: Readonly<Record<string, unknown>>,
  own: Readonly<Record<string, unknown>>,
): TrainerState {
  const ours = own as Partial<OwnState>;
  return {
    globalStep: Number(json.global_step),
    maxSteps: Number(json.max_steps),
    epoch: Number(json.epoch),
    numTrainEpochs: Number(json.num_train_epochs),
    totalFlos: Number(json.total_flos ?? 0),
    numTokens: ours.numTokens ?? 0,
    totalLoss: ours.totalLoss ?? 0,
    window: ours.window ?? emptyWindow(),
    logHistory: (json.log_history as LogEntry[] | undefined) ?? [],
    bestMetric: (json.best_metric as number | null | undefined) ?? null,
    bestGlobalStep: (json.best_global_step as number | null | undefined) ?? null,
    bestModelCheckpoint: (json.best_model_checkpoint as string | null | undefined) ?? null,
    loader: ours.loader ?? null,
  };
}
