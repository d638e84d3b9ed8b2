/** Saving an adapter and refusing broken ones. */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSafetensors, writeSafetensors, type TensorToWrite } from '../../../src/io/safetensors';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { readAdapter } from '../../../src/peft/load';
import { LoraConfig } from '../../../src/peft/lora-config';
import { saveAdapter } from '../../../src/peft/save';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { AutoPeftModelForCausalLM, getPeftModel, PeftModel } from '../../../src/pretrained/peft-model';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const BASE = join(GOLDEN, 'llama-tiny/tied');
const ADAPTER = join(BASE, 'adapter');
const rows = readJson<Rows>(BASE, 'inputs.json');
const out = temporaryFolder();
let next = 0;

const base = () => AutoModelForCausalLM.fromPretrained(BASE, { dtype: 'f32' });

/** A copy of the golden adapter with changed tensors or config. */
async function altered(change: {
  tensors?: (all: TensorToWrite[]) => TensorToWrite[];
  config?: Record<string, unknown>;
}): Promise<string> {
  const dir = join(out, `altered-${next++}`);
  cpSync(ADAPTER, dir, { recursive: true });
  const path = join(dir, 'adapter_model.safetensors');
  const all: TensorToWrite[] = [];
  for (const [name, source] of (await openSafetensors(path)).tensors)
    all.push({ name, dtype: 'F32', shape: source.shape, data: await readTensorBytes(source) });
  if (change.tensors) await writeSafetensors(path, change.tensors(all));
  if (change.config)
    writeFileSync(
      join(dir, 'adapter_config.json'),
      JSON.stringify({ ...readJson<object>(ADAPTER, 'adapter_config.json'), ...change.config }),
    );
  return dir;
}

const load = async (dir: string, o = {}) => PeftModel.fromPretrained(await base(), dir, o);

describe('saving', () => {
  test('an untrained adapter on a bf16 base: files, types, card', async () => {
    const model = getPeftModel(
      await AutoModelForCausalLM.fromPretrained(BASE, { dtype: 'bf16' }),
      new LoraConfig({ r: 4, targetModules: ['all-linear'], loraAlpha: 16, loraDropout: 0.1 }),
    );
    const dir = join(out, 'fresh');
    const { files, parameters } = await saveAdapter(model, dir);
    await model.close();
    expect(files.sort()).toEqual(['README.md', 'adapter_config.json', 'adapter_model.safetensors']);
    expect(parameters).toBe(2 * (4 * (64 + 64 + 64 + 32 + 64 + 32 + 64 + 64) + 4 * 3 * (64 + 96)));
    const text = readFileSync(join(dir, 'adapter_config.json'), 'utf8');
    expect(text.startsWith('{\n  "alpha_pattern": {},\n  "auto_mapping": null,\n')).toBe(true);
    expect(JSON.parse(text)).toMatchObject({
      base_model_name_or_path: BASE,
      peft_type: 'LORA',
      inference_mode: true,
      r: 4,
      lora_alpha: 16,
      target_modules: ['down_proj', 'gate_proj', 'k_proj', 'o_proj', 'q_proj', 'up_proj', 'v_proj'],
    });
    const { tensors, metadata } = await openSafetensors(join(dir, 'adapter_model.safetensors'));
    expect(metadata).toEqual({ format: 'pt' });
    expect(new Set([...tensors.values()].map((t) => t.dtype))).toEqual(new Set(['F32']));
    const a = new Float32Array(
      (await readTensorBytes(tensors.get('base_model.model.model.layers.0.mlp.down_proj.lora_A.weight')!)).buffer,
    );
    const bound = 1 / Math.sqrt(96);
    expect(Math.max(...a.map(Math.abs))).toBeLessThanOrEqual(bound);
    expect(Math.max(...a.map(Math.abs))).toBeGreaterThan(0.9 * bound);
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toContain('library_name: peft');

    // Untrained: refused for use, accepted for going on.
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('every lora_B is zero') as string,
    });
    const again = await load(dir, { isTrainable: true });
    expect(again.trainableParameters()).toHaveLength(28);
  });

  test('a card that somebody wrote stays', async () => {
    const dir = join(out, 'fresh-card');
    cpSync(ADAPTER, dir, { recursive: true });
    writeFileSync(join(dir, 'README.md'), 'mine');
    const model = await load(ADAPTER);
    await saveAdapter(model, dir);
    await model.close();
    expect(readFileSync(join(dir, 'README.md'), 'utf8')).toBe('mine');
  });

  test('without an adapter there is nothing to save', async () => {
    await expect(saveAdapter(await base(), join(out, 'none'))).rejects.toMatchObject({ code: 'ERR_CONFIG' });
  });

  test('the line PEFT prints', async () => {
    const model = getPeftModel(await base(), new LoraConfig({ r: 2, targetModules: ['q_proj'] }));
    const print = jest.spyOn(console, 'log').mockImplementation(() => undefined);
    expect(model.printTrainableParameters()).toBe('trainable params: 512 || all params: 72,512 || trainable%: 0.7061');
    expect(print).toHaveBeenCalledTimes(1);
    print.mockRestore();
  });
});

describe('opening', () => {
  test('with the base that the adapter names', async () => {
    const dir = await altered({ config: { base_model_name_or_path: BASE } });
    const model = await AutoPeftModelForCausalLM.fromPretrained(dir, { dtype: 'f32' });
    const { logits } = await runRows(model, rows);
    expect(maxDifference(logits, await goldenRows(join(BASE, 'adapter-golden.safetensors')))).toBeLessThan(1e-4);
    await model.close();
    await expect(AutoPeftModelForCausalLM.fromPretrained(ADAPTER)).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining('llama-tiny/tied') as string,
    });
  });

  test('another base: a warning when only the name differs, an error when shapes do', async () => {
    const warnings: string[] = [];
    const other = await altered({ config: { base_model_name_or_path: 'somebody/else' } });
    await load(other, { onWarning: (message: string) => warnings.push(message) });
    expect(warnings).toEqual([expect.stringContaining("trained on 'somebody/else'")]);
    const biased = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny/llama3'), { dtype: 'f32' });
    await expect(PeftModel.fromPretrained(biased, ADAPTER, { onWarning: () => undefined })).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringMatching(/lora_[AB]\.weight' expected shape \[\d+, \d+\], received \[\d+, \d+\]/) as string,
    });
  });

  test('a missing and an extra tensor are named', async () => {
    const name = 'base_model.model.model.layers.1.mlp.up_proj.lora_B.weight';
    const missing = await altered({ tensors: (all) => all.filter((t) => t.name !== name) });
    await expect(load(missing)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining(`missing tensor '${name}'`) as string,
    });
    const extra = await altered({
      tensors: (all) => [...all, { ...all[0], name: name.replace('layers.1', 'layers.7') }],
    });
    await expect(load(extra)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining("unexpected tensor 'base_model.model.model.layers.7.") as string,
    });
    const foreign = await altered({ tensors: (all) => [...all, { ...all[0], name: 'layers.0.q.lora_a' }] });
    await expect(load(foreign)).rejects.toMatchObject({
      message: expect.stringContaining("'layers.0.q.lora_a'") as string,
    });
  });

  test('an adapter that does nothing is refused', async () => {
    const zeros = await altered({
      tensors: (all) =>
        all.map((t) => (t.name.includes('lora_B') ? { ...t, data: new Uint8Array((t.data as Uint8Array).length) } : t)),
    });
    await expect(readAdapter(zeros)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('every lora_B is zero') as string,
    });
    // -0 is zero, too.
    const negative = await altered({
      tensors: (all) =>
        all.map((t) =>
          t.name.includes('lora_B')
            ? { ...t, data: Uint8Array.from(t.data as Uint8Array, (_, i) => (i % 4 === 3 ? 0x80 : 0)) }
            : t,
        ),
    });
    await expect(readAdapter(negative)).rejects.toMatchObject({ code: 'ERR_CHECKPOINT' });
    const nowhere = await altered({ config: { target_modules: ['c_attn'] } });
    await expect(load(nowhere)).rejects.toMatchObject({
      code: 'ERR_CONFIG',
      message: expect.stringContaining("'c_attn' match no linear module") as string,
    });
  });

  test('a damaged archive, a missing file, a model folder and a broken config', async () => {
    const bare = await altered({});
    rmSync(join(bare, 'adapter_model.safetensors'));
    writeFileSync(join(bare, 'adapter_model.bin'), 'PK');
    await expect(readAdapter(bare)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringContaining('expected a zip directory') as string,
    });
    rmSync(join(bare, 'adapter_model.bin'));
    await expect(readAdapter(bare)).rejects.toMatchObject({
      message: expect.stringContaining('expected adapter_model.safetensors, found none') as string,
    });
    await expect(readAdapter(BASE)).rejects.toMatchObject({
      message: expect.stringContaining('this is a whole model') as string,
    });
    await expect(readAdapter(join(out, 'nowhere'))).rejects.toMatchObject({ code: 'ERR_CONFIG' });
    const broken = await altered({});
    writeFileSync(join(broken, 'adapter_config.json'), '{"r": 4');
    await expect(readAdapter(broken)).rejects.toMatchObject({
      code: 'ERR_FORMAT',
      message: expect.stringContaining('not valid JSON') as string,
    });
  });

  test('two different embeddings do not fit a tied model', async () => {
    const variant = join(GOLDEN, 'peft-variants/resized-untied');
    const dir = join(out, 'untied-on-tied');
    cpSync(variant, dir, { recursive: true });
    writeFileSync(
      join(dir, 'adapter_config.json'),
      JSON.stringify({
        ...readJson<object>(variant, 'adapter_config.json'),
        base_model_name_or_path: 'llama-tiny/tied',
      }),
    );
    await expect(load(dir)).rejects.toMatchObject({
      code: 'ERR_CHECKPOINT',
      message: expect.stringContaining('tied to its embedding') as string,
    });
  });
});
