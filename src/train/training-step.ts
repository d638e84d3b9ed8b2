/**
 * One optimizer step: its micro-batches, then the update, on all ranks together.
 *
 * Invariant: the loss is the sum over the labels of the whole step, of all ranks, divided by their number; how the step is split
 * changes nothing.
 */
import type { StepBatches, StepSource } from '../data/step-source';
import { recordStep } from './bookkeeping';
import { addMetrics } from './evaluation';
import type { HookName, TrainEvent } from './events';
import { finiteSums, requireFiniteNorm } from './finite';
import type { Ranks } from './ranks';
import type { BatchSums, StepRunner } from './runner';
import type { TrainerState } from './state';

export interface StepContext {
  readonly runner: StepRunner;
  /** Counts the step when it is done. */
  readonly state: TrainerState;
  readonly ranks: Ranks;
  readonly outputDir: string;
  /** Null where the data does not say. */
  readonly stepsPerEpoch: StepSource['stepsPerEpoch'];
  /** Whether this rank was told to stop. */
  readonly isAborted: () => boolean;
  readonly hook: (name: HookName) => Promise<void>;
}

/** What the event of a step says, and whether any rank was told to stop. */
export interface StepDone extends Omit<Extract<TrainEvent, { type: 'step' }>, 'type' | 'peakBytes'> {
  readonly stopAgreed: boolean;
}

/** @throws LatheError ERR_NONFINITE naming step, rows and node */
export async function trainStep(batches: StepBatches, learningRate: number, c: StepContext): Promise<StepDone> {
  const { runner, state, ranks, outputDir } = c;
  const number = state.globalStep + 1;
  await c.hook('onStepBegin');
  const begun = performance.now();
  const cpu = process.cpuUsage();
  let lossSum = 0;
  let tokens = 0;
  let flops = 0;
  const metrics: Record<string, number> = {};
  for (const [i, batch] of batches.microBatches.entries()) {
    const sums = await micro(batches, i, number, c);
    lossSum += sums.lossSum;
    tokens += batch.numTokens;
    addMetrics(metrics, sums);
    flops += runner.microFlops(batch);
    if (i < batches.microBatches.length - 1) await c.hook('onSubstepEnd');
  }
  await c.hook('onPreOptimizerStep');
  const { gradNorm } = await runner.update(learningRate, number);
  requireFiniteNorm(gradNorm, number, batches.microBatches, outputDir);
  await c.hook('onOptimizerStep');
  const names = runner.metricNames();
  const own = [lossSum, tokens, flops, Number(c.isAborted()), ...names.map((name) => metrics[name] ?? 0)];
  const total = await ranks.sums(own);
  [lossSum, tokens, flops] = total;
  const loss = lossSum / batches.numLabels;
  const metricSums = Object.fromEntries(names.map((name, i) => [name, total[4 + i]]));
  recordStep(state, batches, { loss, tokens, flops, metricSums }, c.stepsPerEpoch);
  const stepMs = performance.now() - begun;
  const used = process.cpuUsage(cpu);
  return {
    step: number,
    epoch: state.epoch,
    loss,
    gradNorm,
    learningRate,
    numTokens: state.numTokens,
    tokensPerSecond: (1000 * tokens) / stepMs,
    stepMs,
    cpuPerWall: (used.user + used.system) / 1000 / stepMs,
    stopAgreed: total[3] > 0,
  };
}

function micro(
  batches: StepBatches,
  index: number,
  step: number,
  { runner, outputDir }: StepContext,
): Promise<BatchSums> {
  const batch = batches.microBatches[index];
  const what = `the loss is not finite at step ${step}, micro-batch ${index + 1} of ${batches.microBatches.length}`;
  return finiteSums(what, batch, outputDir, (check) => runner.micro(batch, batches.numLabels, step, index, check));
}
