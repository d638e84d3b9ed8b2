/** GPT2LMHeadModel against transformers (scripts/golden/gpt2_tiny.py): logits, loss, every gradient, files, dropout. */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { input, output, trace } from '../../src/graph/trace';
import { openCheckpoint } from '../../src/io/checkpoint-files';
import { readTensorFloats } from '../../src/io/float-codec';
import { readTensorBytes } from '../../src/io/tensor-source';
import { writeSafetensors } from '../../src/io/safetensors';
import type { RawConfig } from '../../src/models/config-reader';
import { knownConfig } from '../../src/models/known-configs';
import { buildModel } from '../../src/models/registry';
import { LoraConfig } from '../../src/peft/lora-config';
import { generateAll } from '../../src/generation/generate';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { getPeftModel, PeftModel } from '../../src/pretrained/peft-model';
import type { PreTrainedModel } from '../../src/pretrained/model';
import { saveMerged } from '../../src/pretrained/save';
import { gradientsOf } from './gradients';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from './logits';

const dir = join(GOLDEN, 'gpt2-tiny');
const rows = readJson<Rows>(dir, 'inputs.json');
const golden = readJson<{ loss: number }>(dir, 'golden.json');
const config = readJson<RawConfig>(dir, 'config.json');
const expectedLogits = () => goldenRows(join(dir, 'golden.safetensors'));

const root = temporaryFolder();
let folders = 0;

function newFolder(): string {
  const folder = join(root, String(folders++));
  mkdirSync(folder);
  return folder;
}

async function expectGoldenLogits(model: PreTrainedModel): Promise<void> {
  try {
    const { logits, loss } = await runRows(model, rows);
    expect(maxDifference(logits, await expectedLogits())).toBeLessThan(1e-4);
    expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
  } finally {
    await model.close();
  }
}

describe('gpt2-tiny', () => {
  test('logits and loss in fp32', async () => {
    await expectGoldenLogits(await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' }));
  });

  test('logits with bf16 weights and activations', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'bf16' });
    const { logits } = await runRows(model, rows);
    // Logits are around 3 here; bf16 has 8 bits, over two layers.
    expect(maxDifference(logits, await expectedLogits())).toBeLessThan(0.3);
    expect(maxDifference(logits, await expectedLogits())).toBeGreaterThan(1e-3);
    await model.close();
  });

  test.each(['none', 'block'] as const)('loss and every gradient, checkpointing %s', async (checkpoint) => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32', threads: 2 });
    model.trainAll();
    try {
      const { loss, gradients } = await gradientsOf(model, rows, { checkpoint });
      expect(Math.abs(loss - golden.loss)).toBeLessThan(1e-5);
      const want = await openCheckpoint(dir, { stem: 'grads' });
      expect([...gradients.keys()].sort()).toEqual([...want.keys()].sort());
      for (const [name, source] of want) {
        const expected = await readTensorFloats(source);
        const scale = Math.max(...expected.map(Math.abs));
        const worst = Math.max(...expected.map((w, i) => Math.abs(w - gradients.get(name)![i]))) / scale;
        expect({ name, close: worst < 1e-4 }).toEqual({ name, close: true });
      }
    } finally {
      await model.close();
    }
  });

  test('greedy generation with the cache equals the argmax of whole forward passes', async () => {
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    const prompt = rows.input_ids[0].slice(0, 5);
    const [{ tokens }] = await generateAll(model, [prompt], { maxNewTokens: 8, doSample: false, eosTokenId: [] });
    const ids = [...prompt];
    for (let i = 0; i < 8; i++) {
      const { logits } = await runRows(model, { input_ids: [ids], labels: [ids] });
      const last = logits[0].subarray((ids.length - 1) * 160);
      ids.push(last.indexOf(Math.max(...last)));
    }
    expect([...tokens]).toEqual(ids.slice(prompt.length));
    await model.close();
  });
});

describe('files', () => {
  test('the Hub’s layout: no prefix, causal masks among the weights', async () => {
    const folder = newFolder();
    cpSync(join(dir, 'config.json'), join(folder, 'config.json'));
    const tensors = [...(await openCheckpoint(dir))];
    const bare = await Promise.all(
      tensors.map(async ([name, source]) => ({
        name: name.replace(/^transformer\./, ''),
        dtype: source.dtype as 'F32',
        shape: source.shape,
        data: await readTensorBytes(source),
      })),
    );
    const mask = (name: string) => ({ name, dtype: 'F32' as const, shape: [1, 1, 2, 2], data: new Uint8Array(16) });
    expect(bare.map((t) => t.name)).toContain('h.0.attn.c_attn.bias');
    await writeSafetensors(join(folder, 'model.safetensors'), [
      ...bare,
      mask('h.0.attn.bias'),
      { ...mask('h.0.attn.masked_bias'), shape: [4] },
    ]);
    await expectGoldenLogits(await AutoModelForCausalLM.fromPretrained(folder, { dtype: 'f32' }));
  });

  test('a wrong name is still an error', async () => {
    const folder = newFolder();
    cpSync(join(dir, 'config.json'), join(folder, 'config.json'));
    cpSync(join(dir, 'model.safetensors'), join(folder, 'model.safetensors'));
    const more = { ...config, n_layer: 3 };
    writeFileSync(join(folder, 'config.json'), JSON.stringify(more));
    await expect(AutoModelForCausalLM.fromPretrained(folder)).rejects.toThrow(
      /missing tensors 'transformer\.h\.2\.ln_1\.weight'/,
    );
  });

  test('saved weights are the bytes that were loaded', async () => {
    const folder = newFolder();
    const model = await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    await model.savePretrained(folder);
    await model.close();
    const [before, after] = [await openCheckpoint(dir), await openCheckpoint(folder)];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [name, source] of before)
      expect(
        Buffer.compare(
          Buffer.from(await readTensorBytes(source)),
          Buffer.from(await readTensorBytes(after.get(name)!)),
        ),
      ).toBe(0);
    const saved = readFileSync(join(folder, 'config.json'), 'utf8');
    expect(saved).toContain('"resid_pdrop": 0.0');
  });
});

describe('LoRA', () => {
  test('is put on c_attn, survives a round trip and merges into the [in, out] weight', async () => {
    const [adapter, merged] = [newFolder(), newFolder()];
    const model = getPeftModel(
      await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' }),
      new LoraConfig({ r: 4, initLoraWeights: false }),
    );
    expect(model.trainableParameters().map((p) => [p.name, p.shape])).toEqual(
      [0, 1].flatMap((i) => [
        [`base_model.model.transformer.h.${i}.attn.c_attn.lora_A.weight`, [4, 48]],
        [`base_model.model.transformer.h.${i}.attn.c_attn.lora_B.weight`, [144, 4]],
      ]),
    );
    const { logits } = await runRows(model, rows);
    expect(maxDifference(logits, await expectedLogits())).toBeGreaterThan(1e-2);
    await model.savePretrained(adapter);
    await saveMerged(model, merged);
    await model.close();
    expect(
      readJson<{ fan_in_fan_out: boolean; target_modules: string[] }>(adapter, 'adapter_config.json'),
    ).toMatchObject({ fan_in_fan_out: true, target_modules: ['c_attn'] });

    for (const again of [
      await PeftModel.fromPretrained(await AutoModelForCausalLM.fromPretrained(dir, { dtype: 'f32' }), adapter),
      await AutoModelForCausalLM.fromPretrained(merged, { dtype: 'f32' }),
    ]) {
      expect(maxDifference((await runRows(again, rows)).logits, logits)).toBeLessThan(1e-4);
      await again.close();
    }
  });
});

describe('config', () => {
  const logitsWith = async (change: Record<string, unknown>) => {
    const folder = newFolder();
    cpSync(dir, folder, { recursive: true });
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...change }));
    const model = await AutoModelForCausalLM.fromPretrained(folder, { dtype: 'f32' });
    const { logits } = await runRows(model, rows);
    await model.close();
    return logits;
  };

  test.each([
    { scale_attn_by_inverse_layer_idx: true },
    { scale_attn_weights: false },
    { activation_function: 'relu' },
  ])('%p changes the result', async (change) => {
    expect(maxDifference(await logitsWith(change), await expectedLogits())).toBeGreaterThan(1e-3);
  });

  test('reorder_and_upcast_attn does not', async () => {
    expect(maxDifference(await logitsWith({ reorder_and_upcast_attn: true }), await expectedLogits())).toBeLessThan(
      1e-4,
    );
  });

  test('an empty one is GPT-2 small, with a note on attention dropout', () => {
    const model = buildModel({ model_type: 'gpt2' }, { dtype: 'f32' });
    const count = [...model.parameters().values()].reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
    expect(count).toBe(124_439_808);
    expect(model.notes).toEqual([expect.stringContaining('attn_pdrop 0.1 is not applied')]);
    expect(buildModel(config, { dtype: 'f32' }).notes).toEqual([]);
  });

  test.each([
    ['openai-community/gpt2', 124_439_808],
    ['openai-community/gpt2-medium', 354_823_168],
    ['openai-community/gpt2-large', 774_030_080],
    ['openai-community/gpt2-xl', 1_557_611_200],
  ])('%s has %i parameters', (name, parameters) => {
    const model = buildModel(knownConfig(name)!, { dtype: 'f32' });
    expect([...model.parameters().values()].reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0)).toBe(
      parameters,
    );
  });

  test('projections into the residual start smaller', () => {
    const model = buildModel({ model_type: 'gpt2' }, { dtype: 'f32' });
    const std = (name: string) => (model.parameters().get(name)!.init as { std: number }).std;
    expect(std('transformer.h.0.attn.c_attn.weight')).toBe(0.02);
    expect(std('transformer.h.0.attn.c_proj.weight')).toBeCloseTo(0.02 / Math.sqrt(24), 12);
    expect(std('transformer.h.11.mlp.c_proj.weight')).toBeCloseTo(0.02 / Math.sqrt(24), 12);
  });

  test.each([
    [{ add_cross_attention: true }, /add_cross_attention/],
    [{ n_head: 5 }, /n_embd 48 is not a multiple of n_head 5/],
    [{ activation_function: 'quick_gelu' }, /activation_function 'quick_gelu'/],
    [{ resid_pdrop: 1 }, /resid_pdrop/],
  ])('%p is refused', (change, message) => {
    expect(() => buildModel({ ...config, ...change }, { dtype: 'f32' })).toThrow(message);
  });
});

describe('dropout', () => {
  const sites = (change: Record<string, unknown>, rng: boolean) => {
    const model = buildModel({ ...config, ...change }, { dtype: 'f32' });
    const graph = trace('forward', () => {
      const i32 = (name: string, n: number) => input(name, [n], 'i32');
      output(
        'x',
        model.forward({
          inputIds: i32('ids', 8),
          positionIds: i32('positions', 8),
          cuSeqlens: i32('cu', 2),
          rng: rng ? i32('rng', 4) : null,
        }),
      );
    });
    return graph.nodes.filter((node) => node.op?.name === 'dropout');
  };

  test('acts on embeddings and both branches of a block, each at a site of its own, and only in training', () => {
    const all = sites({ embd_pdrop: 0.1, resid_pdrop: 0.2, attn_pdrop: 0.3 }, true);
    expect(all.map((node) => node.attributes.p)).toEqual([0.1, 0.2, 0.2, 0.2, 0.2]);
    expect(
      new Set(all.map((node) => `${node.attributes.site_hi as number}:${node.attributes.site_lo as number}`)).size,
    ).toBe(5);
    expect(sites({ embd_pdrop: 0.1, resid_pdrop: 0.2 }, false)).toEqual([]);
    expect(sites({ attn_pdrop: 0.3 }, true)).toEqual([]);
  });
});
