/**
 * The model's configuration agrees with the tokenizer on the special tokens: what transformers' Trainer does when a run begins
 * (`_align_special_tokens`). Rows end with the tokenizer's EOS, so a model saved with another one would be trained to stop and
 * never be stopped. Any end token that generation_config.json names stays one.
 */
import type { PreTrainedModel } from '../pretrained/model';

/** What is asked of a tokenizer. */
export interface SpecialTokenIds {
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
}

/** Takes over the ids that the tokenizer has and the model's files lack; returns the changed keys of config.json with their values. */
export function alignSpecialTokens(model: PreTrainedModel, tokenizer: SpecialTokenIds): Record<string, number> {
  const changed: Record<string, number> = {};
  const generation = model.origin.generationConfig;
  const updated: Record<string, unknown> = {};
  const { eosTokenId: eos } = tokenizer;
  if (eos !== undefined) {
    const ends = [generation?.eos_token_id ?? []].flat();
    if (
      model.config.eos_token_id !== eos &&
      !(Array.isArray(model.config.eos_token_id) && model.config.eos_token_id.includes(eos))
    )
      changed.eos_token_id = eos;
    if (generation && !ends.includes(eos)) updated.eos_token_id = ends.length ? [eos, ...ends] : eos;
  }
  for (const [key, id] of [
    ['bos_token_id', tokenizer.bosTokenId],
    ['pad_token_id', tokenizer.padTokenId],
  ] as const) {
    if (id === undefined) continue;
    if (model.config[key] !== id) changed[key] = id;
    if (generation && generation[key] !== id) updated[key] = id;
  }
  if (Object.keys(changed).length) model.config = { ...model.config, ...changed };
  if (generation && Object.keys(updated).length)
    model.origin = { ...model.origin, generationConfig: { ...generation, ...updated } };
  return changed;
}
