/**
 * Tokens per second of training steps on a device, random weights and tokens: `node bench-train.js cuda > training-speed.json`.
 * Llama-3-8B QLoRA (NF4, r 16 on seven modules, 8-bit AdamW) at 2 x 2048 with and without recomputation, GPT-2 124M pretraining.
 * MFU counts the FLOPs of the model without recomputation against the peak given as the second argument, in TFLOP/s.
 */
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

interface Work {
  name: string;
  config: RawConfig;
  qlora: boolean;
  checkpoint: CheckpointPolicy;
  batch: number;
  length: number;
}

const GPT2: RawConfig = {
  architectures: ['GPT2LMHeadModel'], model_type: 'gpt2', vocab_size: 50257, n_positions: 1024, n_embd: 768, n_layer: 12, n_head: 12,
  activation_function: 'gelu_new', layer_norm_epsilon: 1e-5, attn_pdrop: 0, embd_pdrop: 0, resid_pdrop: 0,
};
const LLAMA = knownConfig('meta-llama/Meta-Llama-3-8B')!;
const TINY: RawConfig = { ...LLAMA, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 256 };

const WORK: readonly Work[] = [
  { name: 'llama-3-8b qlora, nothing recomputed', config: LLAMA, qlora: true, checkpoint: 'none', batch: 2, length: 2048 },
  { name: 'llama-3-8b qlora, smart recomputation', config: LLAMA, qlora: true, checkpoint: 'smart', batch: 2, length: 2048 },
  { name: 'llama-3-8b qlora, blocks recomputed', config: LLAMA, qlora: true, checkpoint: 'block', batch: 2, length: 2048 },
  { name: 'gpt-2 124m pretraining', config: GPT2, qlora: false, checkpoint: 'none', batch: 16, length: 1024 },
  // Shows that this script runs; its number means nothing.
  { name: 'tiny', config: TINY, qlora: true, checkpoint: 'none', batch: 2, length: 32 },
];

function batchOf(w: Work, vocabulary: number): Batch {
  const tokens = w.batch * w.length;
  let state = 1;
  const inputIds = Int32Array.from({ length: tokens }, () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % vocabulary);
  return {
    tokens, inputIds, positionIds: Int32Array.from({ length: tokens }, (_, i) => i % w.length),
    labels: Int32Array.from(inputIds, (_, i) => ((i + 1) % w.length === 0 ? -100 : inputIds[i + 1])),
    cuSeqlens: Int32Array.from({ length: w.batch + 1 }, (_, d) => d * w.length), numTokens: tokens, numLabels: tokens - w.batch,
    rows: Array.from({ length: w.batch }, (_, d) => d),
  };
}

async function measure(device: string, peak: number, w: Work): Promise<object> {
  const bf16Weights = { dtype: 'bf16' as const, weightDtype: w.qlora ? undefined : ('f32' as const) };
  const quantizationConfig = w.qlora ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true }) : undefined;
  const model = AutoModelForCausalLM.fromConfig(w.config, { ...bf16Weights, quantizationConfig, device, threads: 1, seed: 1 });
  if (w.qlora) model.addAdapter(new LoraConfig({ r: 16, loraAlpha: 16, targetModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'] }));
  else model.trainAll();
  const spec = deviceSpec(device, 1);
  const runner = new StepRunner(model, {
    loss: sftLoss, optimizer: { kind: w.qlora ? 'adamw_8bit' : 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1 }, weightDecayOf: () => 0.01,
    trainShapes: [{ tokens: w.batch * w.length, documents: w.batch }], evalShapes: [], checkpoint: w.checkpoint, device: spec, seed: 1,
  });
  const planned = memoryPlan(runner.allSlots(), runner.programs(), spec).peakBytes;
  const session = await runner.start();
  const batch = batchOf(w, model.vocabSize);
  let step = 0;
  const once = async (): Promise<number> => {
    step++;
    const { lossSum } = await runner.micro(batch, batch.numLabels, step, 0);
    await runner.update(1e-4, step);
    return lossSum / batch.numLabels;
  };
  for (let i = 0; i < 3; i++) await once();
  const times: number[] = [];
  let loss = 0;
  for (let i = 0; i < 10; i++) {
    const begun = performance.now();
    loss = await once();
    times.push((performance.now() - begun) / 1e3);
  }
  times.sort((a, b) => a - b);
  const seconds = times[5];
  const stats = session.stats();
  const flops = runner.microFlops(batch);
  await model.close();
  return {
    name: w.name, tokensPerSecond: batch.tokens / seconds, secondsPerStep: seconds, loss, teraflops: flops / seconds / 1e12,
    shareOfPeak: peak ? flops / seconds / 1e12 / peak : null, plannedBytes: planned, heldBytes: stats.stateBytes + stats.arenaBytes + stats.scratchBytes,
  };
}

async function main(): Promise<void> {
  const device = process.argv[2] ?? 'cuda';
  const rows: object[] = [];
  for (const w of WORK) {
    if (process.argv[4] ? !w.name.includes(process.argv[4]) : w.name === 'tiny') continue;
    rows.push(await measure(device, Number(process.argv[3] ?? 0), w).catch((error: unknown) => {
      process.exitCode = 1;
      return { name: w.name, failed: String(error) };
    }));
  }
  process.stdout.write(`${JSON.stringify(rows, null, 1)}\n`);
}

void main();
