/**
 * Counts that depend on how long a run is: how many optimizer steps there are, and what `logging_steps: 0.1` or
 * `warmup_steps: 0.03` mean then. The rules are transformers' (ceil for fractions).
 */

import type { ResolvedConfig } from './resolve';

/** An interval in steps: a value below 1 is that fraction of all steps, rounded up; never less than 1. */
export function stepInterval(setting: number, totalSteps: number): number {
  return Math.max(1, setting < 1 ? Math.ceil(totalSteps * setting) : Math.floor(setting));
}

/** Optimizer steps of the whole run. `microBatchesPerEpoch` is the length of the loader on this rank; the last, short group of an epoch is a step too. */
export function totalSteps(
  config: Pick<ResolvedConfig, 'maxSteps' | 'numTrainEpochs' | 'gradientAccumulationSteps'>,
  microBatchesPerEpoch: number,
): number {
  if (config.maxSteps > 0) return config.maxSteps;
  return Math.ceil(config.numTrainEpochs * stepsPerEpoch(config, microBatchesPerEpoch));
}

export function stepsPerEpoch(
  config: Pick<ResolvedConfig, 'gradientAccumulationSteps'>,
  microBatchesPerEpoch: number,
): number {
  return Math.max(1, Math.ceil(microBatchesPerEpoch / config.gradientAccumulationSteps));
}
