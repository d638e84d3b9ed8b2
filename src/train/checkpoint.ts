/**
 * Checkpoints: `checkpoint-N/` folders that a run resumes from bit for bit, laid out like transformers'.
 *
 * A folder is built under a temporary name, flushed, checksummed and renamed, so one that exists is whole. Resuming
 * verifies the checksums and falls back to the one before when a folder was damaged. Optimizer moments are stored as they
 * are in memory (codes and scales for 8-bit), never dequantised.
 */
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import type { StateSlot } from '../graph/tensor';
import { verifyDirectory, withDirectoryCommit, writeJsonAtomic } from '../io/atomic-file';
import { openSafetensors, writeSafetensors } from '../io/safetensors';
import { readTensorBytes } from '../io/tensor-source';
import { readJsonObject } from '../pretrained/open';
import type { Session } from '../runtime/session';
import { stateFromJson, type TrainerState } from './state';

const NAMES: Record<DType, 'F32' | 'BF16' | 'F16' | 'I32' | 'U8'> = {
  f32: 'F32',
  bf16: 'BF16',
  f16: 'F16',
  i32: 'I32',
  u8: 'U8',
};

export interface CheckpointContents {
  /** The bytes of a slot; of a shared optimizer's, from the rank that keeps them. */
  readonly read: (slot: string) => Promise<Uint8Array>;
  /** Trained parameters, as they are in memory. */
  readonly parameters: readonly StateSlot[];
  readonly optimizer: readonly StateSlot[];
  /** trainer_state.json. */
  readonly stateJson: Record<string, unknown>;
  /** lathe_state.json. */
  readonly ownStateJson: Record<string, unknown>;
  readonly schedulerJson: Record<string, unknown>;
  readonly rngJson: Record<string, unknown>;
  /** The echoed configuration. */
  readonly argsJson: Record<string, unknown>;
  /** Writes the model or adapter and the tokenizer into the folder. */
  readonly saveModel: (dir: string) => Promise<void>;
}

/** The folder of a step's checkpoint. */
export function checkpointPath(outputDir: string, step: number): string {
  return join(outputDir, `checkpoint-${step}`);
}

/** Writes the folder of a step, over an older one of that name. @throws LatheError ERR_CHECKPOINT for the disk */
export async function saveCheckpoint(outputDir: string, step: number, c: CheckpointContents): Promise<void> {
  await withDirectoryCommit(
    checkpointPath(outputDir, step),
    async (dir) => {
      await c.saveModel(dir);
      await writeSafetensors(
        join(dir, 'optimizer.safetensors'),
        slotTensors(c.read, [...c.parameters, ...c.optimizer]),
      );
      await writeJsonAtomic(join(dir, 'scheduler.json'), c.schedulerJson);
      await writeJsonAtomic(join(dir, 'rng_state.json'), c.rngJson);
      await writeJsonAtomic(join(dir, 'training_args.json'), c.argsJson);
      await writeJsonAtomic(join(dir, 'lathe_state.json'), c.ownStateJson);
      await writeJsonAtomic(join(dir, 'trainer_state.json'), c.stateJson);
    },
    { replace: true },
  );
}

function slotTensors(
  read: CheckpointContents['read'],
  slots: readonly StateSlot[],
): { name: string; dtype: (typeof NAMES)[DType]; shape: readonly number[]; data: () => Promise<Uint8Array> }[] {
  return slots.map((s) => ({ name: s.name, dtype: NAMES[s.dtype], shape: [...s.shape], data: () => read(s.name) }));
}

export interface LoadedCheckpoint {
  readonly path: string;
  readonly state: TrainerState;
  /** training_args.json: the configuration that it was made with; empty where the file is missing. */
  readonly args: Readonly<Record<string, unknown>>;
  /** Puts parameters and optimizer state back, bit for bit; all or nothing. @throws LatheError ERR_CHECKPOINT naming a slot that does not fit */
  restore(session: Session, slots: readonly StateSlot[]): Promise<void>;
}

/** In a checkpoint of an earlier run into the same folder: its number says nothing about how new it is. */
const SUPERSEDED = '.superseded';

interface FoundCheckpoint {
  readonly step: number;
  readonly path: string;
}

function everyCheckpoint(outputDir: string): (FoundCheckpoint & { superseded: boolean })[] {
  if (!existsSync(outputDir)) return [];
  return readdirSync(outputDir)
    .map((name) => /^checkpoint-(\d+)$/.exec(name))
    .filter((m): m is RegExpExecArray => m !== null)
    .map((m) => ({ step: Number(m[1]), path: join(outputDir, m[0]) }))
    .map((c) => ({ ...c, superseded: existsSync(join(c.path, SUPERSEDED)) }))
    .sort((a, b) => Number(a.superseded) - Number(b.superseded) || b.step - a.step);
}

/** Checkpoints of a folder's run by step, newest first; without those of earlier runs. */
export function listCheckpoints(outputDir: string): FoundCheckpoint[] {
  return everyCheckpoint(outputDir).filter((c) => !c.superseded);
}

/**
 * Marks what the run that begins does not go on from: with `resumed`, the checkpoint it goes on from, only later ones of the same
 * folder. They are neither resumed by themselves nor kept by save_total_limit at the expense of the run's own.
 * @returns the paths marked
 */
export function supersedeCheckpoints(outputDir: string, resumed: FoundCheckpoint | null): string[] {
  const goesOn = resumed !== null && resolve(dirname(resumed.path)) === resolve(outputDir);
  const stale = listCheckpoints(outputDir).filter((c) => !goesOn || c.step > resumed.step);
  for (const { path } of stale) writeFileSync(join(path, SUPERSEDED), '');
  return stale.map(({ path }) => path);
}

/**
 * Opens the checkpoint to resume from: a path, or true for the newest whole one of `outputDir`.
 * Damaged folders are reported through `warn` and skipped; null when there is none.
 * @throws LatheError ERR_CHECKPOINT when a path is given and its folder is missing or damaged
 */
export async function findCheckpoint(
  which: string | true,
  outputDir: string,
  warn: (message: string) => void,
): Promise<LoadedCheckpoint | null> {
  if (which !== true) return openCheckpointFolder(which);
  for (const { path } of listCheckpoints(outputDir)) {
    const problems = await verifyDirectory(path);
    if (problems.length === 0) return openCheckpointFolder(path);
    warn(`${path} is damaged (${problems[0].message}); trying the checkpoint before it`);
  }
  return null;
}

async function openCheckpointFolder(path: string): Promise<LoadedCheckpoint> {
  const problems = existsSync(path) ? await verifyDirectory(path) : [{ message: 'no such folder' }];
  if (problems.length)
    throw new LatheError('ERR_CHECKPOINT', `cannot resume: ${problems[0].message}`, {
      at: path,
      remedy: 'give an earlier checkpoint or resume_from_checkpoint: true',
    });
  const read = (file: string): Record<string, unknown> =>
    readJsonObject(join(path, file), 'give an earlier checkpoint');
  const state = stateFromJson(
    read('trainer_state.json'),
    existsSync(join(path, 'lathe_state.json')) ? read('lathe_state.json') : {},
  );
  return {
    path,
    state,
    args: existsSync(join(path, 'training_args.json')) ? read('training_args.json') : {},
    async restore(session, slots) {
      const { tensors } = await openSafetensors(join(path, 'optimizer.safetensors'));
      for (const slot of slots) {
        const source = tensors.get(slot.name);
        if (!source || source.shape.join() !== slot.shape.join() || source.dtype !== NAMES[slot.dtype]) {
          throw new LatheError(
            'ERR_CHECKPOINT',
            `the checkpoint ${source ? 'holds another shape or type' : 'lacks a tensor'} for '${slot.name}'`,
            {
              at: path,
              remedy: 'resume with the model, adapter and optimizer settings that the checkpoint was made with',
            },
          );
        }
      }
      for (const slot of slots) await session.writeState(slot.name, await readTensorBytes(tensors.get(slot.name)!));
    },
  };
}

/** Deletes the oldest checkpoints beyond `limit`, those of earlier runs first, never `keep`. */
export function rotateCheckpoints(outputDir: string, limit: number | null, keep: string | null): void {
  if (limit === null || limit <= 0) return;
  const all = everyCheckpoint(outputDir);
  const kept = new Set([all[0]?.path, keep].filter((path) => path != null).map((path) => resolve(path)));
  const removable = all.filter((c) => !kept.has(resolve(c.path))).reverse();
  let excess = all.length - limit;
  for (const c of removable) {
    if (excess-- <= 0) return;
    rmSync(c.path, { recursive: true, force: true });
  }
}

/** Deletes every checkpoint but one. */
export function keepOnly(outputDir: string, path: string): void {
  for (const c of everyCheckpoint(outputDir))
    if (resolve(c.path) !== resolve(path)) rmSync(c.path, { recursive: true, force: true });
}
