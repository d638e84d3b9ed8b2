/** Saving into a folder that holds an earlier save: what is opened afterwards is what was saved last. */
import { cpSync, existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { LoraConfig } from '../../../src/peft/lora-config';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { AutoTokenizer } from '../../../src/pretrained/auto-tokenizer';
import { convertModel } from '../../../src/pretrained/convert';
import { getPeftModel } from '../../../src/pretrained/peft-model';
import { saveMerged, writeModelFolder } from '../../../src/pretrained/save';
import { GOLDEN, readJson, temporaryFolder } from '../../models/logits';

const out = temporaryFolder();
const TIED = join(GOLDEN, 'llama-tiny/tied');
const BIASED = join(GOLDEN, 'llama-tiny/biased');

async function bytesOf(dir: string): Promise<Map<string, string>> {
  const result = new Map<string, string>();
  for (const [name, source] of await openCheckpoint(dir))
    result.set(name, Buffer.from(await readTensorBytes(source)).toString('base64'));
  return result;
}

async function save(from: string, dir: string, o: { maxShardBytes?: number } = {}): Promise<string[]> {
  const model = await AutoModelForCausalLM.fromPretrained(from);
  try {
    return (await model.savePretrained(dir, o)).files;
  } finally {
    await model.close();
  }
}

test.each([
  ['shards over a single file', {}, { maxShardBytes: 40_000 }],
  ['a single file over shards', { maxShardBytes: 40_000 }, {}],
  ['shards over shards', { maxShardBytes: 20_000 }, { maxShardBytes: 40_000 }],
])('%s', async (name, earlier, later) => {
  const dir = join(out, name);
  await save(BIASED, dir, earlier);
  const files = await save(TIED, dir, later);
  expect(readdirSync(dir).sort()).toEqual([...files].sort());
  expect(await bytesOf(dir)).toEqual(await bytesOf(TIED));
  const { model_type, vocab_size } = readJson<Record<string, unknown>>(dir, 'config.json');
  expect({ model_type, vocab_size }).toEqual({
    model_type: 'llama',
    vocab_size: readJson<{ vocab_size: number }>(TIED, 'config.json').vocab_size,
  });
});

test("a model without a generation config does not keep another one's", async () => {
  const dir = join(out, 'generation');
  await save(TIED, dir);
  expect(existsSync(join(dir, 'generation_config.json'))).toBe(true);
  const model = AutoModelForCausalLM.fromConfig(readJson<Record<string, unknown>>(TIED, 'config.json'), { seed: 1 });
  const { files } = await model.savePretrained(dir);
  await model.close();
  expect(readdirSync(dir).sort()).toEqual([...files].sort());
  expect(files).not.toContain('generation_config.json');
});

test('a tensor that cannot be read half-way: the earlier model is as it was', async () => {
  const dir = join(out, 'half');
  await save(TIED, dir, { maxShardBytes: 20_000 });
  const [names, before] = [readdirSync(dir), await bytesOf(dir)];
  const tensors = ['a', 'b', 'c'].map((name) => ({
    name,
    dtype: 'U8' as const,
    shape: [10_000],
    data: (): Uint8Array => {
      if (name === 'c') throw new Error('the disk is gone');
      return new Uint8Array(10_000);
    },
  }));
  const saving = writeModelFolder(dir, {
    tensors,
    config: {},
    generationConfig: null,
    tokenizer: null,
    totalParameters: 30_000,
    maxShardBytes: 10_000,
  });
  await expect(saving).rejects.toThrow('the disk is gone');
  expect(readdirSync(dir)).toEqual(names);
  expect(await bytesOf(dir)).toEqual(before);
});

test('converting a model into its own folder reads all of it first', async () => {
  const [dir, apart] = [join(out, 'in-place'), join(out, 'apart')];
  await save(TIED, dir, { maxShardBytes: 20_000 });
  await convertModel(dir, apart, { maxShardBytes: 20_000 });
  await convertModel(dir, dir, { maxShardBytes: 20_000 });
  expect(readdirSync(dir).sort()).toEqual(readdirSync(apart).sort());
  expect(await bytesOf(dir)).toEqual(await bytesOf(apart));
});

test('an adapter and a model do not share a folder', async () => {
  const [adapter, full] = [join(out, 'adapter'), join(out, 'full')];
  cpSync(join(TIED, 'adapter'), adapter, { recursive: true });
  await save(TIED, full);
  const model = getPeftModel(
    await AutoModelForCausalLM.fromPretrained(TIED),
    new LoraConfig({ r: 2, targetModules: ['q_proj'] }),
  );
  await expect(saveMerged(model, adapter)).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    at: join(adapter, 'adapter_config.json'),
  });
  await expect(model.savePretrained(full)).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    at: join(full, 'model.safetensors'),
  });
  expect(existsSync(join(full, 'adapter_config.json'))).toBe(false);
  // A stale archive hides nothing: the safetensors come first.
  rmSync(join(adapter, 'adapter_config.json'));
  writeFileSync(join(adapter, 'pytorch_model.bin'), 'stale');
  await saveMerged(model, adapter);
  await model.close();
  expect((await bytesOf(adapter)).size).toBe((await bytesOf(TIED)).size);
});

test('a tokenizer over another one: no file of it is read any more', () => {
  const dir = join(out, 'tokenizer');
  AutoTokenizer.fromPretrained(join(GOLDEN, 'tokenizers/tiny-bpe')).savePretrained(dir);
  const files = readdirSync(dir);
  writeFileSync(join(dir, 'chat_template.jinja'), 'of another tokenizer');
  writeFileSync(join(dir, 'vocab.bpe'), 'not ours');
  AutoTokenizer.fromPretrained(join(GOLDEN, 'tokenizers/tiny-bpe')).savePretrained(dir);
  expect(readdirSync(dir).sort()).toEqual([...files, 'vocab.bpe'].sort());
});
