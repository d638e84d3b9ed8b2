/**
 * One pass over an evaluation set: mean loss per judged label, perplexity (the exp of the mean negative log-likelihood, which
 * most losses are; Infinity where that overflows, as PyTorch gives it), and the loss's own metrics.
 */
import type { Loader } from '../data/loader';
import type { Batch } from '../data/types';
import type { Ranks } from './ranks';
import type { BatchSums } from './runner';
import type { LogEntry } from './state';

/** Metrics by transformers' names, over all ranks. Loss in nats per label, runtime in seconds. `names`: the loss's own metrics. */
export async function evaluateLoader(
  loader: Loader,
  run: (batch: Batch) => Promise<BatchSums>,
  ranks: Ranks,
  names: readonly string[],
): Promise<LogEntry> {
  const begun = performance.now();
  const metricSums: Record<string, number> = {};
  let lossSum = 0;
  let labels = 0;
  let samples = 0;
  for (let i = 0; i < loader.stepsPerEpoch; i++) {
    const step = loader.step(0, i);
    for (const batch of step.microBatches) {
      const result = await run(batch);
      lossSum += result.lossSum;
      addMetrics(metricSums, result);
      samples += batch.rows.length;
    }
    labels += step.numLabels;
  }
  // The loader gives each rank its part of the batches, and all of them the labels of all.
  const total = await ranks.sums([lossSum, samples, ...names.map((name) => metricSums[name] ?? 0)]);
  [lossSum, samples] = total;
  names.forEach((name, i) => (metricSums[name] = total[2 + i]));
  const seconds = (performance.now() - begun) / 1000;
  const loss = lossSum / labels;
  const metrics: LogEntry = { eval_loss: loss, eval_perplexity: Math.exp((metricSums.nll ?? lossSum) / labels) };
  for (const [name, sum] of Object.entries(metricSums)) metrics[`eval_${name}`] = sum / labels;
  metrics.eval_runtime = seconds;
  metrics.eval_samples_per_second = samples / seconds;
  metrics.eval_steps_per_second = loader.stepsPerEpoch / seconds;
  return metrics;
}

/** Adds a batch's metric sums into `into`. */
export function addMetrics(into: Record<string, number>, sums: BatchSums): void {
  for (const [name, value] of Object.entries(sums.metricSums)) into[name] = (into[name] ?? 0) + value;
}
