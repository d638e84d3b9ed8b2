/** savePretrained: dense and 4-bit folders. */
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { BitsAndBytesConfig } from '../../../src/quantization/bitsandbytes';
import { GOLDEN, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const out = temporaryFolder();
const folder = (name: string) => join(GOLDEN, 'llama-tiny', name);

async function expectSameTensors(a: string, b: string): Promise<void> {
  const [left, right] = [await openCheckpoint(a), await openCheckpoint(b)];
  expect([...left.keys()].sort()).toEqual([...right.keys()].sort());
  for (const [name, source] of left) {
    const other = right.get(name)!;
    expect([name, source.dtype, source.shape]).toEqual([name, other.dtype, other.shape]);
    expect([name, Buffer.compare(await readTensorBytes(source), await readTensorBytes(other))]).toEqual([name, 0]);
  }
}

describe('dense', () => {
  test.each(['tied', 'biased', 'llama3'])('%s: the same bytes, config and generation config', async (name) => {
    const model = await AutoModelForCausalLM.fromPretrained(folder(name));
    const dir = join(out, `dense-${name}`);
    const { totalParameters } = await model.savePretrained(dir);
    await model.close();
    await expectSameTensors(folder(name), dir);
    for (const file of ['config.json', 'generation_config.json'])
      expect(readJson(dir, file)).toEqual(readJson(folder(name), file));
    expect(totalParameters).toBe(name === 'tied' ? 72_000 : totalParameters);
  });

  test('loaded in bf16, saved in bf16, and the key of the dtype stays the one of the file', async () => {
    for (const [name, key] of [
      ['tied', 'dtype'],
      ['llama3', 'torch_dtype'],
    ] as const) {
      const model = await AutoModelForCausalLM.fromPretrained(folder(name), { dtype: 'bf16' });
      const dir = join(out, `bf16-${name}`);
      await model.savePretrained(dir);
      await model.close();
      const config = readJson<Record<string, unknown>>(dir, 'config.json');
      expect([config.dtype, config.torch_dtype].filter(Boolean)).toEqual(['bfloat16']);
      expect(config[key]).toBe('bfloat16');
      expect(new Set([...(await openCheckpoint(dir)).values()].map((t) => t.dtype))).toEqual(new Set(['BF16']));
    }
  });

  test('tokenizer files come along byte for byte, or not when null', async () => {
    const source = join(out, 'with-tokenizer');
    cpSync(folder('tied'), source, { recursive: true });
    cpSync(join(GOLDEN, 'tokenizers/tiny-bpe'), source, { recursive: true });
    const names = readdirSync(join(GOLDEN, 'tokenizers/tiny-bpe')).filter((n) => n.startsWith('tokenizer'));
    expect(names.length).toBeGreaterThan(1);
    const model = await AutoModelForCausalLM.fromPretrained(source);
    const { files } = await model.savePretrained(join(out, 'tok-a'));
    expect(files).toEqual(expect.arrayContaining(names));
    for (const name of names)
      expect(readFileSync(join(out, 'tok-a', name)).equals(readFileSync(join(source, name)))).toBe(true);
    await model.savePretrained(join(out, 'tok-b'), { tokenizer: null });
    expect(existsSync(join(out, 'tok-b', 'tokenizer.json'))).toBe(false);
    await model.close();
  });

  test('a model from a config has weights that a second load keeps', async () => {
    const raw = readJson<Record<string, unknown>>(folder('tied'), 'config.json');
    const rows = readJson<Rows>(folder('tied'), 'inputs.json');
    const model = AutoModelForCausalLM.fromConfig(raw, { seed: 7 });
    const { logits } = await runRows(model, rows);
    const dir = join(out, 'from-config');
    await model.savePretrained(dir);
    await model.close();
    const again = await AutoModelForCausalLM.fromPretrained(dir);
    expect(maxDifference((await runRows(again, rows)).logits, logits)).toBe(0);
    await again.close();
  });
});

describe('4 bit', () => {
  const CHECKPOINT = join(GOLDEN, 'bnb4/checkpoint');

  test("bitsandbytes' own checkpoint comes back byte for byte", async () => {
    const model = await AutoModelForCausalLM.fromPretrained(CHECKPOINT);
    const dir = join(out, 'bnb');
    await model.savePretrained(dir);
    await model.close();
    await expectSameTensors(CHECKPOINT, dir);
    const [ours, theirs] = [
      readJson<Record<string, object>>(dir, 'config.json'),
      readJson<Record<string, object>>(CHECKPOINT, 'config.json'),
    ];
    expect(ours.quantization_config).toEqual(theirs.quantization_config);
    expect(ours.dtype).toEqual(theirs.dtype);
  });

  test.each([
    ['nf4', true],
    ['nf4', false],
    ['fp4', true],
    ['fp4', false],
  ] as const)('quantised here to %s, nested %s: saved, loaded, equal', async (type, nested) => {
    const rows = readJson<Rows>(folder('biased'), 'inputs.json');
    const quantizationConfig = new BitsAndBytesConfig({
      loadIn4bit: true,
      bnb4bitQuantType: type,
      bnb4bitUseDoubleQuant: nested,
    });
    const model = await AutoModelForCausalLM.fromPretrained(folder('biased'), { dtype: 'bf16', quantizationConfig });
    const { logits } = await runRows(model, rows);
    const dir = join(out, `${type}-${nested}`);
    await model.savePretrained(dir);
    await expect(model.savePretrained(dir, { dtype: 'bf16' })).rejects.toMatchObject({ code: 'ERR_CONFIG' });
    await model.close();
    const again = await AutoModelForCausalLM.fromPretrained(dir);
    expect(again.origin.quantization).toMatchObject({ bnb4bitQuantType: type, bnb4bitUseDoubleQuant: nested });
    expect(maxDifference((await runRows(again, rows)).logits, logits)).toBe(0);
    await again.close();
    await expect(
      AutoModelForCausalLM.fromPretrained(dir, {
        quantizationConfig: new BitsAndBytesConfig({
          loadIn4bit: true,
          bnb4bitQuantType: type,
          bnb4bitUseDoubleQuant: !nested,
        }),
      }),
    ).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining(`stored as 4-bit ${type}`) as string,
    });
  });
});
