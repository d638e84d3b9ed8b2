/** Converting: a GGUF file against its own decoder, and any folder to another float type. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { floatsToBf16 } from './bf16';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { readTensorFloats } from '../../../src/io/float-codec';
import { mapGgufModel, readGgufTensor } from '../../../src/io/gguf/llama';
import { openGguf } from '../../../src/io/gguf/reader';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { convertGguf, convertModel } from '../../../src/pretrained/convert';
import { encodeConfig } from '../../../src/pretrained/save';
import { GOLDEN, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const GGUF = join(GOLDEN, 'io/tiny-llama.gguf');
const out = temporaryFolder();
const rows: Rows = { input_ids: [[1, 5, 9, 30, 2, 39, 17]], labels: [[1, 5, 9, 30, 2, 39, 17]] };

describe('a GGUF file with every block format', () => {
  test('f32: each tensor is what the decoder gives, rows in HF order', async () => {
    const dir = join(out, 'f32');
    const { totalParameters } = await convertGguf(GGUF, dir, { dtype: 'f32', tokenizer: null });
    const { tensors } = await mapGgufModel(await openGguf(GGUF));
    const saved = await openCheckpoint(dir);
    expect([...saved.keys()].sort()).toEqual([...tensors.keys()].sort());
    let elements = 0;
    for (const [name, tensor] of tensors) {
      const expected = await readGgufTensor(tensor);
      expect([name, Array.from(await readTensorFloats(saved.get(name)!))]).toEqual([name, Array.from(expected)]);
      elements += expected.length;
    }
    expect(totalParameters).toBe(elements);
    expect(readJson<Record<string, unknown>>(dir, 'config.json')).toMatchObject({
      model_type: 'llama',
      torch_dtype: 'float32',
      vocab_size: 40,
    });
    expect(readJson(dir, 'generation_config.json')).toEqual({ bos_token_id: 1, eos_token_id: 2 });
    // Python reads these as floats only.
    expect(readFileSync(join(dir, 'config.json'), 'utf8')).toContain('"rope_theta": 500000.0,');
  });

  test('bf16: rounded once, to nearest even', async () => {
    const dir = join(out, 'bf16');
    await convertGguf(GGUF, dir, { tokenizer: null });
    const { tensors } = await mapGgufModel(await openGguf(GGUF));
    for (const [name, source] of await openCheckpoint(dir)) {
      const bits = new Uint16Array((await readTensorBytes(source)).slice().buffer);
      expect([name, Array.from(bits)]).toEqual([
        name,
        Array.from(floatsToBf16(await readGgufTensor(tensors.get(name)!))),
      ]);
    }
  });

  test('the folder computes what the file computes', async () => {
    const direct = await AutoModelForCausalLM.fromPretrained(GGUF, { dtype: 'f32' });
    const folder = await AutoModelForCausalLM.fromPretrained(join(out, 'f32'));
    expect(direct.generationConfig).toEqual({ bos_token_id: 1, eos_token_id: 2 });
    const [a, b] = [await runRows(direct, rows), await runRows(folder, rows)];
    expect(maxDifference(a.logits, b.logits)).toBe(0);
    expect(a.logits[0].some((value) => value !== 0)).toBe(true);
    await direct.close();
    await folder.close();
  });

  test('a file whose tokenizer cannot be expressed fails before it looks complete', async () => {
    const dir = join(out, 'no-tokenizer');
    await expect(convertGguf(GGUF, dir)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringContaining('tokenizer.ggml.model') as string,
    });
    expect(existsSync(join(dir, 'config.json'))).toBe(false);
  });

  test('a folder is not a GGUF file', async () => {
    await expect(convertGguf(join(GOLDEN, 'llama-tiny/tied'), join(out, 'x'))).rejects.toMatchObject({
      code: 'ERR_CONFIG',
    });
  });
});

test('a folder in another float type, in shards', async () => {
  const source = join(GOLDEN, 'llama-tiny/biased');
  const dir = join(out, 'biased');
  const { files } = await convertModel(source, dir, { dtype: 'bf16', maxShardBytes: 60_000 });
  expect(files).toContain('model.safetensors.index.json');
  const [from, to] = [await openCheckpoint(source), await openCheckpoint(dir)];
  expect([...to.keys()].sort()).toEqual([...from.keys()].sort());
  const name = 'model.layers.1.mlp.up_proj.bias';
  const bits = new Uint16Array((await readTensorBytes(to.get(name)!)).slice().buffer);
  expect(bits).toEqual(floatsToBf16(await readTensorFloats(from.get(name)!)));
  expect(readJson<{ dtype: string }>(dir, 'config.json').dtype).toBe('bfloat16');
});

test('weights that do not fit their config stop the conversion by name', async () => {
  const dir = join(out, 'misfit');
  mkdirSync(dir);
  const source = join(GOLDEN, 'llama-tiny/tied');
  writeFileSync(join(dir, 'model.safetensors'), readFileSync(join(source, 'model.safetensors')));
  writeFileSync(
    join(dir, 'config.json'),
    JSON.stringify({ ...readJson<object>(source, 'config.json'), intermediate_size: 100 }),
  );
  await expect(convertModel(dir, join(out, 'never'))).rejects.toMatchObject({
    code: 'ERR_CHECKPOINT',
    message: expect.stringContaining(
      "'model.layers.0.mlp.gate_proj.weight' expected shape [100, 64], received [96, 64]",
    ) as string,
  });
});

test('floats keep their point in config.json, and nothing else changes', () => {
  const config = {
    rope_theta: 10000,
    rope_scaling: { factor: 8, type: 'x"llm_int8_threshold": 6' },
    attention_dropout: 0,
    hidden_size: 64,
    quantization_config: { llm_int8_threshold: 6 },
    list: [1, 2],
  };
  const text = encodeConfig(config);
  expect(JSON.parse(text)).toEqual(config);
  for (const part of [
    '"rope_theta": 10000.0,',
    '"factor": 8.0,',
    '"attention_dropout": 0.0,',
    '"hidden_size": 64,',
    '"llm_int8_threshold": 6.0\n',
  ])
    expect(text).toContain(part);
});
