/**
 * The programs of a training run: `micro` writes the gradients of a step's first micro-batch into gradient
 * state, `micro, adding` adds those of a later one, `apply` clips and steps the optimizer, `eval` measures. Learning rate,
 * step and loss scale are inputs, so nothing is compiled again as training goes on; shapes come from a small set of buckets.
 *
 * Invariant: a step begins by writing every gradient, so nothing depends on what the slots held before it.
 */
import { gradients } from '../autodiff/grad';
import { compile } from '../compile/compile';
import type { Program } from '../compile/program';
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import type { DeviceSpec } from '../graph/device';
import { inPhase, input, output, readState, trace, updateState, type Graph } from '../graph/trace';
import type { CausalLm } from '../models/causal-lm';
import { add, clipCoefficient, fill, scaleBy } from '../ops/elementwise';
import { allReduce, broadcast } from '../ops/collective';
import { globalNorm } from '../ops/reduce';
import { traceOptimizerStep, type OptimizedParameter, type OptimizerKind } from '../optim/optimizer';
import type { BatchTensors, Loss } from './losses/loss';

/** Flat shape of a micro-batch: what a program is compiled for. */
export interface BatchShape {
  /** T. */
  readonly tokens: number;
  /** S, capacity of cu_seqlens. */
  readonly documents: number;
}

export interface OptimizerSettings {
  readonly kind: OptimizerKind;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** 0 = no clipping. */
  readonly maxGradNorm: number;
}

function batchInputs(shape: BatchShape, training: boolean): BatchTensors {
  const { tokens, documents } = shape;
  return {
    inputIds: input('input_ids', [tokens], 'i32'),
    positionIds: input('position_ids', [tokens], 'i32'),
    labels: input('labels', [tokens], 'i32'),
    cuSeqlens: input('cu_seqlens', [documents + 1], 'i32'),
    rng: training ? input('rng', [4], 'i32') : null,
  };
}

/**
 * Forward and backward of one micro-batch. `accumulate`: its gradients are added to what the slots hold; otherwise they
 * are written over it, and the old values are not read. Outputs the loss sum and metric sums.
 */
export function microGraph(
  model: CausalLm,
  loss: Loss,
  parameters: readonly OptimizedParameter[],
  shape: BatchShape,
  accumulate: boolean,
): Graph {
  return trace(accumulate ? 'micro, adding' : 'micro', () => {
    const { lossSum, metricSums } = loss(model, batchInputs(shape, true));
    const scaled = scaleBy(lossSum, input('loss_scale', [1], 'f32'));
    const grads = gradients(
      scaled,
      parameters.map((p) => readState(p.slot)),
    );
    inPhase('update', () =>
      parameters.forEach((p, i) =>
        updateState(p.gradient, accumulate ? add(grads[i], readState(p.gradient)) : grads[i]),
      ),
    );
    output('loss_sum', lossSum);
    for (const [name, value] of Object.entries(metricSums)) output(name, value);
  });
}

/** `microGraph` as a program for a device. */
export function microProgram(
  model: CausalLm,
  loss: Loss,
  parameters: readonly OptimizedParameter[],
  shape: BatchShape,
  accumulate: boolean,
  device: DeviceSpec,
  policy: CheckpointPolicy,
): Program {
  return compile(microGraph(model, loss, parameters, shape, accumulate), { device, checkpoint: policy });
}

/** Zeros for every gradient: what a rank without a micro-batch brings to a step. */
export function clearGraph(parameters: readonly OptimizedParameter[]): Graph {
  return trace('clear', () =>
    inPhase('update', () => parameters.forEach((p) => updateState(p.gradient, fill(p.gradient, 0)))),
  );
}

/**
 * Clips by global norm and steps the optimizer; the gradients stay as they are. Outputs grad_norm before clipping.
 * `stepped`: the parameters whose optimizer state this rank keeps; the norm is that of all.
 */
export function applyGraph(
  parameters: readonly OptimizedParameter[],
  settings: OptimizerSettings,
  stepped = parameters,
): Graph {
  return trace('apply', () =>
    inPhase('update', () => {
      const norm = globalNorm(parameters.map((p) => readState(p.gradient)));
      const inputs = {
        lr: input('lr', [1], 'f32'),
        step: input('step', [1], 'i32'),
        gradScale: clipCoefficient(norm, settings.maxGradNorm),
      };
      traceOptimizerStep(settings.kind, stepped, inputs, settings);
      output('grad_norm', norm);
    }),
  );
}

/** `applyGraph` as a program for a device. */
export function applyProgram(
  parameters: readonly OptimizedParameter[],
  settings: OptimizerSettings,
  device: DeviceSpec,
  stepped = parameters,
): Program {
  return compile(applyGraph(parameters, settings, stepped), { device });
}

/** Sums every gradient over the ranks, in place. */
export function reduceGraph(parameters: readonly OptimizedParameter[], world: number): Graph {
  return trace('reduce', () =>
    inPhase('update', () => {
      const sums = allReduce(
        parameters.map((p) => readState(p.gradient)),
        world,
      );
      parameters.forEach((p, i) => updateState(p.gradient, sums[i]));
    }),
  );
}

/** Gives every rank the parameters that their owners have stepped, in place. `owners`: a rank per parameter. */
export function shareGraph(parameters: readonly OptimizedParameter[], owners: readonly number[], world: number): Graph {
  return trace('share', () =>
    inPhase('update', () => {
      const shared = broadcast(
        parameters.map((p) => readState(p.slot)),
        owners,
        world,
      );
      parameters.forEach((p, i) => updateState(p.slot, shared[i]));
    }),
  );
}

/** Loss and metric sums of a batch, without gradients. */
export function evalProgram(model: CausalLm, loss: Loss, shape: BatchShape, device: DeviceSpec): Program {
  const graph = trace('eval', () => {
    const { lossSum, metricSums } = loss(model, batchInputs(shape, false));
    output('loss_sum', lossSum);
    for (const [name, value] of Object.entries(metricSums)) output(name, value);
  });
  return compile(graph, { device });
}
