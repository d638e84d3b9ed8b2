/** Opening models: wrong, missing and extra tensors are errors that name them. */
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { writeSafetensors, type SafetensorsDType, type TensorToWrite } from '../../../src/io/safetensors';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const TIED = join(GOLDEN, 'llama-tiny/tied');
const out = temporaryFolder();
let next = 0;

/** The tied model with changed tensors or config. */
async function altered(
  change: { tensors?: (all: TensorToWrite[]) => TensorToWrite[]; config?: Record<string, unknown> },
  from = TIED,
): Promise<string> {
  const dir = join(out, `model-${next++}`);
  mkdirSync(dir);
  const all: TensorToWrite[] = [];
  for (const [name, source] of await openCheckpoint(from))
    all.push({
      name,
      dtype: source.dtype as SafetensorsDType,
      shape: source.shape,
      data: await readTensorBytes(source),
    });
  await writeSafetensors(join(dir, 'model.safetensors'), change.tensors ? change.tensors(all) : all);
  writeFileSync(
    join(dir, 'config.json'),
    JSON.stringify({ ...readJson<object>(from, 'config.json'), ...change.config }),
  );
  return dir;
}

async function load(dir: string): Promise<void> {
  const model = await AutoModelForCausalLM.fromPretrained(dir);
  try {
    await model.ready();
  } finally {
    await model.close();
  }
}

const NORM = 'model.layers.1.input_layernorm.weight';
const one = (name: string, shape: number[]): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape,
  data: new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)),
});

describe('tensors', () => {
  test('missing: one, and several at once', async () => {
    const dir = await altered({ tensors: (all) => all.filter((t) => t.name !== NORM) });
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringMatching(new RegExp(`missing tensor '${NORM}' \\(at .*model-\\d+\\)`)) as string,
    });
    const more = await altered({ config: { num_hidden_layers: 3 } });
    await expect(load(more)).rejects.toMatchObject({
      message: expect.stringMatching(/missing tensors 'model\.layers\.2\..*and 4 more/) as string,
    });
  });

  test('extra', async () => {
    const dir = await altered({ tensors: (all) => [...all, one('model.layers.0.self_attn.q_norm.weight', [16])] });
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining("unexpected tensor 'model.layers.0.self_attn.q_norm.weight'") as string,
    });
    const bias = await altered({ config: { attention_bias: false } }, join(GOLDEN, 'llama-tiny/biased'));
    await expect(load(bias)).rejects.toMatchObject({
      message: expect.stringContaining("'model.layers.0.self_attn.k_proj.bias'") as string,
    });
  });

  test('of another shape', async () => {
    const dir = await altered({ tensors: (all) => all.map((t) => (t.name === NORM ? one(NORM, [65]) : t)) });
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining(`tensor '${NORM}' expected shape [64], received [65]`) as string,
    });
  });

  test('a copy of the tied head and old rotary tables do no harm', async () => {
    const dir = await altered({
      tensors: (all) => [
        ...all,
        { ...all.find((t) => t.name === 'model.embed_tokens.weight')!, name: 'lm_head.weight' },
        one('model.layers.0.self_attn.rotary_emb.inv_freq', [8]),
      ],
    });
    const model = await AutoModelForCausalLM.fromPretrained(dir);
    const { logits } = await runRows(model, readJson<Rows>(TIED, 'inputs.json'));
    expect(maxDifference(logits, await goldenRows(join(TIED, 'golden.safetensors')))).toBeLessThan(1e-4);
    await model.close();
  });

  test('fp16 weights are read as they are and held in bf16', async () => {
    const dir = join(out, 'fp16');
    cpSync(TIED, dir, { recursive: true });
    const half: TensorToWrite[] = [];
    for (const [name, source] of await openCheckpoint(TIED))
      half.push({ name, dtype: 'F16', shape: source.shape, data: new Uint8Array(source.byteLength / 2) });
    rmSync(join(dir, 'model.safetensors'));
    await writeSafetensors(join(dir, 'model.safetensors'), half);
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify({ ...readJson<object>(TIED, 'config.json'), dtype: 'float16' }),
    );
    const model = await AutoModelForCausalLM.fromPretrained(dir);
    expect(model.module.computeDtype).toBe('bf16');
    await model.ready();
    await model.close();
  });
});

describe('config and folder', () => {
  test('an architecture that is not there, with the nearest', async () => {
    await expect(load(await altered({ config: { model_type: 'lama' } }))).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringContaining("did you mean 'llama'") as string,
    });
  });

  test('no path, no weights, a broken config', async () => {
    await expect(load(join(out, 'nowhere'))).rejects.toMatchObject({ code: 'ERR_CONFIG' });
    const dir = await altered({});
    rmSync(join(dir, 'model.safetensors'));
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('found neither') as string,
    });
    writeFileSync(join(dir, 'config.json'), '{');
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringContaining('config.json is not valid JSON') as string,
    });
    expect(existsSync(dir)).toBe(true);
  });

  test('the folder of an adapter', async () => {
    await expect(load(join(TIED, 'adapter'))).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining('AutoPeftModelForCausalLM') as string,
    });
  });

  test('an unknown dtype', async () => {
    await expect(AutoModelForCausalLM.fromPretrained(TIED, { dtype: 'int8' as never })).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining("received 'int8'") as string,
    });
  });
});
