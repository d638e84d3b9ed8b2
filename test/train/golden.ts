/** Reads what scripts/golden/sft_losses.py dumped and runs the same recipe here. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { CheckpointPolicy } from '../../src/autodiff/checkpoint';
import { deviceSpec } from '../../src/compile/devices';
import { collate } from '../../src/data/collate';
import type { Batch, TokenizedExample } from '../../src/data/types';
import { openCheckpoint } from '../../src/io/checkpoint-files';
import { createSchedule } from '../../src/optim/schedules';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { fromSafetensors } from '../../src/pretrained/weights';
import { StepRunner, type RunnerOptions } from '../../src/train/runner';
import type { Loss } from '../../src/train/losses/loss';
import { sftLoss } from '../../src/train/losses/sft';

export const GOLDEN = join(__dirname, '..', 'golden');

export interface SftRun {
  losses: number[];
  grad_norms: number[];
}

export const sftGolden = JSON.parse(readFileSync(join(GOLDEN, 'sft/losses.json'), 'utf8')) as {
  runs: Record<string, SftRun>;
};

export function goldenExamples(): TokenizedExample[] {
  const { rows } = JSON.parse(readFileSync(join(GOLDEN, 'sft/data.json'), 'utf8')) as {
    rows: { input_ids: number[]; labels: number[] }[];
  };
  return rows.map((r, row) => ({ inputIds: Int32Array.from(r.input_ids), labels: Int32Array.from(r.labels), row }));
}

export const ALL_LINEAR = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

/** llama-tiny/tied with the adapter the golden run started from. */
export async function goldenModel(
  dtype: 'f32' | 'bf16',
  threads = 2,
  dropout = 0,
  device = 'cpu',
  base = 'llama-tiny/tied',
): Promise<PreTrainedModel> {
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, base), { dtype, threads, device });
  model.addAdapter(new LoraConfig({ r: 4, loraAlpha: 8, loraDropout: dropout, targetModules: ALL_LINEAR }));
  const tensors = await openCheckpoint(join(GOLDEN, 'sft/initial'), { stem: 'adapter_model' });
  model.setAdapterSources(new Map([...tensors].map(([name, t]) => [name, fromSafetensors(t)])), 'sft/initial');
  return model;
}

export interface RecipeOptions {
  steps?: number;
  batch?: number;
  accumulation?: number;
  checkpoint?: CheckpointPolicy;
  threads?: number;
  /** Default cpu. */
  device?: string;
  /** Default: the sft loss. */
  loss?: Loss;
  optimizer?: Partial<RunnerOptions['optimizer']>;
}

const MAX_TOKENS = 128;

export function recipeRunner(model: PreTrainedModel, o: RecipeOptions = {}): StepRunner {
  return new StepRunner(model, {
    loss: o.loss ?? sftLoss,
    optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1, ...o.optimizer },
    weightDecayOf: () => 0.01,
    trainShapes: [{ tokens: MAX_TOKENS, documents: 8 }],
    evalShapes: [{ tokens: MAX_TOKENS, documents: 8 }],
    gradientAccumulationSteps: o.accumulation ?? 2,
    checkpoint: o.checkpoint ?? 'none',
    device: deviceSpec(o.device ?? 'cpu', o.threads ?? 2),
    seed: 42,
  });
}

/** The micro-batches of step s: rows 4s .. 4s+3. */
export function stepBatches(
  examples: readonly TokenizedExample[],
  step: number,
  batch: number,
  accumulation: number,
): Batch[] {
  return Array.from({ length: accumulation }, (_, m) => {
    const rows = Array.from(
      { length: batch },
      (_, i) => examples[(step * batch * accumulation + m * batch + i) % examples.length],
    );
    return collate(rows, { tokens: MAX_TOKENS, documents: 8 });
  });
}

/** Runs the recipe from the start; returns what the golden file lists. */
export async function runRecipe(runner: StepRunner, o: RecipeOptions = {}): Promise<SftRun> {
  const { steps = 20, batch = 2, accumulation = 2 } = o;
  await runner.start();
  const schedule = createSchedule({ name: 'linear', learningRate: 1e-2, warmupSteps: 2, totalSteps: 20 });
  const examples = goldenExamples();
  const run: SftRun = { losses: [], grad_norms: [] };
  for (let step = 0; step < steps; step++) {
    const batches = stepBatches(examples, step, batch, accumulation);
    const labels = batches.reduce((n, b) => n + b.numLabels, 0);
    let loss = 0;
    for (const [i, b] of batches.entries()) loss += (await runner.micro(b, labels, step + 1, i)).lossSum;
    run.losses.push(loss / labels);
    run.grad_norms.push((await runner.update(schedule(step), step + 1)).gradNorm);
  }
  return run;
}
