/** `lathe merge`: base + adapter -> one dense 16-bit model folder. */
import { existsSync, realpathSync } from 'node:fs';
import { LatheError } from '../errors';
import { resolveRepo } from '../io/hub';
import { MODEL_FILES } from '../io/model-files';
import { AutoModelForCausalLM } from '../pretrained/auto';
import { PeftModel } from '../pretrained/peft-model';
import { saveMerged } from '../pretrained/save';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { openTokenizerAt } from '../train/setup';
import { say } from './output';

export function floatDtype(name: string): 'f32' | 'bf16' {
  if (name === 'bfloat16' || name === 'bf16') return 'bf16';
  if (name === 'float32' || name === 'f32') return 'f32';
  throw new LatheError('ERR_CONFIG', `--dtype expected bfloat16 or float32, received '${name}'`);
}

/** @throws LatheError ERR_CONFIG when the result would take the place of what it is made from */
export function requireOtherFolder(output: string, input: string): void {
  if (!existsSync(output) || !existsSync(input) || realpathSync(output) !== realpathSync(input)) return;
  throw new LatheError(
    'ERR_CONFIG',
    'expected an output folder other than the input, received the same: the original weights would be lost',
    { at: output, remedy: 'choose another output folder' },
  );
}

export async function mergeCommand(o: {
  model: string;
  adapter: string;
  output: string;
  loadIn4bit?: boolean;
  dtype: string;
}): Promise<void> {
  const dtype = floatDtype(o.dtype);
  const path = await resolveRepo(o.model, 'model');
  requireOtherFolder(o.output, path);
  MODEL_FILES.check(o.output);
  const tokenizer = await openTokenizerAt(path, o.adapter);
  const model = await AutoModelForCausalLM.fromPretrained(path, {
    quantizationConfig: o.loadIn4bit
      ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true })
      : undefined,
  });
  try {
    await PeftModel.fromPretrained(model, o.adapter);
    const written = await saveMerged(model, o.output, { dtype, tokenizer });
    say(
      `merged ${o.adapter} into ${o.model}: ${written.totalParameters.toLocaleString('en-US')} parameters in ${o.output}`,
    );
  } finally {
    await model.close();
  }
}
