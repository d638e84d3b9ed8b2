/** What commands that generate have in common: a model, an adapter and a tokenizer from flags, and numbers from flags. */
import { LatheError } from '../errors';
import { resolveRepo } from '../io/hub';
import { AutoModelForCausalLM, type FromPretrainedOptions } from '../pretrained/auto';
import type { PreTrainedModel } from '../pretrained/model';
import { PeftModel } from '../pretrained/peft-model';
import { BitsAndBytesConfig } from '../quantization/bitsandbytes';
import type { Tokenizer } from '../tokenizers/tokenizer';
import { openTokenizerAt } from '../train/setup';
import { describeDevice, warn } from './output';

/** Flags as commander gives them. */
export type Flags = Readonly<Record<string, unknown>>;

/** Opens --model (a folder, a GGUF file or a Hub name) with --adapter, --dtype, --device, --threads and --load-in-4bit. */
export async function openFromFlags(o: Flags): Promise<{ model: PreTrainedModel; tokenizer: Tokenizer }> {
  const path = await resolveRepo(o.model as string, 'model');
  const adapter = o.adapter as string | undefined;
  const model = await AutoModelForCausalLM.fromPretrained(path, {
    dtype: o.dtype as FromPretrainedOptions['dtype'],
    device: o.device as string,
    threads: numberFlag(o, 'threads'),
    quantizationConfig: o.loadIn4bit
      ? new BitsAndBytesConfig({ loadIn4bit: true, bnb4bitQuantType: 'nf4', bnb4bitUseDoubleQuant: true })
      : undefined,
  });
  // Answers go to standard output, this beside them. The CPU is what anybody expects.
  if (o.device === 'auto' && model.device !== 'cpu') warn(`device: ${describeDevice(model.device)}`);
  if (adapter) await PeftModel.fromPretrained(model, adapter);
  return { model, tokenizer: await openTokenizerAt(path, adapter) };
}

/** End tokens of the files, else the tokenizer's. */
export function endTokens(model: PreTrainedModel, tokenizer: Tokenizer): number[] | undefined {
  const stored = model.generationConfig?.eos_token_id ?? model.config.eos_token_id;
  const ids = [stored, tokenizer.eosTokenId].flat().filter((id): id is number => typeof id === 'number');
  return ids.length ? [...new Set(ids)] : undefined;
}

/** A number; undefined when the flag is not given. Errors: ERR_CONFIG naming the flag. */
export function numberFlag(o: Flags, key: string): number | undefined {
  if (o[key] === undefined) return undefined;
  const value = Number(o[key]);
  if (Number.isFinite(value) && String(o[key]).trim() !== '') return value;
  throw new LatheError('ERR_CONFIG', `${flagName(key)} expected a number, received '${String(o[key])}'`);
}

/** A whole number of at least `low`. */
export function countFlag(o: Flags, key: string, low = 1): number | undefined {
  const value = numberFlag(o, key);
  if (value === undefined || (Number.isInteger(value) && value >= low)) return value;
  throw new LatheError(
    'ERR_CONFIG',
    `${flagName(key)} expected a whole number of at least ${low}, received '${String(o[key])}'`,
  );
}

/** `--max-new-tokens` of maxNewTokens. */
export function flagName(key: string): string {
  return `--${key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}`;
}
