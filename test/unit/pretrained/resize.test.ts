/** resizeTokenEmbeddings: new rows after the distribution of the old (Hewitt 2021), cut rows, heads, saved folders. */
import { join } from 'node:path';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { readTensorFloats } from '../../../src/io/float-codec';
import { LoraConfig } from '../../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import type { PreTrainedModel } from '../../../src/pretrained/model';
import { getPeftModel, PeftModel } from '../../../src/pretrained/peft-model';
import { GOLDEN, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const out = temporaryFolder();
const folder = (name: string) => join(GOLDEN, 'llama-tiny', name);
const D = 64;
const OLD = 160;

async function resized(
  name: string,
  rows: number,
  o: { padToMultipleOf?: number; meanResizing?: boolean; dtype?: 'bf16' | 'f32' } = {},
): Promise<{ dir: string; size: number }> {
  const model = await AutoModelForCausalLM.fromPretrained(folder(name), { dtype: o.dtype ?? 'f32' });
  const size = model.resizeTokenEmbeddings(rows, o);
  expect(model.vocabSize).toBe(size);
  expect(model.config.vocab_size).toBe(size);
  const dir = join(out, `${name}-${size}-${o.meanResizing ?? true}-${o.dtype ?? ''}`);
  await model.savePretrained(dir);
  await model.close();
  return { dir, size };
}

const tensor = async (dir: string, name: string): Promise<Float32Array> =>
  readTensorFloats((await openCheckpoint(dir)).get(name)!);

function meanRow(values: Float32Array, rows: number): Float64Array {
  const mean = new Float64Array(D);
  for (let r = 0; r < rows; r++) for (let j = 0; j < D; j++) mean[j] += values[r * D + j] / rows;
  return mean;
}

describe.each([
  ['tied', ['model.embed_tokens.weight']],
  ['llama3', ['model.embed_tokens.weight', 'lm_head.weight']],
])('%s, grown', (name, keys) => {
  test('old rows stay, new rows lie at the mean with the covariance of the old, shrunk', async () => {
    const { dir, size } = await resized(name, 420);
    expect(size).toBe(420);
    expect(readJson<{ vocab_size: number }>(dir, 'config.json').vocab_size).toBe(420);
    for (const key of keys) {
      const [old, grown] = [await tensor(folder(name), key), await tensor(dir, key)];
      expect(grown.length).toBe(420 * D);
      expect(grown.subarray(0, OLD * D)).toEqual(old);
      const mean = meanRow(old, OLD);
      const std = Math.sqrt(old.reduce((s, v, i) => s + (v - mean[i % D]) ** 2, 0) / old.length);
      const fresh = grown.subarray(OLD * D);
      const offsets = fresh.map((v, i) => v - mean[i % D]);
      const spread = Math.sqrt(offsets.reduce((s, v) => s + v * v, 0) / offsets.length);
      // 1e-9 of the covariance; 260 rows of 64 give the deviation to a few percent.
      expect(spread / (std * Math.sqrt(1e-9))).toBeGreaterThan(0.9);
      expect(spread / (std * Math.sqrt(1e-9))).toBeLessThan(1.1);
      expect(new Set(Array.from(fresh.subarray(0, D * 20).filter((_, i) => i % D === 3))).size).toBeGreaterThan(10);
    }
    // Old tokens keep their logits.
    const rows = readJson<Rows>(folder(name), 'inputs.json');
    const [before, after] = [
      await AutoModelForCausalLM.fromPretrained(folder(name)),
      await AutoModelForCausalLM.fromPretrained(dir),
    ];
    const [a, b] = [(await runRows(before, rows)).logits[0], (await runRows(after, rows)).logits[0]];
    const same = a.map((_, i) => b[Math.floor(i / OLD) * 420 + (i % OLD)]);
    expect(maxDifference([a], [same])).toBeLessThan(1e-5);
    await before.close();
    await after.close();
  });

  test('without mean resizing new rows are drawn like a fresh embedding', async () => {
    const { dir } = await resized(name, 260, { meanResizing: false });
    for (const key of keys) {
      const fresh = (await tensor(dir, key)).subarray(OLD * D);
      const std = Math.sqrt(fresh.reduce((s, v) => s + v * v, 0) / fresh.length);
      expect(Math.abs(std / 0.02 - 1)).toBeLessThan(0.05);
    }
  });

  test('padded, shrunk and in bf16', async () => {
    expect((await resized(name, 161, { padToMultipleOf: 64 })).size).toBe(192);
    const { dir, size } = await resized(name, 100);
    expect(size).toBe(100);
    for (const key of keys)
      expect(await tensor(dir, key)).toEqual((await tensor(folder(name), key)).subarray(0, 100 * D));
    const half = await resized(name, 176, { dtype: 'bf16' });
    const fresh = (await tensor(half.dir, keys[0])).subarray(OLD * D);
    const mean = meanRow(await tensor(folder(name), keys[0]), OLD);
    expect(Math.max(...fresh.map((v, i) => Math.abs(v - mean[i % D])))).toBeLessThan(5e-3);
  });
});

test('the same seed gives the same rows', async () => {
  const rows = async (seed: number): Promise<Float32Array> => {
    const model = await AutoModelForCausalLM.fromPretrained(folder('tied'), { seed });
    model.resizeTokenEmbeddings(170);
    const bytes = await (await model.ready()).readState('model.embed_tokens.weight');
    await model.close();
    return new Float32Array(bytes.slice().buffer);
  };
  const [a, b, c] = [await rows(1), await rows(1), await rows(2)];
  expect(a).toEqual(b);
  expect(a).not.toEqual(c);
});

test('resized and then trained in full on a tied model: both copies start as the same rows', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(folder('tied'), { dtype: 'bf16' });
  model.resizeTokenEmbeddings(170);
  getPeftModel(model, new LoraConfig({ targetModules: ['q_proj'], modulesToSave: ['embed_tokens', 'lm_head'] }));
  const session = await model.ready();
  const [a, b] = [await session.readState('model.embed_tokens.weight'), await session.readState('lm_head.weight')];
  expect(a.length).toBe(4 * 170 * D);
  expect(Buffer.compare(a, b)).toBe(0);
  expect(new Float32Array(a.slice().buffer).subarray(OLD * D).some((v) => v !== 0)).toBe(true);
  await model.close();
});

test('a model from a config whose tied embedding is copied: the copies start equal', async () => {
  const model = AutoModelForCausalLM.fromConfig(readJson<Record<string, unknown>>(folder('tied'), 'config.json'), {
    dtype: 'f32',
  });
  getPeftModel(model, new LoraConfig({ targetModules: ['q_proj'], modulesToSave: ['lm_head'] }));
  const session = await model.ready();
  const [a, b] = [await session.readState('model.embed_tokens.weight'), await session.readState('lm_head.weight')];
  expect(Buffer.compare(a, b)).toBe(0);
  expect(a.some((byte) => byte !== 0)).toBe(true);
  await model.close();
});

test('an adapter with an embedding of its own size, on a model resized to another', async () => {
  const adapter = join(GOLDEN, 'peft-variants/resized-tied');
  const model = await AutoModelForCausalLM.fromPretrained(folder('tied'), { dtype: 'f32' });
  model.resizeTokenEmbeddings(192);
  await expect(PeftModel.fromPretrained(model, adapter)).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    message: expect.stringContaining('expected shape [192, 64], received [170, 64]') as string,
  });
  const fits = await AutoModelForCausalLM.fromPretrained(folder('tied'), { dtype: 'f32' });
  fits.resizeTokenEmbeddings(170);
  expect((await PeftModel.fromPretrained(fits, adapter)).vocabularyResized).toBe(true);
});

test('too late, and not a size', async () => {
  const model = await AutoModelForCausalLM.fromPretrained(folder('tied'));
  expect(() => model.resizeTokenEmbeddings(0)).toThrow('rows expected a positive integer');
  await model.ready();
  expect(() => model.resizeTokenEmbeddings(200)).toThrow('cannot resize the embeddings after the weights were loaded');
  expect(() => model.addAdapter(new LoraConfig())).toThrow('cannot add an adapter after');
  await model.close();
});

test.each([
  ['the embedding alone', ['embed_tokens']],
  ['the head alone', ['lm_head']],
  ['both', ['embed_tokens', 'lm_head']],
])('an adapter on a grown, tied vocabulary loads again, with %s in modules_to_save', async (name, modulesToSave) => {
  const dir = join(out, `adapter ${name}`);
  const open = (): Promise<PreTrainedModel> =>
    AutoModelForCausalLM.fromPretrained(folder('tied'), { dtype: 'f32', threads: 1 });
  const rows = async (model: PreTrainedModel): Promise<Uint8Array[]> => {
    const session = await model.ready();
    return Promise.all([model.module.embedding, model.module.head].map((p) => session.readState(p.name)));
  };
  const made = await open();
  made.resizeTokenEmbeddings(made.vocabSize + 3);
  getPeftModel(made, new LoraConfig({ r: 2, targetModules: ['q_proj'], modulesToSave }));
  // Other values than a resize would give again.
  const session = await made.ready();
  for (const p of new Set([made.module.embedding, made.module.head])) {
    const values = new Float32Array(p.shape[0] * p.shape[1]).map(
      (_, i) => (i % 97) / 97 + (p === made.module.head ? 1 : 0),
    );
    await session.writeState(p.name, values);
  }
  const want = await rows(made);
  await made.savePretrained(dir);
  await made.close();
  const loaded = await PeftModel.fromPretrained(await open(), dir, { isTrainable: true });
  expect(loaded.vocabSize).toBe(163);
  expect((await rows(loaded)).map((bytes) => Buffer.from(bytes))).toEqual(want.map((bytes) => Buffer.from(bytes)));
  await loaded.close();
});
