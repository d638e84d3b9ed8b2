/** LlamaForCausalLM and PEFT adapters on it against transformers and peft (scripts/golden/llama_tiny.py). */
import { join } from 'node:path';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { PeftModel } from '../../src/pretrained/peft-model';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, type Rows } from './logits';

describe.each(['tied', 'biased', 'llama3'])('llama-tiny/%s', (name) => {
  const dir = join(GOLDEN, 'llama-tiny', name);
  const rows = readJson<Rows>(dir, 'inputs.json');
  const golden = readJson<{ loss: number }>(dir, 'golden.json');

  test('logits and loss in fp32', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    const { logits, loss } = await runRows(model, rows);
    expect(maxDifference(logits, await goldenRows(join(dir, 'golden.safetensors')))).toBeLessThan(1e-4);
    expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
    await model.close();
  });

  test('logits and loss with bf16 weights and activations', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'bf16' });
    const { logits, loss } = await runRows(model, rows);
    const expected = await goldenRows(join(dir, 'golden.safetensors'));
    // Logits are around 4 here; bf16 has 8 bits, over two layers.
    expect(maxDifference(logits, expected)).toBeLessThan(0.3);
    expect(maxDifference(logits, expected)).toBeGreaterThan(1e-3);
    expect(Math.abs(loss - golden.loss)).toBeLessThan(0.03);
    await model.close();
  });

  test('logits and loss with a PEFT adapter', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    await PeftModel.fromPretrained(model, join(dir, 'adapter'));
    const { logits, loss } = await runRows(model, rows);
    expect(maxDifference(logits, await goldenRows(join(dir, 'adapter-golden.safetensors')))).toBeLessThan(1e-4);
    expect(Math.abs(loss - readJson<{ loss: number }>(dir, 'adapter-golden.json').loss)).toBeLessThan(1e-5);
    expect(model.trainableParameters()).toEqual([]);
    await model.close();
  });
});
