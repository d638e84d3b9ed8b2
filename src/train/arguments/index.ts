/**
 * The configuration of a run: read from a YAML file written for `trl sft --config`, from flags, or from the API; validated
 * once, frozen, and echoed into every checkpoint.
 *
 * Names are snake_case in files and flags and camelCase in the API. See keys-*.ts for every key, docs/configuration.md for
 * the generated list.
 */

import { entriesFromObject, parseOverrides, readConfigFile } from './entries';
import type { CamelValues, KeyValues } from './keys';
import { resolveEntries } from './resolve';
import type { DefaultsOf, ResolvedConfig } from './resolve';

export { optimizerKind } from './derive';
export { parseConfigText, parseOverrides, readConfigFile } from './entries';
export type { Entry } from './entries';
export type { MixtureMember } from './keys-data';
export type { RowFilter } from './keys-lathe';
export type { OptimizerKind, OptimizerName } from './keys-training';
export { configToJson, resolveEntries } from './resolve';
export type { DefaultsOf, ResolvedConfig } from './resolve';
export { stepInterval } from './steps';

/** What the API takes: any subset of the keys, in camelCase or snake_case. */
export type ConfigInput = Partial<CamelValues> | Partial<KeyValues>;

/** Reads a YAML file and applies overrides (`key=value`, `--key value`, ...) on top. `path` may be null: overrides only. */
export function loadConfig(
  path: string | null,
  overrides: readonly string[] = [],
  defaultsOf: DefaultsOf = 'SFTConfig',
): ResolvedConfig {
  return resolveEntries([...(path === null ? [] : readConfigFile(path)), ...parseOverrides(overrides)], defaultsOf);
}

/** A configuration from a plain object; also the inverse of `configToJson`. */
export function configFromObject(object: ConfigInput, defaultsOf: DefaultsOf = 'SFTConfig'): ResolvedConfig {
  return resolveEntries(entriesFromObject(object), defaultsOf);
}

/** `new SFTConfig({ outputDir: 'out', maxSteps: 100 })`: TRL's defaults. Frozen; its fields are `ResolvedConfig`'s. */
// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging -- the constructor assigns every field
export class SFTConfig {
  constructor(input: ConfigInput = {}) {
    Object.assign(this, configFromObject(input, 'SFTConfig'));
    Object.freeze(this);
  }
}
// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging, @typescript-eslint/no-empty-object-type
export interface SFTConfig extends ResolvedConfig {}

/** The same with transformers' own defaults (learning rate 5e-5, logging every 500 steps, fp32, no recomputation). */
// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging -- the constructor assigns every field
export class TrainingArguments {
  constructor(input: ConfigInput = {}) {
    Object.assign(this, configFromObject(input, 'TrainingArguments'));
    Object.freeze(this);
  }
}
// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging, @typescript-eslint/no-empty-object-type
export interface TrainingArguments extends ResolvedConfig {}
