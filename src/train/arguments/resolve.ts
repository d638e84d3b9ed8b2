/**
 * From entries to a configuration: names, types, defaults, support, and the checks across keys.
 *
 * The result is validated once, frozen all the way down, and echoed into checkpoints (`configToJson`), from which the same
 * configuration resolves again. What was accepted without effect stands in `notes`. All refusals are ERR_CONFIG, except
 * ERR_UNSUPPORTED for things this engine knows of and does not do.
 */

import { isDeepStrictEqual } from 'node:util';
import { LatheError, nearest } from '../../errors';
import { applyDerivedValues } from './derive';
import type { DerivedValues } from './derive';
import type { Entry } from './entries';
import { camelCase } from './key';
import type { KeyDefinition } from './key';
import type { CamelValues, KeyName, KeyValues } from './keys';
import { findKey, KEY_NAMES, KEYS } from './keys';
import { RETIRED, RETIRED_VALUES, retiredError } from './retired';
import { describeValue } from './value-types';

/** Which class's defaults hold where two differ: TRL's SFTConfig, or transformers' TrainingArguments. */
export type DefaultsOf = 'SFTConfig' | 'TrainingArguments';

export type ResolvedConfig = Readonly<Omit<CamelValues, keyof DerivedValues> & DerivedValues> & {
  /** What was accepted but changes nothing, or was renamed; one sentence each, for printing at the start of a run. */
  readonly notes: readonly string[];
};

interface Given {
  value: unknown;
  at: string;
}

/** Where a value was given, for errors of the cross-field checks. */
export type Where = (...keys: KeyName[]) => string | undefined;

export function resolveEntries(entries: readonly Entry[], defaultsOf: DefaultsOf = 'SFTConfig'): ResolvedConfig {
  const notes: string[] = [];
  const given = collect(entries, notes);
  const values: Record<string, unknown> = {};
  for (const name of KEY_NAMES) {
    const entry = given.get(name);
    values[name] = entry ? entry.value : defaultFor(name, defaultsOf);
    if (entry) checkSupport(name, entry, defaultsOf, notes);
  }
  const where: Where = (...keys) => keys.map((key) => given.get(key)?.at).find((at) => at !== undefined);
  const derived = applyDerivedValues(values as unknown as KeyValues, new Set(given.keys()), where, notes);
  const config: Record<string, unknown> = { notes };
  for (const [name, value] of Object.entries(derived)) config[camelCase(name)] = value;
  return deepFreeze(config) as unknown as ResolvedConfig;
}

function defaultFor(name: KeyName, defaultsOf: DefaultsOf): unknown {
  const key = KEYS[name];
  const value = defaultsOf === 'TrainingArguments' && 'trainingDefault' in key ? key.trainingDefault : key.default;
  return structuredClone(value);
}

/**
 * Renames, finds and validates every entry. Sources (file, then flags) override each other in order. Within one source a current
 * spelling wins over a retired one, unless it only repeats the default (`warmup_steps: 0` beside `warmup_ratio: 0.1`).
 */
function collect(entries: readonly Entry[], notes: string[]): Map<KeyName, Given> {
  const given = new Map<KeyName, Given>();
  for (const origin of new Set(entries.map((entry) => entry.origin))) {
    const current = new Map<KeyName, Given>();
    const retired = new Map<KeyName, Given>();
    for (const entry of entries.filter((candidate) => candidate.origin === origin)) {
      const renamed = rename(entry, notes);
      if (renamed === 'dropped') continue;
      const name = renamed ? renamed.to : findKey(entry.key);
      if (name === undefined) throw unknownKey(entry);
      const value = validate(name, renamed ? renamed.entry : entry, notes);
      // On a command line the last one counts; in a file or an object nobody can tell which is meant.
      const twice = origin !== 'flag' && !renamed ? current.get(name) : undefined;
      if (twice) {
        throw new LatheError(
          'ERR_CONFIG',
          `expected ${name} once, received it under two spellings (the other one at ${twice.at})`,
          { at: entry.keyAt ?? entry.at, remedy: 'keep one of the two' },
        );
      }
      (renamed ? retired : current).set(name, { value, at: entry.at });
    }
    for (const [name, entry] of current) given.set(name, entry);
    for (const [name, entry] of retired) {
      const rival = current.get(name);
      if (!rival || isDeepStrictEqual(rival.value, KEYS[name].default)) given.set(name, entry);
      else if (!isDeepStrictEqual(rival.value, entry.value))
        notes.push(`the value at ${entry.at} is left aside: ${name} is given as well (${rival.at})`);
    }
  }
  return given;
}

function rename(entry: Entry, notes: string[]): { entry: Entry; to: KeyName } | 'dropped' | undefined {
  const spelling = entry.key.replaceAll('-', '_').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  if (findKey(entry.key) !== undefined || !Object.hasOwn(RETIRED, spelling)) return undefined;
  const rule = RETIRED[spelling];
  if ('dropped' in rule) {
    notes.push(`${entry.key} has no effect: ${rule.dropped}`);
    return 'dropped';
  }
  const converted = rule.convert ? rule.convert(entry.value) : { value: entry.value };
  if ('error' in converted) {
    throw new LatheError('ERR_CONFIG', retiredError(entry.key, rule.to, converted.error, entry.value), {
      at: entry.at,
      remedy: `write ${rule.to} instead`,
    });
  }
  if ('skip' in converted) return 'dropped';
  notes.push(`${entry.key} is a retired spelling: write ${rule.to}${rule.note ? ` (${rule.note})` : ''}`);
  return { entry: { ...entry, value: converted.value }, to: rule.to };
}

function unknownKey(entry: Entry): LatheError {
  const isCamel = /[A-Z]/.test(entry.key);
  const names = isCamel ? KEY_NAMES.map((name): string => camelCase(name)) : [...KEY_NAMES, ...Object.keys(RETIRED)];
  const guess = nearest(entry.key.replaceAll('-', '_'), names);
  return new LatheError('ERR_CONFIG', `expected a configuration key, received unknown ${JSON.stringify(entry.key)}`, {
    at: entry.keyAt ?? entry.at,
    remedy: guess ? `did you mean ${guess}?` : 'remove it; docs/configuration.md lists every key',
  });
}

function validate(name: KeyName, entry: Entry, notes: string[]): unknown {
  const { type } = KEYS[name];
  let value = type.coerce(entry.value);
  const renamedValue = typeof value === 'string' ? RETIRED_VALUES[name]?.[value] : undefined;
  if (renamedValue !== undefined) {
    notes.push(`${name}: ${String(value)} is a retired spelling: write ${renamedValue}`);
    value = renamedValue;
  }
  const result = type.schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = issue.path.map((part) => (typeof part === 'number' ? part : String(part)));
  const { choices } = type;
  const item: unknown = Array.isArray(value) && typeof path[0] === 'number' ? value[path[0]] : value;
  const inside =
    path.length === 0
      ? undefined
      : choices
        ? `${name}.${path[0]}: expected one of ${choices.join(', ')}, received ${describeValue(item)}`
        : `${name}.${path.join('.')}: ${issue.message}`;
  const guess = choices && typeof item === 'string' ? nearest(item, choices) : undefined;
  throw new LatheError('ERR_CONFIG', inside ?? `${name}: expected ${type.expected}, received ${received(entry)}`, {
    at: path.length > 0 ? (entry.atPath?.(path) ?? entry.at) : entry.at,
    remedy: guess ? `did you mean ${guess}?` : `write ${type.expected}`,
  });
}

/** On the command line everything is text, so a number is not called one. */
function received({ origin, value }: Entry): string {
  const isNumber = typeof value === 'string' && value.trim() !== '' && !Number.isNaN(Number(value));
  return origin === 'flag' && isNumber ? value : describeValue(value);
}

/** The empty forms people write for "not set". */
function isUnset(value: unknown, key: KeyDefinition): boolean {
  if (isDeepStrictEqual(value, key.default)) return true;
  return (
    key.default === null &&
    (value === '' || value === false || isDeepStrictEqual(value, []) || isDeepStrictEqual(value, {}))
  );
}

function checkSupport(name: KeyName, { value, at }: Given, defaultsOf: DefaultsOf, notes: string[]): void {
  const key = KEYS[name];
  if (isUnset(value, key) || isDeepStrictEqual(value, defaultFor(name, defaultsOf))) return;
  if (key.support === 'ignored') notes.push(`${name} has no effect: ${key.note ?? ''}`);
  const refused = typeof value === 'string' ? key.refused?.[value] : undefined;
  if (key.support !== 'unsupported' && refused === undefined) return;
  throw new LatheError('ERR_UNSUPPORTED', `${name}: ${describeValue(value)} is not supported`, {
    at,
    remedy: refused ?? key.note,
  });
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const item of Object.values(value)) deepFreeze(item);
  }
  return value;
}

/** Never written to disk: they hold tokens and keys. */
const SECRET: readonly KeyName[] = ['hub_token', 'env'];

/** The configuration under its file names, as JSON values without secrets; `configFromObject` gives the same one back. */
export function configToJson(config: ResolvedConfig): Record<string, unknown> {
  const camel = config as unknown as Record<string, unknown>;
  const names = KEY_NAMES.filter((name) => !SECRET.includes(name));
  return Object.fromEntries(names.map((name) => [name, camel[camelCase(name)]]));
}
