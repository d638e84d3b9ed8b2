/** Adapter folders that PEFT wrote (scripts/golden/peft_variants.py): same results, same counts, and a faithful way back. */
import { join } from 'node:path';
import { openSafetensors } from '../../../src/io/safetensors';
import { readTensorBytes } from '../../../src/io/tensor-source';
import { trainableParameters } from '../../../src/peft/inject';
import { saveAdapter } from '../../../src/peft/save';
import { AutoModelForCausalLM } from '../../../src/pretrained/auto';
import { PeftModel } from '../../../src/pretrained/peft-model';
import { GOLDEN, goldenRows, maxDifference, readJson, runRows, temporaryFolder, type Rows } from '../../models/logits';

const ROOT = join(GOLDEN, 'peft-variants');
const variants = readJson<Record<string, { base: string; resized: number | null; trainable: number; all: number }>>(
  ROOT,
  'variants.json',
);
const out = temporaryFolder();

async function open(base: string, adapter: string, warnings: string[] = []) {
  const model = await AutoModelForCausalLM.fromPretrained(join(GOLDEN, 'llama-tiny', base), { dtype: 'f32' });
  return PeftModel.fromPretrained(model, adapter, {
    isTrainable: true,
    onWarning: (message) => warnings.push(message),
  });
}

describe.each(Object.entries(variants))('%s', (name, facts) => {
  const rows = readJson<Rows>(GOLDEN, 'llama-tiny', facts.base, 'inputs.json');

  test('computes what PEFT computes, and saves what loads again', async () => {
    const warnings: string[] = [];
    const model = await open(facts.base, join(ROOT, name), warnings);
    expect(warnings).toEqual([]);
    expect(model.vocabSize).toBe(facts.resized ?? 160);
    const { trainable, all } = trainableParameters(model.peft!);
    expect({ trainable, all }).toEqual({ trainable: facts.trainable, all: facts.all });

    const expected = await goldenRows(join(ROOT, name, 'golden.safetensors'));
    expect(maxDifference((await runRows(model, rows)).logits, expected)).toBeLessThan(1e-4);

    const dir = join(out, name);
    await saveAdapter(model, dir);
    await model.close();

    // The same keys and bytes, but for the two aliases that PEFT writes beside a resized, saved embedding.
    const theirs = (await openSafetensors(join(ROOT, name, 'adapter_model.safetensors'))).tensors;
    const ours = (await openSafetensors(join(dir, 'adapter_model.safetensors'))).tensors;
    const plain = [...theirs.keys()].filter((key) => !/\.(modules_to_save|original_module)\./.test(key));
    expect([...ours.keys()].sort()).toEqual(plain.sort());
    for (const key of plain)
      expect(Buffer.compare(await readTensorBytes(ours.get(key)!), await readTensorBytes(theirs.get(key)!))).toBe(0);

    const again = await open(facts.base, dir);
    expect(maxDifference((await runRows(again, rows)).logits, expected)).toBeLessThan(1e-4);
    await again.close();
  });
});
