/**
 * A training run without data: the same programs, runner and optimizer that `lathe train` uses, on random tokens, all of
 * them trained. One step is one micro-batch and one optimizer step.
 */
import { deviceSpec } from '../../src/compile/devices';
import { memoryPlan, type MemoryPlan } from '../../src/compile/plan';
import type { Batch } from '../../src/data/types';
import { elementCount, type Node } from '../../src/graph/tensor';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import type { Session } from '../../src/runtime/session';
import { sftLoss } from '../../src/train/losses/sft';
import { StepRunner } from '../../src/train/runner';
import { LORA_RANK, SEVEN_MODULES, shapeConfig, type TrainingRun } from './shapes';

/** Names of the runs' random streams are irrelevant; the seed is fixed so that runs repeat. */
const SEED = 42;

export interface TrainingStep {
  readonly model: PreTrainedModel;
  readonly runner: StepRunner;
  readonly session: Session;
  readonly plan: MemoryPlan;
  readonly describeMs: number;
  readonly compileMs: number;
  readonly loadMs: number;
  /** Floating-point operations of one step, recomputation included. */
  readonly flopsPerStep: number;
  /** One step; resolves to its mean loss. */
  step(): Promise<number>;
}

async function describeModel(run: TrainingRun): Promise<PreTrainedModel> {
  const options = {
    dtype: run.base === 'f32' ? ('f32' as const) : ('bf16' as const),
    weightDtype: run.train === 'full' ? ('f32' as const) : undefined,
    quantizationConfig:
      run.base === 'nf4' ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4' }) : undefined,
    threads: run.threads,
    seed: SEED,
  };
  const model = run.weights
    ? await AutoModelForCausalLM.fromPretrained(run.weights, options)
    : AutoModelForCausalLM.fromConfig(shapeConfig(run.shape), options);
  if (run.train === 'full') model.trainAll();
  else model.addAdapter(new LoraConfig({ r: LORA_RANK, loraAlpha: LORA_RANK, targetModules: SEVEN_MODULES }));
  return model;
}

/** Describes, compiles, loads; everything up to the first step. */
export async function prepareTraining(run: TrainingRun): Promise<TrainingStep> {
  const start = performance.now();
  const model = await describeModel(run);
  const device = deviceSpec('cpu', run.threads);
  const described = performance.now();
  const runner = trainingRunner(model, run);
  const plan = memoryPlan(runner.allSlots(), runner.programs(), device);
  const compiled = performance.now();
  const session = await runner.start();
  const loaded = performance.now();
  const batch = randomBatch(run, model.vocabSize);
  let steps = 0;
  return {
    model,
    runner,
    session,
    plan,
    describeMs: described - start,
    compileMs: compiled - described,
    loadMs: loaded - compiled,
    flopsPerStep: runner.programs().reduce((sum, p) => sum + p.flops, 0),
    async step() {
      steps++;
      const { lossSum } = await runner.micro(batch, batch.numLabels, steps, 0);
      await runner.update(1e-4, steps);
      return lossSum / batch.numLabels;
    },
  };
}

/** The programs of a run, compiled. */
export function trainingRunner(model: PreTrainedModel, run: TrainingRun): StepRunner {
  return new StepRunner(model, {
    loss: sftLoss,
    optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1 },
    weightDecayOf: () => 0.01,
    trainShapes: [{ tokens: run.batch * run.length, documents: run.batch }],
    evalShapes: [],
    checkpoint: run.checkpoint,
    device: deviceSpec('cpu', run.threads),
    seed: SEED,
  });
}

/** `batch` documents of `length` random tokens, every next token a label. */
function randomBatch(run: TrainingRun, vocabulary: number): Batch {
  const tokens = run.batch * run.length;
  let state = 1;
  const inputIds = Int32Array.from({ length: tokens }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % vocabulary;
  });
  const labels = Int32Array.from(inputIds, (_, i) => ((i + 1) % run.length === 0 ? -100 : inputIds[i + 1]));
  return {
    tokens,
    inputIds,
    positionIds: Int32Array.from({ length: tokens }, (_, i) => i % run.length),
    labels,
    cuSeqlens: Int32Array.from({ length: run.batch + 1 }, (_, d) => d * run.length),
    numTokens: tokens,
    numLabels: tokens - run.batch,
    rows: Array.from({ length: run.batch }, (_, d) => d),
  };
}

/** Operations of a node in this run: every document of a batch is equally long, as the cost rule takes them. */
export function nodeFlops(node: Node): number {
  return node.op!.cost(
    node.inputs.map((t) => t.type),
    node.attributes,
  ).flops;
}

/** Trainable and all parameters, for the record. */
export function parameterCounts(model: PreTrainedModel): { trainable: number; all: number } {
  const count = (list: Iterable<{ shape: readonly number[] }>): number =>
    [...list].reduce((n, p) => n + elementCount(p.shape), 0);
  return { trainable: count(model.trainableParameters()), all: count(model.parameters().values()) };
}
