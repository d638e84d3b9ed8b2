/**
 * Numbers that are not finite: what a step or an evaluation does when it meets one. The batch runs again with every value checked,
 * so that the error names the first bad node, the rows of the batch, and what was saved before.
 */
import { hasCode, LatheError } from '../errors';
import type { Batch } from '../data/types';
import { listCheckpoints } from './checkpoint';
import type { BatchSums } from './runner';

/** Sums of a batch. @throws LatheError ERR_NONFINITE saying `what`, the node and the rows */
export async function finiteSums(what: string, batch: Batch, outputDir: string, run: (checkFinite: boolean) => Promise<BatchSums>): Promise<BatchSums> {
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

function keptCheckpoint(outputDir: string): string {
  const last = listCheckpoints(outputDir)[0];
  return last ? `nothing was saved since ${last.path}, which is intact` : 'no checkpoint had been written yet';
}

function formatRows(rows: readonly number[]): string {
  const shown = rows.slice(0, 8).join(', ');
  return `row${rows.length > 1 ? 's' : ''} ${shown}${rows.length > 8 ? ` and ${rows.length - 8} more` : ''}`;
}
