/**
 * Numbers that are not finite: what a step or an evaluation does when it meets one. The batch runs again with every value checked,
 * so that the error names the first bad node, the rows of the batch, and what was saved before. A step that could only give such
 * numbers, because it has nothing to train on, is refused before it runs.
 */
import { hasCode, LatheError } from '../errors';
import type { StepBatches } from '../data/step-source';
import type { Batch } from '../data/types';
import { listCheckpoints } from './checkpoint';
import type { BatchSums } from './runner';

/** Sums of a batch. @throws LatheError ERR_NONFINITE saying `what`, the node and the rows */
export async function finiteSums(
  what: string,
  batch: Batch,
  outputDir: string,
  run: (checkFinite: boolean) => Promise<BatchSums>,
): Promise<BatchSums> {
  let node = '';
  try {
    const sums = await run(false);
    if (Number.isFinite(sums.lossSum)) return sums;
    await run(true);
  } catch (error) {
    if (!hasCode(error, 'ERR_NONFINITE')) throw error;
    node = (error as Error).message;
  }
  throw new LatheError('ERR_NONFINITE', `${what}${node ? `: ${node}` : ''}`, {
    at: `dataset ${formatRows(batch.rows)}`,
    remedy: `${keptCheckpoint(outputDir)}; look at these rows, or lower learning_rate`,
  });
}

/** @throws LatheError ERR_NONFINITE for a norm that is not finite */
export function requireFiniteNorm(gradNorm: number, step: number, batches: readonly Batch[], outputDir: string): void {
  if (Number.isFinite(gradNorm)) return;
  throw new LatheError('ERR_NONFINITE', `the gradient norm is ${gradNorm} at step ${step}, though the loss is finite`, {
    at: `dataset ${formatRows(batches.flatMap((b) => b.rows))}`,
    remedy: `${keptCheckpoint(outputDir)}; lower learning_rate, or set debug: underflow_overflow to name the first value that is not finite`,
  });
}

/** @throws LatheError ERR_DATA for a step whose loss would be nought divided by nought */
export function requireLabels({ microBatches, numLabels }: StepBatches, step: number, ranks: number): void {
  if (microBatches.length === 0 && (ranks === 1 || numLabels === 0)) {
    throw new LatheError('ERR_DATA', `step ${step} has no rows: the training data gave no micro-batch`, {
      remedy: 'check the files, filters and what truncation leaves out',
    });
  }
  if (numLabels > 0) return;
  throw new LatheError('ERR_DATA', `step ${step} has no token to train on: all labels of its rows are masked`, {
    at: `dataset ${formatRows(microBatches.flatMap((b) => b.rows))}`,
    remedy:
      'filter these rows out (lathe data preview shows masks), or raise gradient_accumulation_steps so that others stand beside them',
  });
}

function keptCheckpoint(outputDir: string): string {
  const last = listCheckpoints(outputDir)[0];
  return last ? `nothing was saved since ${last.path}, which is intact` : 'no checkpoint had been written yet';
}

function formatRows(rows: readonly number[]): string {
  const shown = rows.slice(0, 8).join(', ');
  return `row${rows.length > 1 ? 's' : ''} ${shown}${rows.length > 8 ? ` and ${rows.length - 8} more` : ''}`;
}
