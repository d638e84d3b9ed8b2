/** Merging adapters: into a folder, in the session, from dense and 4-bit bases. */
import { join } from 'node:path';
import { floatsToBf16 } from './bf16';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { readTensorFloats } from '../../../src/io/float-codec';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { mergeAndUnload } from '../../../src/pretrained/merge';
import { PeftModel } from '../../../src/pretrained/peft-model';
import { saveMerged } from '../../../src/pretrained/save';
import { BitsAndBytesConfig } from '../../../src/quantization/bitsandbytes';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const out = temporaryFolder();
const folder = (name: string) => join(GOLDEN, 'llama-tiny', name);
const withAdapter = async (name: string, o = {}) =>
  PeftModel.fromPretrained(
    await AutoModelForCausalLM.fromPretrained(folder(name), { dtype: 'f32', ...o }),
    join(folder(name), 'adapter'),
  );

describe.each(['tied', 'biased', 'llama3'])('llama-tiny/%s', (name) => {
  const rows = readJson<Rows>(folder(name), 'inputs.json');

  test('the merged folder computes what the adapter computes', async () => {
    const model = await withAdapter(name);
    const dir = join(out, name);
    const { files } = await saveMerged(model, dir);
    // The model itself still has its adapter.
    expect(
      maxDifference(
        (await runRows(model, rows)).logits,
        await goldenRows(join(folder(name), 'adapter-golden.safetensors')),
      ),
    ).toBeLessThan(1e-4);
    await model.close();
    expect(files).toEqual(['model.safetensors', 'generation_config.json', 'config.json']);
    const merged = await AutoModelForCausalLM.fromPretrained(dir);
    expect(merged.module.computeDtype).toBe('f32');
    expect(
      maxDifference(
        (await runRows(merged, rows)).logits,
        await goldenRows(join(folder(name), 'adapter-golden.safetensors')),
      ),
    ).toBeLessThan(1e-4);
    await merged.close();
  });
});

test('W + scaling B A is rounded once', async () => {
  const model = await withAdapter('tied');
  const dir = join(out, 'bf16');
  await saveMerged(model, dir, { dtype: 'bf16', maxShardBytes: 40_000 });
  await model.close();
  expect(readJson<{ dtype: string }>(dir, 'config.json').dtype).toBe('bfloat16');
  const base = await openCheckpoint(folder('tied'));
  const adapter = await openCheckpoint(join(folder('tied'), 'adapter'), { stem: 'adapter_model' });
  const merged = await openCheckpoint(dir);
  expect(new Set([...merged.values()].map((t) => t.path)).size).toBeGreaterThan(2);
  for (const path of ['model.layers.0.self_attn.q_proj', 'model.layers.1.mlp.down_proj']) {
    const w = await readTensorFloats(base.get(`${path}.weight`)!);
    const a = await readTensorFloats(adapter.get(`base_model.model.${path}.lora_A.weight`)!);
    const b = await readTensorFloats(adapter.get(`base_model.model.${path}.lora_B.weight`)!);
    const cols = base.get(`${path}.weight`)!.shape[1];
    const r = 4;
    const exact = Float64Array.from(w, (value, i) => {
      let s = 0;
      for (let k = 0; k < r; k++) s += b[Math.floor(i / cols) * r + k] * a[k * cols + (i % cols)];
      return value + 2 * s;
    });
    const stored = new Uint16Array((await readTensorBytes(merged.get(`${path}.weight`)!)).buffer);
    const expected = floatsToBf16(exact);
    const differing = stored.filter((bits, i) => bits !== expected[i]).length;
    // fp32 sums differ from f64 ones by rounding, which moves a value over a bf16 boundary once in ten thousand.
    expect(differing).toBeLessThanOrEqual(2);
  }
});

test('a 4-bit base becomes dense: dequantised, merged, rounded once', async () => {
  const rows = readJson<Rows>(folder('biased'), 'inputs.json');
  const quantizationConfig = new BitsAndBytesConfig({
    loadIn4bit: true,
    bnb4bitQuantType: 'nf4',
    bnb4bitUseDoubleQuant: true,
  });
  const model = await withAdapter('biased', { quantizationConfig });
  const adapted = await runRows(model, rows);
  const dir = join(out, 'from-4bit');
  await saveMerged(model, dir);
  const config = readJson<Record<string, unknown>>(dir, 'config.json');
  expect(config).not.toHaveProperty('quantization_config');

  const saved = await AutoModelForCausalLM.fromPretrained(dir);
  expect(maxDifference((await runRows(saved, rows)).logits, adapted.logits)).toBeLessThan(1e-4);
  await saved.close();

  // In the session: the same numbers, dense slots, no adapter.
  const merged = await mergeAndUnload(model);
  expect(merged).toBe(model);
  expect(merged.peft).toBeNull();
  expect([...merged.parameters().values()].every((p) => p.quant === null && p.dtype === 'f32' && !p.trainable)).toBe(
    true,
  );
  expect(
    (await merged.ready())
      .states()
      .map((s) => s.name)
      .sort(),
  ).toEqual([...merged.parameters().keys()].sort());
  expect(maxDifference((await runRows(merged, rows)).logits, adapted.logits)).toBeLessThan(1e-4);
  const again = join(out, 'from-session');
  await merged.savePretrained(again);
  const [a, b] = [await openCheckpoint(dir), await openCheckpoint(again)];
  for (const [name, source] of a)
    expect(Buffer.compare(await readTensorBytes(source), await readTensorBytes(b.get(name)!))).toBe(0);
  await merged.close();
  await expect(merged.ready()).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringContaining('freed by close') as string,
  });
});

test('merging in the session into bf16, and not while programs are loaded', async () => {
  const rows = readJson<Rows>(folder('tied'), 'inputs.json');
  const model = await withAdapter('tied');
  const before = await runRows(model, rows);
  await mergeAndUnload(model, { dtype: 'bf16' });
  expect([...model.parameters().values()].every((p) => p.dtype === 'bf16')).toBe(true);
  const after = await runRows(model, rows);
  expect(maxDifference(before.logits, after.logits)).toBeLessThan(0.3);
  expect(maxDifference(before.logits, after.logits)).toBeGreaterThan(0);
  await model.close();
});

test('an adapter that trained one side of a tied embedding unties the merged model', async () => {
  const variant = join(GOLDEN, 'peft-variants/tied-both');
  const rows = readJson<Rows>(folder('tied'), 'inputs.json');
  const model = await PeftModel.fromPretrained(
    await AutoModelForCausalLM.fromPretrained(folder('tied'), { dtype: 'f32' }),
    variant,
  );
  const dir = join(out, 'untied');
  await saveMerged(model, dir);
  await model.close();
  expect(readJson<{ tie_word_embeddings: boolean }>(dir, 'config.json').tie_word_embeddings).toBe(false);
  expect((await openCheckpoint(dir)).has('lm_head.weight')).toBe(true);
  const merged = await AutoModelForCausalLM.fromPretrained(dir);
  expect(
    maxDifference((await runRows(merged, rows)).logits, await goldenRows(join(variant, 'golden.safetensors'))),
  ).toBeLessThan(1e-4);
  await merged.close();
});
