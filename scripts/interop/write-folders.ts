/**
 * Writes every kind of folder this package can save, with the logits it computes from each, so that `check_folders.py`
 * can load the same folders with transformers, peft and bitsandbytes and compare. Run by hand, not by `npm test`:
 *
 *   npx ts-node --transpile-only scripts/interop/write-folders.ts MODEL OUT     (MODEL: a folder or a .gguf file)
 *   python scripts/interop/check_folders.py OUT
 */
import { join } from 'node:path';
import { LoraConfig, type LoraOptions } from '../../src/peft/lora-config';
import { saveAdapter } from '../../src/peft/save';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';
import { convertModel } from '../../src/pretrained/convert';
import { getPeftModel, PeftModel } from '../../src/pretrained/peft-model';
import { saveMerged } from '../../src/pretrained/save';
import { BitsAndBytesConfig } from '../../src/quantization/bitsandbytes';
import { F32, perturb, Recorder } from './recorder';

const TARGETS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'];

async function main([source, out]: string[]): Promise<void> {
  if (!source || !out) throw new Error('usage: write-folders MODEL OUT');
  const recorder = new Recorder(out);
  const saved = (name: string): Promise<void> => recorder.saved(name);

  await convertModel(source, join(out, 'converted-f32'), { dtype: 'f32', maxShardBytes: 200e6 });
  await saved('converted-f32');
  await convertModel(source, join(out, 'converted-bf16'), { dtype: 'bf16' });
  await saved('converted-bf16');
  const base = join(out, 'converted-f32');

  const dense = await AutoModelForCausalLM.fromPretrained(base, { dtype: 'bf16' });
  await dense.savePretrained(join(out, 'saved-bf16'));
  await dense.close();
  await saved('saved-bf16');

  for (const [name, bnb4bitQuantType, bnb4bitUseDoubleQuant] of [
    ['bnb-nf4-nested', 'nf4', true],
    ['bnb-fp4', 'fp4', false],
  ] as const) {
    const quantizationConfig = new BitsAndBytesConfig({
      loadIn4bit: true,
      bnb4bitQuantType,
      bnb4bitUseDoubleQuant,
      bnb4bitComputeDtype: 'f32',
    });
    const model = await AutoModelForCausalLM.fromPretrained(base, { dtype: 'f32', quantizationConfig });
    await model.savePretrained(join(out, name));
    await model.close();
    await saved(name);
  }

  const adapter = async (name: string, lora: LoraOptions, rows?: number): Promise<void> => {
    const model = await AutoModelForCausalLM.fromPretrained(base, F32);
    if (rows) model.resizeTokenEmbeddings(rows);
    getPeftModel(model, new LoraConfig({ r: 8, loraAlpha: 16, targetModules: TARGETS, ...lora }));
    await perturb(model);
    await saveAdapter(model, join(out, name));
    await saveMerged(model, join(out, `${name}-merged`), { dtype: 'f32' });
    await model.close();
    await recorder.record(
      { name, kind: 'adapter', base: 'converted-f32', rows },
      await PeftModel.fromPretrained(await AutoModelForCausalLM.fromPretrained(base, F32), join(out, name)),
    );
    await saved(`${name}-merged`);
  };
  const vocab = (await AutoModelForCausalLM.fromPretrained(base)).vocabSize;
  await adapter('adapter', {});
  await adapter('adapter-saved', { targetModules: ['q_proj', 'v_proj'], modulesToSave: ['embed_tokens', 'lm_head'] });
  await adapter('adapter-tied', {
    targetModules: ['q_proj', 'v_proj'],
    modulesToSave: ['embed_tokens'],
    ensureWeightTying: true,
  });
  await adapter('adapter-resized', { targetModules: ['q_proj', 'v_proj'] }, vocab + 7);

  const resized = await AutoModelForCausalLM.fromPretrained(base, F32);
  resized.resizeTokenEmbeddings(vocab + 3, { padToMultipleOf: 8 });
  await resized.savePretrained(join(out, 'resized'));
  await resized.close();
  await saved('resized');

  recorder.finish();
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
