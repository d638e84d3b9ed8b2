/**
 * Tokens per second of training steps on a device, random weights and tokens: `node bench-train.js cuda [--tiny] [--only NAME] > speed.json`.
 * Llama-3-8B QLoRA (NF4, r 16 on seven modules, 8-bit AdamW) at 2 x 2048 with and without recomputation, GPT-2 124M pretraining.
 * FLOPs include what is recomputed. --tiny: the same with two layers, so that this script runs; its numbers mean nothing.
 */
import { shapeConfig } from '../../benchmarks/step/shapes';
import { deviceSpec } from '../../src/compile/devices';
import type { CheckpointPolicy } from '../../src/autodiff/checkpoint';
import { memoryPlan } from '../../src/compile/plan';
import type { Batch } from '../../src/data/types';
import { knownConfig } from '../../src/models/known-configs';
import type { RawConfig } from '../../src/models/config-reader';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import { sftLoss } from '../../src/train/losses/sft';
import { StepRunner } from '../../src/train/runner';
import { TINY_LLAMA } from './tiny';

interface Work {
  name: string;
  config: RawConfig;
  qlora: boolean;
  checkpoint: CheckpointPolicy;
  batch: number;
  length: number;
}

const GPT2: RawConfig = { ...shapeConfig('gpt2-124m') };
const LLAMA: RawConfig = { ...knownConfig('meta-llama/Meta-Llama-3-8B')! };
const tiny = process.argv.includes('--tiny');
if (tiny) {
  Object.assign(LLAMA, TINY_LLAMA);
  Object.assign(GPT2, { vocab_size: 256, n_embd: 64, n_layer: 2, n_head: 4, n_positions: 64 });
}
const [BATCH, LENGTH, GPT2_BATCH, GPT2_LENGTH] = tiny ? [2, 32, 2, 32] : [2, 2048, 16, 1024];

const WORK: readonly Work[] = [
  {
    name: 'llama-3-8b qlora, nothing recomputed',
    config: LLAMA,
    qlora: true,
    checkpoint: 'none',
    batch: BATCH,
    length: LENGTH,
  },
  {
    name: 'llama-3-8b qlora, smart recomputation',
    config: LLAMA,
    qlora: true,
    checkpoint: 'smart',
    batch: BATCH,
    length: LENGTH,
  },
  {
    name: 'llama-3-8b qlora, blocks recomputed',
    config: LLAMA,
    qlora: true,
    checkpoint: 'block',
    batch: BATCH,
    length: LENGTH,
  },
  {
    name: 'gpt-2 124m pretraining',
    config: GPT2,
    qlora: false,
    checkpoint: 'none',
    batch: GPT2_BATCH,
    length: GPT2_LENGTH,
  },
];

function batchOf(w: Work, vocabulary: number): Batch {
  const tokens = w.batch * w.length;
  let state = 1;
  const inputIds = Int32Array.from(
    { length: tokens },
    () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % vocabulary,
  );
  return {
    tokens,
    inputIds,
    positionIds: Int32Array.from({ length: tokens }, (_, i) => i % w.length),
    labels: Int32Array.from(inputIds, (_, i) => ((i + 1) % w.length === 0 ? -100 : inputIds[i + 1])),
    cuSeqlens: Int32Array.from({ length: w.batch + 1 }, (_, d) => d * w.length),
    numTokens: tokens,
    numLabels: tokens - w.batch,
    rows: Array.from({ length: w.batch }, (_, d) => d),
  };
}

async function measure(device: string, w: Work): Promise<object> {
  const bf16Weights = { dtype: 'bf16' as const, weightDtype: w.qlora ? undefined : ('f32' as const) };
  const quantizationConfig = w.qlora
    ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true })
    : undefined;
  const model = AutoModelForCausalLM.fromConfig(w.config, {
    ...bf16Weights,
    quantizationConfig,
    device,
    threads: 1,
    seed: 1,
  });
  if (w.qlora)
    model.addAdapter(
      new LoraConfig({
        r: 16,
        loraAlpha: 16,
        targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
      }),
    );
  else model.trainAll();
  const spec = deviceSpec(device, 1);
  const runner = new StepRunner(model, {
    loss: sftLoss,
    optimizer: { kind: w.qlora ? 'adamw_8bit' : 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1 },
    weightDecayOf: () => 0.01,
    trainShapes: [{ tokens: w.batch * w.length, documents: w.batch }],
    evalShapes: [],
    checkpoint: w.checkpoint,
    device: spec,
    seed: 1,
  });
  const planned = memoryPlan(runner.allSlots(), runner.programs(), spec).peakBytes;
  const begun = performance.now();
  const session = await runner.start();
  const startSeconds = (performance.now() - begun) / 1e3;
  const batch = batchOf(w, model.vocabSize);
  let step = 0;
  const once = async (): Promise<number> => {
    step++;
    const { lossSum } = await runner.micro(batch, batch.numLabels, step, 0);
    await runner.update(1e-4, step);
    return lossSum / batch.numLabels;
  };
  const [warm, runs] = tiny ? [1, 3] : [3, 11];
  for (let i = 0; i < warm; i++) await once();
  const times: number[] = [];
  let loss = 0;
  for (let i = 0; i < runs; i++) {
    const begun = performance.now();
    loss = await once();
    times.push((performance.now() - begun) / 1e3);
  }
  times.sort((a, b) => a - b);
  const seconds = times[(runs - 1) / 2];
  const stats = session.stats();
  const flops = runner.microFlops(batch);
  await model.close();
  return {
    name: w.name,
    tokensPerSecond: batch.tokens / seconds,
    secondsPerStep: seconds,
    loss,
    teraflops: flops / seconds / 1e12,
    startSeconds,
    plannedBytes: planned,
    heldBytes: stats.stateBytes + stats.arenaBytes + stats.scratchBytes,
  };
}

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const only = process.argv.indexOf('--only') + 1;
  const rows: object[] = [];
  for (const w of WORK) {
    if (only && !w.name.includes(process.argv[only])) continue;
    rows.push(
      await measure(device, w).catch((error: unknown) => {
        process.exitCode = 1;
        process.stderr.write(`FAILED ${w.name}: ${String(error)}\n`);
        return { name: w.name, failed: String(error) };
      }),
    );
  }
  process.stdout.write(`${JSON.stringify(rows, null, 1)}\n`);
}

void main();
