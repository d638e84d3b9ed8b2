/**
 * The plan of a configuration without reading weights: description, adapter, optimizer and batch shapes are enough.
 * What `lathe plan` prints; remedies are found by planning again.
 */
import { existsSync, statSync } from 'node:fs';
import { LatheError } from '../errors';
import type { CheckpointPolicy } from '../autodiff/checkpoint';
import { deviceSpec } from '../compile/devices';
import { speedFloors, type SpeedFloors } from '../compile/floors';
import { memoryPlan, type MemoryPlan, type Remedy } from '../compile/plan';
import type { DeviceSpec } from '../graph/device';
import { mapGgufModel } from '../io/gguf/llama';
import { openGguf } from '../io/gguf/reader';
import { fetchModelConfig } from '../io/hub';
import type { RawConfig } from '../models/config-reader';
import { KNOWN_MODELS, knownConfig } from '../models/known-configs';
import { AutoModelForCausalLM } from '../pretrained/auto';
import { readModelConfig } from '../pretrained/open';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { optimizerKind, type ResolvedConfig } from './arguments';
import { lossOf } from './losses';
import type { BatchShape } from './programs';
import { StepRunner } from './runner';
import { loraConfigOf, modelOptions } from './sft-trainer';
import { gpuBytes, hasWeightDecay } from './training-plan';

export interface RunPlan {
  readonly plan: MemoryPlan;
  readonly policy: CheckpointPolicy;
  /** FLOPs of a training step per token, recomputation included, rows as separate documents. */
  readonly flopsPerToken: number;
  /** What the FLOP floor of the device allows; 0 when its speed is unknown. */
  readonly tokensPerSecondFloor: number;
  /** The same for traffic, and node by node. */
  readonly floors: SpeedFloors;
  readonly remedies: readonly Remedy[];
  /** Flat tokens of the largest micro-batch. */
  readonly tokens: number;
  /** Bytes that the plan may use: memory_limit, else what the device has. */
  readonly limitBytes: number;
}

/** The variables a remedy may change. */
interface Variant {
  policy: CheckpointPolicy;
  batch: number;
  /** Micro-batches per step. */
  accumulation: number;
  length: number;
  loadIn4bit: boolean;
  optim: 'adamw' | 'adamw_8bit';
}

/**
 * Plans `config` on a device by name (`cpu`, `h200`, ...): batches of full rows, the fastest recomputation that fits, and remedies.
 * @throws LatheError ERR_CONFIG (no such model here), ERR_DEVICE, ERR_UNSUPPORTED
 */
export async function planRun(config: ResolvedConfig, deviceName: string): Promise<RunPlan> {
  const device = deviceSpec(deviceName, config.threads ?? undefined);
  const raw = await configOf(config);
  const base: Omit<Variant, 'policy'> = {
    batch: config.perDeviceTrainBatchSize,
    accumulation: config.gradientAccumulationSteps,
    length: config.maxLength ?? 1024,
    loadIn4bit: config.loadIn4bit,
    optim: optimizerKind(config.optim),
  };
  const limit = config.memoryLimit ?? (device.kind === 'cpu' ? device.memoryBytes : gpuBytes(device));
  const order: CheckpointPolicy[] = !config.gradientCheckpointing
    ? ['none']
    : config.planPolicy === 'auto'
      ? ['none', 'light', 'smart', 'block']
      : [config.planPolicy];
  let chosen: Planned | undefined;
  for (const policy of order) {
    chosen = planVariant(config, raw, device, { ...base, policy }, limit);
    if (chosen.plan.fits) break;
  }
  const { plan, policy, floors } = chosen!;
  const remedies = alternatives({ ...base, policy }, config)
    .map(({ change, variant }) => ({
      change,
      peakBytes: planVariant(config, raw, device, variant, limit).plan.peakBytes,
    }))
    .map((r) => ({ ...r, savesBytes: plan.peakBytes - r.peakBytes }))
    .filter((r) => r.savesBytes > 0)
    .sort((a, b) => b.savesBytes - a.savesBytes);
  return {
    plan,
    policy,
    flopsPerToken: floors.flopsPerToken,
    tokensPerSecondFloor: floors.byFlops,
    floors,
    remedies,
    tokens: base.batch * base.length,
    limitBytes: limit,
  };
}

interface Planned {
  plan: MemoryPlan;
  policy: CheckpointPolicy;
  floors: SpeedFloors;
}

function planVariant(config: ResolvedConfig, raw: RawConfig, device: DeviceSpec, v: Variant, limit: number): Planned {
  const { dtype, weightDtype } = modelOptions(config);
  const model = AutoModelForCausalLM.fromConfig(raw, {
    dtype,
    weightDtype,
    quantizationConfig: v.loadIn4bit
      ? new BitsAndBytesConfig({
          loadIn4bit: true,
          bnb4bitQuantType: config.bnb4bitQuantType,
          bnb4bitUseDoubleQuant: config.useBnbNestedQuant,
        })
      : undefined,
  });
  if (config.addedSpecialTokens.length)
    model.resizeTokenEmbeddings(model.vocabSize + config.addedSpecialTokens.length, {
      padToMultipleOf: config.resizeToMultipleOf ?? undefined,
    });
  if (config.usePeft) model.addAdapter(loraConfigOf(config));
  else model.trainAll();
  const shape: BatchShape = { tokens: v.batch * v.length, documents: v.batch };
  const evalShapes =
    config.evalStrategy === 'no'
      ? []
      : [{ tokens: config.perDeviceEvalBatchSize * v.length, documents: config.perDeviceEvalBatchSize }];
  const runner = new StepRunner(model, {
    loss: lossOf(config),
    optimizer: {
      kind: v.optim,
      beta1: config.adamBeta1,
      beta2: config.adamBeta2,
      eps: config.adamEpsilon,
      maxGradNorm: config.maxGradNorm ?? 0,
    },
    weightDecayOf: (p) => (hasWeightDecay(p.name) ? config.weightDecay : 0),
    trainShapes: [shape],
    gradientAccumulationSteps: v.accumulation,
    evalShapes,
    checkpoint: v.policy,
    device,
    seed: config.seed,
  });
  return {
    plan: memoryPlan(runner.allSlots(), runner.programs(), device, limit),
    policy: v.policy,
    floors: speedFloors(runner.microProgram(shape.tokens), device, shape),
  };
}

function alternatives(v: Variant, config: ResolvedConfig): { change: string; variant: Variant }[] {
  const list: { change: string; variant: Variant }[] = [];
  if (v.policy === 'none') {
    list.push({ change: 'gradient_checkpointing: true, plan_policy: light', variant: { ...v, policy: 'light' } });
    list.push({ change: 'gradient_checkpointing: true, plan_policy: smart', variant: { ...v, policy: 'smart' } });
    list.push({ change: 'gradient_checkpointing: true, plan_policy: block', variant: { ...v, policy: 'block' } });
  } else if (v.policy === 'light' || v.policy === 'smart') {
    if (v.policy === 'light') list.push({ change: 'plan_policy: smart', variant: { ...v, policy: 'smart' } });
    list.push({ change: 'plan_policy: block', variant: { ...v, policy: 'block' } });
  }
  if (v.batch > 1) {
    const batch = Math.ceil(v.batch / 2);
    const accumulation = v.accumulation * 2;
    list.push({
      change: `per_device_train_batch_size: ${batch}, gradient_accumulation_steps: ${accumulation}`,
      variant: { ...v, batch, accumulation },
    });
  }
  list.push({ change: `max_length: ${Math.ceil(v.length / 2)}`, variant: { ...v, length: Math.ceil(v.length / 2) } });
  if (!v.loadIn4bit && config.usePeft) list.push({ change: 'load_in_4bit: true', variant: { ...v, loadIn4bit: true } });
  if (v.optim === 'adamw') list.push({ change: 'optim: adamw_8bit', variant: { ...v, optim: 'adamw_8bit' } });
  return list;
}

/** config.json of the configured model: a local folder or GGUF file, or a bundled one by Hub name. */
async function configOf(config: ResolvedConfig): Promise<RawConfig> {
  const name = config.modelNameOrPath ?? '';
  if (name && existsSync(name))
    return statSync(name).isFile() ? (await mapGgufModel(await openGguf(name))).config : readModelConfig(name);
  const known = knownConfig(name);
  if (known) return known;
  // A name of the Hub: its config.json is all that a plan needs.
  if (/^[\w-][\w.-]*\/[\w.-]+$/.test(name)) {
    return fetchModelConfig(name, config.modelRevision ?? 'main').catch((cause: unknown) => {
      throw new LatheError('ERR_CONFIG', (cause as Error).message, {
        remedy: `or plan one of ${KNOWN_MODELS.join(', ')}, whose config is bundled`,
        cause,
      });
    });
  }
  throw new LatheError(
    'ERR_CONFIG',
    `model '${name}' is neither a local folder, nor one whose config is bundled, nor a name of the Hub`,
    { remedy: `give a local folder, organisation/model, or one of ${KNOWN_MODELS.join(', ')}` },
  );
}

/** The plan as JSON for `--json`. */
export function planToJson(p: RunPlan): Record<string, unknown> {
  return {
    device: p.plan.device.name,
    peak_bytes: p.plan.peakBytes,
    fits: p.plan.fits,
    by_class: p.plan.byClass,
    arena_bytes: p.plan.arenaBytes,
    scratch_bytes: p.plan.scratchBytes,
    checkpointing: p.policy,
    tokens_per_micro_batch: p.tokens,
    flops_per_token: p.flopsPerToken,
    tokens_per_second_floor: p.tokensPerSecondFloor,
    bytes_per_token: p.floors.bytesPerToken,
    tokens_per_second_floor_by_bytes: p.floors.byBytes,
    tokens_per_second_floor_by_node: p.floors.byNode,
    live_at_peak: p.plan.liveAtPeak
      .slice(0, 32)
      .map((t) => ({ where: t.where, op: t.op, dtype: t.type.dtype, shape: t.type.shape, bytes: t.bytes })),
    remedies: p.remedies.map((r) => ({ change: r.change, peak_bytes: r.peakBytes, saves_bytes: r.savesBytes })),
  };
}
