/**
 * The plan of a trainer: the device it trains on, and its programs compiled under the fastest recomputation policy that fits the
 * memory limit, before anything is allocated.
 */
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import { defaultThreads, deviceSpec } from '../compile/devices';
import { memoryPlan, type MemoryPlan, type Remedy } from '../compile/plan';
import { LatheError } from '../errors';
import type { DeviceSpec } from '../graph/device';
import type { Parameter } from '../nn/module';
import type { PreTrainedModel } from '../pretrained/model';
import { hasNative, loadNative } from '../runtime/binding';
import { sameDevice } from '../runtime/device';
import { currentWorld } from '../runtime/world';
import { optimizerKind, type ResolvedConfig } from './arguments';
import { StepRunner } from './runner';
import type { TrainerOptions } from './trainer';

export interface TrainerPlan {
  readonly plan: MemoryPlan;
  readonly policy: CheckpointPolicy;
  /** What would lower the peak; empty when the plan fits. */
  readonly remedies: readonly Remedy[];
}

export interface PlannedRun extends TrainerPlan {
  readonly runner: StepRunner;
  readonly limitBytes: number;
}

/**
 * The model is where its session will be; a configuration that names another device contradicts it.
 * @throws LatheError ERR_CONFIG for that; ERR_UNSUPPORTED for several ranks on a GPU
 */
export function trainingDevice(model: PreTrainedModel, args: ResolvedConfig, ranks: number): DeviceSpec {
  if (args.device !== 'auto' && !sameDevice(args.device, model.device)) {
    throw new LatheError('ERR_CONFIG', `device: expected that of the model, ${model.device}, received ${args.device}`, {
      remedy: `open the model with device: '${args.device}', or set device: auto`,
    });
  }
  const device = deviceSpec(model.device, args.threads ?? defaultThreads());
  if (ranks > 1 && device.kind !== 'cpu') {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `${ranks} ranks on ${device.name}: training over processes runs on CPUs only`,
      { remedy: 'set device: cpu, or start one process' },
    );
  }
  return device;
}

/** transformers' rule: no decay on biases and normalisation weights. */
export function hasWeightDecay(name: string): boolean {
  return !/bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm|(^|\.)ln_\w+/i.test(name);
}

/**
 * Bytes the run may use: what is free, and what this process's sessions hold already (weights loaded before the run). Ranks on one
 * machine plan at the same time, so each counts on its part of what is free.
 */
export function memoryLimitBytes(args: ResolvedConfig, device: DeviceSpec, ranksHere = 1): number {
  if (args.memoryLimit !== null) return args.memoryLimit;
  if (device.kind !== 'cpu') return gpuBytes(device);
  const held = hasNative() ? loadNative().memory().usedBytes : 0;
  return Math.min(process.availableMemory() / ranksHere + held, device.memoryBytes / ranksHere);
}

/** What the driver takes for itself while kernels are loaded. */
const DRIVER_BYTES = 256 * 2 ** 20;

/** Bytes that a run may use of a GPU: of one in this machine what is free or held by this process, of a known one what it has. */
export function gpuBytes(device: DeviceSpec): number {
  if (!/^cuda/.test(device.name) || !hasNative()) return device.memoryBytes;
  const name = device.name === 'cuda' ? 'cuda:0' : device.name;
  const gpu = loadNative()
    .devices()
    .find((d) => d.device === name);
  return gpu?.freeBytes === undefined
    ? device.memoryBytes
    : Math.max(0, gpu.freeBytes + (gpu.heldBytes ?? 0) - DRIVER_BYTES);
}

/** Compiles the programs; where no policy fits, the plan of the leanest one, which then does not fit. */
export function planTraining(options: TrainerOptions, device: DeviceSpec): PlannedRun {
  const { args } = options;
  const limitBytes = memoryLimitBytes(args, device, (options.world ?? currentWorld()).localSize);
  let planned: PlannedRun | undefined;
  for (const policy of policiesOf(args)) {
    const runner = makeRunner(options, device, policy);
    const plan = memoryPlan(runner.allSlots(), runner.programs(), device, limitBytes);
    planned = {
      plan,
      policy,
      runner,
      limitBytes,
      remedies: plan.fits ? [] : remediesOf(options, device, plan, limitBytes),
    };
    if (plan.fits) break;
  }
  return planned!;
}

function policiesOf(args: ResolvedConfig): CheckpointPolicy[] {
  if (!args.gradientCheckpointing) return ['none'];
  return args.planPolicy === 'auto' ? ['none', 'light', 'smart', 'block'] : [args.planPolicy];
}

function remediesOf(options: TrainerOptions, device: DeviceSpec, plan: MemoryPlan, limitBytes: number): Remedy[] {
  if (options.args.gradientCheckpointing) return [];
  const runner = makeRunner(options, device, 'block');
  const other = memoryPlan(runner.allSlots(), runner.programs(), device, limitBytes);
  return [
    {
      change: 'gradient_checkpointing: true',
      peakBytes: other.peakBytes,
      savesBytes: plan.peakBytes - other.peakBytes,
    },
  ];
}

function makeRunner(options: TrainerOptions, device: DeviceSpec, checkpoint: CheckpointPolicy): StepRunner {
  const { args } = options;
  return new StepRunner(options.model, {
    loss: options.loss,
    optimizer: {
      kind: optimizerKind(args.optim),
      beta1: args.adamBeta1,
      beta2: args.adamBeta2,
      eps: args.adamEpsilon,
      maxGradNorm: args.maxGradNorm ?? 0,
    },
    weightDecayOf: (p: Parameter) => (hasWeightDecay(p.name) ? args.weightDecay : 0),
    trainShapes: options.trainLoader.shapes,
    gradientAccumulationSteps: options.trainLoader.gradientAccumulationSteps,
    evalShapes: options.evalLoader?.shapes ?? [],
    checkpoint,
    device,
    seed: args.seed,
    checkFinite: args.debug.includes('underflow_overflow'),
    world: options.world ?? currentWorld(),
    shardOptimizer: args.zero === 1,
  });
}
