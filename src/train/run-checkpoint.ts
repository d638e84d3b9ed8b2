/**
 * The checkpoint of a run: what it holds of where the run stands, and which one a run goes on from. How a folder is written,
 * verified and read back is checkpoint.ts's business.
 *
 * Invariant: everything that decides the next step is in it; a resumed run is the same run, bit for bit.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { LatheError } from '../errors';
import { configToJson, type ResolvedConfig } from './arguments';
import { findCheckpoint, saveCheckpoint, supersedeCheckpoints, type LoadedCheckpoint } from './checkpoint';
import type { Ranks } from './ranks';
import type { StepRunner } from './runner';
import { ownStateToJson, stateToJson, type TrainerState } from './state';

export interface RunStanding {
  readonly args: ResolvedConfig;
  readonly state: TrainerState;
  readonly runner: StepRunner;
  readonly ranks: Ranks;
  /** Of the next step. */
  readonly learningRate: number;
  /** Writes the model or adapter and the tokenizer into the folder. */
  readonly saveModel: (dir: string) => Promise<void>;
}

/** Writes the checkpoint of this step; all ranks take part, the first one writes. @throws LatheError ERR_CHECKPOINT for the disk */
export async function saveRun({ args, state, runner, ranks, learningRate, saveModel }: RunStanding): Promise<void> {
  const owned = args.saveOnlyModel ? [] : runner.allOptimizerSlots();
  await ranks.collect(owned, async (read) => {
    await saveCheckpoint(args.outputDir, state.globalStep, {
      read,
      parameters: runner.parameters.map((p) => p.slot),
      optimizer: owned.map(({ slot }) => slot),
      stateJson: stateToJson(state, {
        loggingSteps: args.loggingSteps,
        evalSteps: args.evalSteps ?? args.loggingSteps,
        saveSteps: args.saveSteps,
        trainBatchSize: args.perDeviceTrainBatchSize,
      }),
      ownStateJson: ownStateToJson(state),
      schedulerJson: {
        lr_scheduler_type: args.lrSchedulerType,
        last_epoch: state.globalStep,
        base_lrs: [args.learningRate],
        _last_lr: [learningRate],
      },
      rngJson: { generator: 'philox4x32-10', seed: args.seed, step: state.globalStep },
      argsJson: configToJson(args),
      saveModel,
    });
  });
}

/** The checkpoint that the configuration asks to resume from, null when it asks for none. @throws LatheError ERR_CHECKPOINT when there is none */
export async function checkpointToResume(
  args: ResolvedConfig,
  warn: (message: string) => void,
): Promise<LoadedCheckpoint | null> {
  const which = args.resumeFromCheckpoint;
  if (!which) return null;
  const found = await findCheckpoint(which, args.outputDir, warn);
  if (!found)
    throw new LatheError('ERR_CHECKPOINT', 'there is no checkpoint to resume from', {
      at: args.outputDir,
      remedy: 'leave out resume_from_checkpoint to start anew',
    });
  return found;
}

/** Settings that change what is computed and that no check refuses to change; data, batch sizes and shapes have theirs. */
const COMPUTED: readonly string[] = [
  'learning_rate',
  'lr_scheduler_type',
  'lr_scheduler_kwargs',
  'warmup_steps',
  'weight_decay',
  'adam_beta1',
  'adam_beta2',
  'adam_epsilon',
  'max_grad_norm',
  'optim',
  'lora_alpha',
  'lora_dropout',
  'use_rslora',
  'dtype',
  'bf16',
  'load_in_4bit',
  'bnb_4bit_quant_type',
  'use_bnb_nested_quant',
  'seed',
  'loss_type',
  'completion_only_loss',
  'assistant_only_loss',
  'response_template',
  'instruction_template',
];

/** Says which settings that change what is computed are not those of the checkpoint: `learning_rate 0.001 -> 0.01`. */
export function noteChangedSettings(
  checkpoint: LoadedCheckpoint,
  args: ResolvedConfig,
  warn: (message: string) => void,
): void {
  const now = configToJson(args) as Readonly<Record<string, unknown>>;
  const before = checkpoint.args;
  const text = (value: unknown): string => JSON.stringify(value);
  const changed = COMPUTED.filter((key) => key in before && text(before[key]) !== text(now[key]));
  if (changed.length === 0) return;
  const settings = changed.map((key) => `${key} ${text(before[key])} -> ${text(now[key])}`).join(', ');
  warn(`the run goes on with other settings than ${checkpoint.path} was made with: ${settings}`);
}

/** Marks the checkpoints in the output folder that the run which begins does not go on from, and says so. */
export function leaveBehind(
  args: ResolvedConfig,
  resume: LoadedCheckpoint | null,
  warn: (message: string) => void,
): void {
  const stale = supersedeCheckpoints(args.outputDir, resume && { step: resume.state.globalStep, path: resume.path });
  // With `true` what comes after the newest whole one is damaged, and was said to be.
  if (stale.length === 0 || args.resumeFromCheckpoint === true) return;
  const names = stale.map((path) => basename(path)).join(', ');
  warn(
    `${names} in ${args.outputDir}: not what this run goes on from, so left out by resume_from_checkpoint: true, and deleted first`,
  );
}

/** The best checkpoint so far: its path is that of the run that wrote it, which may have been seen from elsewhere. */
export function bestCheckpoint(checkpoint: LoadedCheckpoint, warn: (message: string) => void): string | null {
  const best = checkpoint.state.bestModelCheckpoint;
  if (best === null) return null;
  const found = [best, join(dirname(checkpoint.path), basename(best))].find((candidate) => existsSync(candidate));
  if (!found) warn(`the best checkpoint so far, ${best}, is gone: a later evaluation has to be better to be kept`);
  return found ?? null;
}
