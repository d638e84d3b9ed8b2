/** Mistral, Qwen2, Qwen3 and Gemma against transformers (scripts/golden/decoder_tiny.py): logits, loss, every gradient, cache. */
import { join } from 'node:path';
import { openCheckpoint } from '../../src/io/checkpoint-files';
import { readTensorFloats } from '../../src/io/float-codec';
import type { RawConfig } from '../../src/models/config-reader';
import { parseGemmaConfig } from '../../src/models/gemma';
import { knownConfig } from '../../src/models/known-configs';
import { parseMistralConfig } from '../../src/models/mistral';
import { parseQwen2Config } from '../../src/models/qwen2';
import { parseQwen3Config } from '../../src/models/qwen3';
import { buildModel } from '../../src/models/registry';
import { generateAll } from '../../src/generation/generate';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { gradientsOf } from './gradients';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from './logits';

const root = temporaryFolder();

describe.each(['mistral', 'qwen2', 'qwen3', 'gemma'])('decoder-tiny/%s', (name) => {
  const dir = join(GOLDEN, 'decoder-tiny', name);
  const rows = readJson<Rows>(dir, 'inputs.json');
  const golden = readJson<{ loss: number }>(dir, 'golden.json');
  const expectedLogits = () => goldenRows(join(dir, 'golden.safetensors'));

  test('logits and loss in fp32, and again after saving', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    const { logits, loss } = await runRows(model, rows);
    expect(maxDifference(logits, await expectedLogits())).toBeLessThan(1e-4);
    expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
    await model.savePretrained(join(root, name));
    await model.close();
    const again = await AutoModelForCausalLM.fromPretrained(join(root, name), { dtype: 'f32' });
    expect((await runRows(again, rows)).logits).toEqual(logits);
    await again.close();
  });

  test('loss and every gradient', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32', threads: 2 });
    model.trainAll();
    try {
      const { loss, gradients } = await gradientsOf(model, rows);
      expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
      const want = await openCheckpoint(dir, { stem: 'grads' });
      expect([...gradients.keys()].sort()).toEqual([...want.keys()].sort());
      for (const [key, source] of want) {
        const expected = await readTensorFloats(source);
        const scale = Math.max(...expected.map(Math.abs));
        const worst = Math.max(...expected.map((w, i) => Math.abs(w - gradients.get(key)![i]))) / scale;
        expect({ key, close: worst < 1e-4 }).toEqual({ key, close: true });
      }
    } finally {
      await model.close();
    }
  });

  test('greedy generation with the cache equals the argmax of whole forward passes', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    const prompt = rows.input_ids[0].slice(0, 9); // longer than the windows
    const [{ tokens }] = await generateAll(model, [prompt], { maxNewTokens: 6, doSample: false, eosTokenId: [] });
    const ids = [...prompt];
    for (let i = 0; i < 6; i++) {
      const { logits } = await runRows(model, { input_ids: [ids], labels: [ids] });
      const last = logits[0].subarray((ids.length - 1) * model.vocabSize);
      ids.push(last.indexOf(Math.max(...last)));
    }
    expect([...tokens]).toEqual(ids.slice(prompt.length));
    await model.close();
  });
});

test('Gemma with bf16 weights scales embeddings by the rounded factor', async () => {
  const dir = join(GOLDEN, 'decoder-tiny', 'gemma');
  const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'bf16' });
  const { logits, loss } = await runRows(model, readJson<Rows>(dir, 'inputs.json'));
  const { loss: expected } = readJson<{ loss: number }>(dir, 'golden.json');
  expect(logits[0].every(Number.isFinite)).toBe(true);
  expect(Math.abs(loss - expected) / expected).toBeLessThan(0.03);
  await model.close();
});

describe('configs', () => {
  const base: RawConfig = { num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 2 };

  test('windows: on, off, by layer', () => {
    expect(parseMistralConfig(base).windows).toEqual([4096, 4096, 4096, 4096]);
    expect(parseMistralConfig({ ...base, sliding_window: null }).windows).toEqual([0, 0, 0, 0]);
    expect(parseQwen2Config({ ...base, sliding_window: 8, max_window_layers: 3 }).windows).toEqual([0, 0, 0, 0]);
    expect(
      parseQwen2Config({ ...base, use_sliding_window: true, sliding_window: 8, max_window_layers: 3 }).windows,
    ).toEqual([0, 0, 0, 8]);
    const types = ['sliding_attention', 'full_attention', 'full_attention', 'sliding_attention'];
    expect(
      parseQwen3Config({ ...base, use_sliding_window: true, sliding_window: 8, layer_types: types }).windows,
    ).toEqual([8, 0, 0, 8]);
    expect(() => parseQwen3Config({ ...base, layer_types: ['chunked_attention'] })).toThrow(
      /layer_types expected 4 times/,
    );
  });

  test('biases, norms and activations are the family’s', () => {
    expect(parseQwen2Config(base)).toMatchObject({ qkvBias: true, outputBias: false, mlpBias: false, qkNorm: false });
    expect(parseQwen3Config(base)).toMatchObject({ qkvBias: false, qkNorm: true, headDim: 128 });
    expect(parseGemmaConfig({ ...base, hidden_act: 'gelu' })).toMatchObject({
      activation: 'gelu_tanh',
      unitOffsetNorm: true,
      embeddingScale: 8,
      tieWordEmbeddings: true,
    });
    expect(() => parseGemmaConfig({ ...base, use_bidirectional_attention: true })).toThrow(/bidirectional/);
  });

  test.each([
    ['mistralai/Mistral-7B-v0.1', 7_241_732_096],
    ['Qwen/Qwen2.5-0.5B', 494_032_768],
    ['Qwen/Qwen3-0.6B', 596_049_920],
    ['google/gemma-2b', 2_506_172_416],
  ])('%s has %i parameters', (model, parameters) => {
    const all = buildModel(knownConfig(model)!, { dtype: 'f32' }).parameters().values();
    expect([...all].reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0)).toBe(parameters);
  });
});
