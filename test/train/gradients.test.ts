/** Gradients of a whole model against torch: every LoRA gradient, and every parameter of the tied model. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { deviceSpec } from '../../src/compile/devices';
import { collate } from '../../src/data/collate';
import { openCheckpoint } from '../../src/io/checkpoint-files';
import { readTensorFloats } from '../../src/io/float-codec';
import { LoraConfig } from '../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { fromSafetensors } from '../../src/pretrained/weights';
import { sftLoss } from '../../src/train/losses/sft';
import { StepRunner } from '../../src/train/runner';
import { ALL_LINEAR, GOLDEN } from './golden';

interface Golden {
  loss: number;
}

const dirOf = (kind: string): string => join(GOLDEN, 'llama-tiny', kind);

async function gradientsOf(
  model: PreTrainedModel,
  kind: string,
): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const { input_ids, labels } = JSON.parse(readFileSync(join(dirOf(kind), 'inputs.json'), 'utf8')) as {
    input_ids: number[][];
    labels: number[][];
  };
  const examples = input_ids.map((ids, row) => ({
    inputIds: Int32Array.from(ids),
    labels: Int32Array.from(labels[row]),
    row,
  }));
  const batch = collate(examples, { tokens: 64, documents: 4 });
  const runner = new StepRunner(model, {
    loss: sftLoss,
    optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 0 },
    weightDecayOf: () => 0,
    trainShapes: [{ tokens: 64, documents: 4 }],
    evalShapes: [],
    checkpoint: 'none',
    device: deviceSpec('cpu', 2),
    seed: 0,
  });
  const session = await runner.start();
  const { lossSum } = await runner.micro(batch, batch.numLabels, 1, 0);
  const gradients = new Map<string, Float32Array>();
  for (const p of runner.parameters) {
    const bytes = await session.readState(p.gradient.name);
    gradients.set(p.slot.name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  return { loss: lossSum / batch.numLabels, gradients };
}

function cosine(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((x, i) => {
    ab += x * b[i];
    aa += x * x;
    bb += b[i] * b[i];
  });
  return ab / Math.sqrt(aa * bb);
}

async function compare(gradients: Map<string, Float32Array>, file: string): Promise<void> {
  const golden = await openCheckpoint(file);
  expect([...golden.keys()].sort()).toEqual([...gradients.keys()].sort());
  for (const [name, source] of golden) {
    const want = await readTensorFloats(source);
    const got = gradients.get(name)!;
    const scale = Math.max(...want.map(Math.abs));
    expect({ name, cosine: cosine(got, want) > 0.9999 }).toEqual({ name, cosine: true });
    expect({ name, worst: Math.max(...want.map((w, i) => Math.abs(w - got[i]))) / scale < 1e-4 }).toEqual({
      name,
      worst: true,
    });
  }
}

test.each(['tied', 'biased', 'llama3'])('LoRA gradients of llama-tiny/%s', async (kind) => {
  const model = await AutoModelForCausalLM.fromPretrained(dirOf(kind), { dtype: 'f32', threads: 2 });
  model.addAdapter(new LoraConfig({ r: 4, loraAlpha: 8, targetModules: ALL_LINEAR }));
  const tensors = await openCheckpoint(join(dirOf(kind), 'adapter'), { stem: 'adapter_model' });
  model.setAdapterSources(new Map([...tensors].map(([name, t]) => [name, fromSafetensors(t)])), kind);
  try {
    const { loss, gradients } = await gradientsOf(model, kind);
    const golden = JSON.parse(readFileSync(join(dirOf(kind), 'adapter-golden.json'), 'utf8')) as Golden;
    expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
    await compare(gradients, join(dirOf(kind), 'adapter-grads.safetensors'));
  } finally {
    await model.close();
  }
});

test('gradients of every parameter of the tied model', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(dirOf('tied'), { dtype: 'f32', threads: 2 });
  model.trainAll();
  try {
    const { loss, gradients } = await gradientsOf(model, 'tied');
    const golden = JSON.parse(readFileSync(join(dirOf('tied'), 'golden.json'), 'utf8')) as Golden;
    expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
    await compare(gradients, join(dirOf('tied'), 'grads.safetensors'));
  } finally {
    await model.close();
  }
});
