/**
 * One configuration key: its type, its default, where it comes from and what this engine does with it.
 *
 * The tables in keys-*.ts are the single source for parsing, defaults, errors, the typed `ResolvedConfig`, the JSON Schema
 * and the generated page docs/configuration.md. Names and defaults are those of transformers' TrainingArguments and TRL's SFTConfig,
 * ModelConfig, ScriptArguments and DatasetMixtureConfig (checked against a dump of those classes in test/golden/arguments).
 */

import type { ValueType } from './value-types';

/** The dataclass a key belongs to; `lathe` marks our own, `trl` the ones TRL's command line itself reads. */
export type KeySource =
  'TrainingArguments' | 'SFTConfig' | 'ModelConfig' | 'ScriptArguments' | 'DatasetMixtureConfig' | 'trl' | 'lathe';

/**
 * supported: does what it says. ignored: accepted, and leaving it out changes no result; a note says why when it is set.
 * unsupported: refused (ERR_UNSUPPORTED) when set to anything but the default.
 */
export type Support = 'supported' | 'ignored' | 'unsupported';

export interface KeyDefinition<T = unknown> {
  readonly type: ValueType<T>;
  /** TRL's default (SFTConfig over TrainingArguments), or ours for our own keys. */
  readonly default: T;
  /** TrainingArguments' own default, where SFTConfig overrides it. */
  readonly trainingDefault?: T;
  readonly source: KeySource;
  readonly doc: string;
  readonly support: Support;
  /** For ignored keys why it changes nothing; for unsupported ones what to do instead. */
  readonly note?: string;
  /** Single values that are refused, each with what to do instead. */
  readonly refused?: Readonly<Record<string, string>>;
}

interface Extra<T> {
  trainingDefault?: T;
  refused?: Readonly<Record<string, string>>;
}

/** `NoInfer` keeps a literal default (`'linear'`, `null`) from narrowing or widening the key's type. */
export function supported<T>(
  type: ValueType<T>,
  defaultValue: NoInfer<T>,
  source: KeySource,
  doc: string,
  extra: Extra<NoInfer<T>> = {},
): KeyDefinition<T> {
  return { type, default: defaultValue, source, doc, support: 'supported', ...extra };
}

export function ignored<T>(
  type: ValueType<T>,
  defaultValue: NoInfer<T>,
  source: KeySource,
  doc: string,
  note: string,
): KeyDefinition<T> {
  return { type, default: defaultValue, source, doc, support: 'ignored', note };
}

export function unsupported<T>(
  type: ValueType<T>,
  defaultValue: NoInfer<T>,
  source: KeySource,
  doc: string,
  note: string,
): KeyDefinition<T> {
  return { type, default: defaultValue, source, doc, support: 'unsupported', note };
}

/** `adam_beta1` -> `adamBeta1`, `load_in_4bit` -> `loadIn4bit`. */
export type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : S;

export function camelCase<S extends string>(name: S): CamelCase<S> {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()) as CamelCase<S>;
}
