/**
 * Parameters of the base that an adapter trains in full (modules_to_save, biases): fp32 slots beside bf16 weights, and
 * their gradients against torch's (scripts/golden/llama_tiny.py). A fresh adapter has B = 0, so the gradients are the
 * plain model's.
 */
import { join } from 'node:path';
import { deviceSpec } from '../../../src/compile/devices';
import { collate } from '../../../src/data/collate';
import type { Batch } from '../../../src/data/types';
import { readTensorFloats } from '../../../src/io/float-codec';
import { openSafetensors } from '../../../src/io/safetensors';
import { LoraConfig, type LoraOptions } from '../../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import type { PreTrainedModel } from '../../../src/pretrained/model';
import { getPeftModel } from '../../../src/pretrained/peft-model';
import { BitsAndBytesConfig } from '../../../src/quantization/bitsandbytes';
import { sftLoss } from '../../../src/train/losses/sft';
import { StepRunner } from '../../../src/train/runner';
import { gradientsOf } from '../../models/gradients';
import { GOLDEN, readJson, type Rows } from '../../models/logits';

const folder = (name: string) => join(GOLDEN, 'llama-tiny', name);

async function gradients(model: PreTrainedModel, name: string): Promise<Map<string, Float32Array>> {
  const rows = readJson<Rows>(folder(name), 'inputs.json');
  const examples = rows.input_ids.map((ids, row) => ({
    inputIds: Int32Array.from(ids),
    labels: Int32Array.from(rows.labels[row]),
    row,
  }));
  const batch: Batch = collate(examples, { tokens: 32, documents: 2 });
  const runner = new StepRunner(model, {
    loss: sftLoss,
    optimizer: { kind: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, maxGradNorm: 1 },
    weightDecayOf: () => 0,
    trainShapes: [{ tokens: 32, documents: 2 }],
    evalShapes: [],
    checkpoint: 'none',
    device: deviceSpec('cpu', 2),
    seed: 1,
  });
  const session = await runner.start();
  await runner.micro(batch, readJson<{ tokens: number }>(folder(name), 'golden.json').tokens, 1, 0);
  const found = new Map<string, Float32Array>();
  for (const p of runner.parameters)
    found.set(p.slot.name, new Float32Array((await session.readState(p.gradient.name)).slice().buffer));
  return found;
}

function cosine(a: Float32Array, b: Float32Array): number {
  const dot = (x: Float32Array, y: Float32Array): number => x.reduce((s, v, i) => s + v * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

async function peftModel(name: string, dtype: 'f32' | 'bf16', lora: LoraOptions): Promise<PreTrainedModel> {
  return getPeftModel(
    await AutoModelForCausalLM.fromPretrained(folder(name), { dtype }),
    new LoraConfig({ targetModules: ['q_proj', 'down_proj'], ...lora }),
  );
}

test.each([
  ['f32', 0.99999],
  ['bf16', 0.99],
] as const)('a tied embedding and all norms on a %s base', async (dtype, least) => {
  const model = await peftModel('tied', dtype, { modulesToSave: ['embed_tokens', 'norm'], ensureWeightTying: true });
  const saved = model.trainableParameters().filter((p) => !p.name.includes('lora_'));
  expect(saved.map((p) => p.name).sort()).toEqual(
    [
      'model.embed_tokens.weight',
      'model.norm.weight',
      ...[0, 1].flatMap((i) => [
        `model.layers.${i}.input_layernorm.weight`,
        `model.layers.${i}.post_attention_layernorm.weight`,
      ]),
    ].sort(),
  );
  expect(saved.every((p) => p.slot().dtype === 'f32')).toBe(true);
  expect(model.parameters().get('model.layers.0.mlp.up_proj.weight')!.dtype).toBe(dtype);
  const found = await gradients(model, 'tied');
  const { tensors } = await openSafetensors(join(folder('tied'), 'grads.safetensors'));
  for (const p of saved) {
    const golden = await readTensorFloats(tensors.get(p.name)!);
    expect([p.name, cosine(found.get(p.name)!, golden) > least]).toEqual([p.name, true]);
  }
  await model.close();
});

test('copies of a tied embedding share its gradient between them', async () => {
  const model = await peftModel('tied', 'f32', { modulesToSave: ['embed_tokens', 'lm_head'] });
  const found = await gradients(model, 'tied');
  const golden = await readTensorFloats(
    (await openSafetensors(join(folder('tied'), 'grads.safetensors'))).tensors.get('model.embed_tokens.weight')!,
  );
  const [embedding, head] = [found.get('model.embed_tokens.weight')!, found.get('lm_head.weight')!];
  expect(
    cosine(
      embedding.map((v, i) => v + head[i]),
      golden,
    ),
  ).toBeGreaterThan(0.99999);
  expect(cosine(embedding, golden)).toBeLessThan(0.999);
  await model.close();
});

test('all biases of a bf16 base, in fp32, next to their f32 values', async () => {
  const [half, full] = [
    await peftModel('biased', 'bf16', { bias: 'all' }),
    await peftModel('biased', 'f32', { bias: 'all' }),
  ];
  const biases = half.trainableParameters().filter((p) => p.name.endsWith('.bias'));
  expect(biases).toHaveLength(14);
  expect(biases.every((p) => p.slot().dtype === 'f32')).toBe(true);
  const [a, b] = [await gradients(half, 'biased'), await gradients(full, 'biased')];
  for (const p of biases) {
    expect([p.name, cosine(a.get(p.name)!, b.get(p.name)!) > 0.99]).toEqual([p.name, true]);
  }
  await half.close();
  await full.close();
});

test("all biases of GPT-2 in bf16, beside norm weights that are not trained: the gradients are torch's", async () => {
  const gpt2 = join(GOLDEN, 'gpt2-tiny');
  const model = getPeftModel(
    await AutoModelForCausalLM.fromPretrained(gpt2, { dtype: 'bf16' }),
    new LoraConfig({ targetModules: ['c_attn'], bias: 'all' }),
  );
  const { gradients: found } = await gradientsOf(model, readJson<Rows>(gpt2, 'inputs.json'));
  const { tensors } = await openSafetensors(join(gpt2, 'grads.safetensors'));
  const norms = [...found.keys()].filter((name) => /ln_\w+\.bias$/.test(name));
  expect(norms.length).toBeGreaterThan(2);
  for (const name of norms)
    expect([name, cosine(found.get(name)!, await readTensorFloats(tensors.get(name)!)) > 0.99]).toEqual([name, true]);
  await model.close();
});

test('a 4-bit weight cannot be trained in full', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(folder('tied'), {
    dtype: 'bf16',
    quantizationConfig: new BitsAndBytesConfig({ loadIn4bit: true }),
  });
  expect(() => model.addAdapter(new LoraConfig({ targetModules: ['q_proj'], modulesToSave: ['norm', 'mlp'] }))).toThrow(
    "'model.layers.0.mlp.gate_proj.weight' is held in 4 bits",
  );
  // The refused adapter left nothing behind.
  expect([...model.parameters().values()].some((p) => p.dtype === 'f32' || p.role === 'adapter')).toBe(false);
  expect(model.addAdapter(new LoraConfig({ targetModules: ['q_proj'] })).pairs.size).toBe(2);
  const whole = await AutoModelForCausalLM.fromPretrained(folder('tied'), {
    dtype: 'bf16',
    quantizationConfig: new BitsAndBytesConfig({ loadIn4bit: true }),
  });
  expect(() => whole.trainAll()).toThrow('a 4-bit model cannot be trained in full');
});
