/** Finds a model family by config.json's `model_type`. Adding an architecture: its file and one line here. */
import { LatheError, nearest } from '../errors';
import type { BuildOptions, CausalLm, ModelFamily } from './causal-lm';
import type { RawConfig } from './config-reader';
import { gemma } from './gemma';
import { gpt2 } from './gpt2';
import { llama } from './llama';
import { mistral } from './mistral';
import { qwen2 } from './qwen2';
import { qwen3 } from './qwen3';

const FAMILIES: readonly ModelFamily[] = [llama, mistral, qwen2, qwen3, gemma, gpt2];

const MODEL_TYPES: readonly string[] = FAMILIES.map((f) => f.modelType);

/** A causal language model as a description, from a parsed config.json. */
export function buildModel(raw: RawConfig, options: BuildOptions, at = 'config.json'): CausalLm {
  const type = raw.model_type;
  const family = FAMILIES.find((f) => f.modelType === type);
  if (family) return family.build(raw, options);
  const guess = typeof type === 'string' ? nearest(type, MODEL_TYPES) : undefined;
  throw new LatheError('ERR_UNSUPPORTED', `model_type ${JSON.stringify(type)} is not supported`, {
    at,
    remedy: `use one of ${MODEL_TYPES.join(', ')}${guess ? ` (did you mean '${guess}'?)` : ''}`,
  });
}

/** A checkpoint's tensors by the model's parameter names; tensors that are no parameters are left out. */
export function canonicalNames<T>(raw: RawConfig, tensors: ReadonlyMap<string, T>): Map<string, T> {
  const rename = FAMILIES.find((f) => f.modelType === raw.model_type)?.checkpointName;
  const named = [...tensors].map(([key, tensor]): [string | null, T] => [rename ? rename(key) : key, tensor]);
  return new Map(named.filter((entry): entry is [string, T] => entry[0] !== null));
}
