/** What every group of the peers' run shares: settings, the machine's peak, the Python side, scratch files. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MachinePeak } from '../harness/peak';
import type { Worker } from '../harness/worker';
import type { LlamaPackage, PythonEnvironment } from './environment';

export interface PeersContext {
  readonly python: PythonEnvironment;
  readonly llama: LlamaPackage | null;
  readonly peak: MachinePeak;
  readonly threads: number;
  /** Undisturbed pairs wanted per comparison. */
  readonly rounds: number;
  /** Small shapes and few rounds: shows that everything runs. */
  readonly quick: boolean;
  /** Folder for weights, removed at the end. */
  readonly scratch: string;
}

export function makeScratch(): string {
  return mkdtempSync(join(tmpdir(), 'lathe-peers-'));
}

export function removeScratch(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
}

/** Runs `body` with workers that are closed whatever happens. */
export async function withWorkers<T>(workers: readonly Worker[], body: () => Promise<T>): Promise<T> {
  try {
    // One after another: two programs that start at once disturb each other and the figures of nobody.
    for (const w of workers) await w.ready;
    return await body();
  } finally {
    await Promise.all(workers.map((w) => w.close()));
  }
}
