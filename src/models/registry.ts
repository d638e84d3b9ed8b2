/** Finds a model family by config.json's `model_type`. Adding an architecture: its file and one line here. */
import { LatheError, nearest } from '../errors';
import type { BuildOptions, CausalLm, ModelFamily } from './causal-lm';
import type { RawConfig } from './config-reader';
import { llama } from './llama';

const FAMILIES: readonly ModelFamily[] = [llama];

export const MODEL_TYPES: readonly string[] = FAMILIES.map((f) => f.modelType);

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
