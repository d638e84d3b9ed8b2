/** bitsandbytes' tables and checkpoint format against files that bitsandbytes wrote (scripts/golden/bnb4.py). */
import { cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { readTensorFloats } from '../../../src/io/float-codec';
import {
  openSafetensors,
  writeSafetensors,
  type SafetensorsDType,
  type TensorToWrite,
} from '../../../src/io/safetensors';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { buildModel } from '../../../src/models/registry';
import { output } from '../../../src/graph/trace';
import { cast } from '../../../src/ops/elementwise';
import { FP4, NF4 } from '../../../src/ops/quant';
import { DYNAMIC_MAP_SIGNED, DYNAMIC_MAP_UNSIGNED } from '../../../src/ops/quant-tables';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { convertModel } from '../../../src/pretrained/convert';
import { bytesOf, runOnce } from '../../../src/pretrained/run-once';
import { BitsAndBytesConfig, quantizeModel } from '../../../src/quantization/bitsandbytes';
import { decodeBnbState, encodeBnbState } from '../../../src/quantization/bnb-state';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const BNB = join(GOLDEN, 'bnb4');
const CHECKPOINT = join(BNB, 'checkpoint');
const out = temporaryFolder();
let next = 0;

test('the four tables', async () => {
  const { tensors } = await openSafetensors(join(BNB, 'maps.safetensors'));
  const ours: Record<string, ArrayLike<number>> = {
    nf4: NF4,
    fp4: FP4,
    dynamic_signed: DYNAMIC_MAP_SIGNED,
    dynamic_unsigned: DYNAMIC_MAP_UNSIGNED,
  };
  for (const [name, table] of Object.entries(ours)) {
    const theirs = await readTensorFloats(tensors.get(name)!);
    expect([name, Array.from(theirs)]).toEqual([name, Array.from(table, (v) => Math.fround(v) + 0)]);
  }
});

describe('a checkpoint that transformers and bitsandbytes saved', () => {
  test('dequantises to the bit', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(CHECKPOINT);
    expect(model.module.computeDtype).toBe('bf16');
    const session = await model.ready();
    const { tensors } = await openSafetensors(join(BNB, 'checkpoint-golden.safetensors'));
    let checked = 0;
    for (const [name, p] of model.parameters()) {
      if (!p.quant) continue;
      const { weight } = await runOnce(session, name, () => output('weight', cast(p.read('f32'), 'bf16')));
      const golden = await readTensorBytes(tensors.get(`dequantised.${name.replace(/\.weight$/, '')}`)!);
      expect([name, Buffer.compare(bytesOf(weight), golden)]).toEqual([name, 0]);
      checked++;
    }
    expect(checked).toBe(14);
    await model.close();
  });

  test('logits in fp32', async () => {
    const rows = readJson<Rows>(BNB, 'inputs.json');
    // The reference rounds each dequantised weight to bf16, as bitsandbytes does for a bf16 model, and goes on in fp32.
    const rounded = join(out, 'dequantised-bf16');
    await convertModel(CHECKPOINT, rounded, { dtype: 'bf16' });
    const reference = await AutoModelForCausalLM.fromPretrained(rounded, { dtype: 'f32' });
    const { logits, loss } = await runRows(reference, rows);
    expect(maxDifference(logits, await goldenRows(join(BNB, 'checkpoint-golden.safetensors')))).toBeLessThan(1e-4);
    expect(
      Math.abs(loss - readJson<{ checkpoint_loss_fp32: number }>(BNB, 'notes.json').checkpoint_loss_fp32),
    ).toBeLessThan(1e-5);
    await reference.close();

    // The 4-bit weights of an fp32 model stay fp32 while they are unpacked.
    const exact = join(out, 'dequantised-f32');
    await convertModel(CHECKPOINT, exact, { dtype: 'f32' });
    const [dense, packed] = [
      await AutoModelForCausalLM.fromPretrained(exact),
      await AutoModelForCausalLM.fromPretrained(CHECKPOINT, { dtype: 'f32' }),
    ];
    expect(maxDifference((await runRows(packed, rows)).logits, (await runRows(dense, rows)).logits)).toBeLessThan(1e-4);
    await dense.close();
    await packed.close();
  });

  test('logits in bf16', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(CHECKPOINT);
    const { logits } = await runRows(model, readJson<Rows>(BNB, 'inputs.json'));
    const path = join(BNB, 'checkpoint-golden.safetensors');
    const [fp32, bf16] = [await goldenRows(path), await goldenRows(path, 'logits_bf16')];
    // No further from the exact result than the reference's own bf16 pass, give or take a rounding.
    expect(maxDifference(logits, fp32)).toBeLessThan(1.5 * maxDifference(bf16, fp32));
    await model.close();
  });
});

/** The golden checkpoint with changed tensors. */
async function altered(change: (all: TensorToWrite[]) => TensorToWrite[]): Promise<string> {
  const dir = join(out, `altered-${next++}`);
  cpSync(CHECKPOINT, dir, { recursive: true });
  const all: TensorToWrite[] = [];
  for (const [name, source] of await openCheckpoint(dir))
    all.push({
      name,
      dtype: source.dtype as SafetensorsDType,
      shape: source.shape,
      data: await readTensorBytes(source),
    });
  await writeSafetensors(join(dir, 'model.safetensors'), change(all));
  return dir;
}

const open = (dir: string) =>
  AutoModelForCausalLM.fromPretrained(dir).then(async (model) => model.ready().finally(() => model.close()));

describe('damaged checkpoints', () => {
  const NAME = 'model.layers.1.mlp.gate_proj.weight';
  const replace = (suffix: string, change: (t: TensorToWrite) => TensorToWrite) =>
    altered((all) => all.map((t) => (t.name === NAME + suffix ? change(t) : t)));

  test.each(['.absmax', '.quant_map', '.nested_absmax', '.nested_quant_map'])(
    'a missing part %s is named',
    async (suffix) => {
      const dir = await altered((all) => all.filter((t) => t.name !== NAME + suffix));
      await expect(open(dir)).rejects.toMatchObject({
        code: 'ERR_CHECKPOINT',
        message: expect.stringContaining(`missing tensor '${NAME}${suffix}'`) as string,
      });
    },
  );

  test('without its quant_state a packed weight has the wrong shape, and its parts are too many', async () => {
    const dir = await altered((all) => all.filter((t) => t.name !== `${NAME}.quant_state.bitsandbytes__nf4`));
    await expect(open(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining(`unexpected tensors '${NAME}.`) as string,
    });
  });

  test('another table, another block size, another shape, a cut tensor', async () => {
    const map = await replace('.quant_map', (t) => ({ ...t, data: new Uint8Array(64) }));
    await expect(open(map)).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringContaining(`'${NAME}.quant_map'`) as string,
    });
    const state = (edit: (json: string) => string) =>
      replace('.quant_state.bitsandbytes__nf4', (t) => {
        const data = Buffer.from(edit(Buffer.from(t.data as Uint8Array).toString()));
        return { ...t, shape: [data.length], data };
      });
    await expect(open(await state((s) => s.replace('"blocksize": 64', '"blocksize": 128')))).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringContaining('blocksize 128') as string,
    });
    await expect(open(await state((s) => s.replace('[96, 64]', '[64, 96]')))).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining(`'${NAME}' expected shape [96, 64], received [64, 96]`) as string,
    });
    await expect(open(await state(() => '{'))).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('is not JSON') as string,
    });
    const cut = await replace('', (t) => ({ ...t, shape: [3000, 1], data: (t.data as Uint8Array).subarray(0, 3000) }));
    await expect(open(cut)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('expected 3072 bytes') as string,
    });
  });

  test('a config that says another format', async () => {
    const dir = await altered((all) => all);
    const config = readJson<{ quantization_config: object }>(dir, 'config.json');
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify({
        ...config,
        quantization_config: { ...config.quantization_config, bnb_4bit_use_double_quant: false },
      }),
    );
    await expect(open(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('expected nf4, received nf4 with double quantisation') as string,
    });
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify({ ...config, quantization_config: { load_in_8bit: true, quant_method: 'bitsandbytes' } }),
    );
    await expect(open(dir)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify({ ...config, quantization_config: { quant_method: 'gptq' } }),
    );
    await expect(open(dir)).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
      message: expect.stringContaining("'gptq'") as string,
    });
    rmSync(dir, { recursive: true });
  });
});

describe('quant_state', () => {
  test("is the library's text, to the byte", () => {
    const { quant_state_json } = readJson<{ quant_state_json: string }>(BNB, 'notes.json');
    const bytes = Buffer.from(quant_state_json);
    const state = decodeBnbState(bytes, 'w', 'nf4', 'file');
    expect(state).toEqual({ type: 'nf4', shape: [64, 96], dtype: 'bfloat16', nestedOffset: 0.4027099609375 });
    expect(Buffer.from(encodeBnbState(state)).toString()).toBe(quant_state_json);
    expect(Buffer.from(encodeBnbState({ ...state, type: 'fp4', nestedOffset: null })).toString()).toBe(
      '{"quant_type": "fp4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 96]}',
    );
    expect(Buffer.from(encodeBnbState({ ...state, nestedOffset: 2 })).toString()).toContain('"nested_offset": 2.0}');
  });
});

describe('BitsAndBytesConfig', () => {
  test("bitsandbytes' default type is fp4, and the JSON goes both ways", () => {
    expect(new BitsAndBytesConfig({ loadIn4bit: true }).bnb4bitQuantType).toBe('fp4');
    const { quantization_config } = readJson<{ quantization_config: Record<string, unknown> }>(
      CHECKPOINT,
      'config.json',
    );
    expect(BitsAndBytesConfig.fromJson(quantization_config).toJson()).toEqual(quantization_config);
    expect(() => new BitsAndBytesConfig({ bnb4bitQuantType: 'nf5' as never })).toThrow(
      'bnb_4bit_quant_type expected nf4 or fp4',
    );
  });

  test('the head, the embedding, norms and skipped modules stay dense', () => {
    const raw = readJson<Record<string, unknown>>(GOLDEN, 'llama-tiny/biased/config.json');
    const model = buildModel(raw, { dtype: 'bf16' });
    expect(
      quantizeModel(
        model,
        new BitsAndBytesConfig({ loadIn4bit: true, llmInt8SkipModules: ['down_proj', 'model.layers.0.self_attn'] }),
      ),
    ).toBe(14 - 2 - 4);
    const dense = [...model.parameters()]
      .filter(([name, p]) => !p.quant && name.endsWith('proj.weight'))
      .map(([name]) => name);
    expect(dense).toEqual([
      ...['q', 'k', 'v', 'o'].map((n) => `model.layers.0.self_attn.${n}_proj.weight`),
      'model.layers.0.mlp.down_proj.weight',
      'model.layers.1.mlp.down_proj.weight',
    ]);
    expect(model.head.quant).toBeNull();
    expect(model.embedding.quant).toBeNull();
  });
});
