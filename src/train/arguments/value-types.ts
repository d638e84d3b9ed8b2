/**
 * The value types of configuration keys: what a key accepts, how a value from YAML or a flag is brought into that
 * form, and how it is described in an error or in the JSON Schema.
 *
 * A value may arrive as a YAML scalar, as text from the command line, or as a JavaScript value from the API. `coerce`
 * accepts the spellings that argparse and PyYAML accept (`"1e-4"`, `yes`, a JSON object in a string) and leaves anything
 * else alone for `schema` to refuse. Invariant: `coerce` never throws, and coercing twice changes nothing.
 */

import type { z } from 'zod';

export interface ValueType<T> {
  readonly schema: z.ZodType<T>;
  /** `a number >= 0`: completes the sentence "expected ...". */
  readonly expected: string;
  /** The words that it, or each item of a list, may be. */
  readonly choices?: readonly string[];
  /** true: takes several arguments on the command line (`--key a b c`). */
  readonly isList: boolean;
  /** true: `--key` alone means true and `--no-key` false. */
  readonly isFlag: boolean;
  coerce(raw: unknown): unknown;
}

/** Zod, loaded when the first value is checked: with its schemas it is a tenth of a second of a program's start. */
export const zod = (): typeof z => (require('zod') as typeof import('zod')).z;

/** A type whose schema is made when it is first asked for. */
function typeOf<T>(make: () => z.ZodType<T>, rest: Omit<ValueType<T>, 'schema'>): ValueType<T> {
  let schema: z.ZodType<T> | undefined;
  return {
    ...rest,
    get schema() {
      return (schema ??= make());
    },
  };
}

export type ValueOf<V> = V extends ValueType<infer T> ? T : never;

const NUMBER = /^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?$/;
// prettier-ignore
const WORDS: Readonly<Record<string, boolean>> = {
  true: true, yes: true, on: true, y: true, t: true, '1': true,
  false: false, no: false, off: false, n: false, f: false, '0': false,
};

function coerceNumber(raw: unknown): unknown {
  return typeof raw === 'string' && NUMBER.test(raw.trim()) ? Number(raw.trim().replaceAll('_', '')) : raw;
}

interface Range {
  min?: number;
  /** The minimum itself is refused. */
  above?: number;
  max?: number;
  below?: number;
}

function rangeText(range: Range): string {
  const parts = [
    range.min === undefined ? '' : `>= ${range.min}`,
    range.above === undefined ? '' : `> ${range.above}`,
    range.max === undefined ? '' : `<= ${range.max}`,
    range.below === undefined ? '' : `< ${range.below}`,
  ].filter((part) => part !== '');
  return parts.length === 0 ? '' : ` ${parts.join(' and ')}`;
}

function withRange(schema: z.ZodNumber, range: Range): z.ZodNumber {
  let result = schema;
  if (range.min !== undefined) result = result.gte(range.min);
  if (range.above !== undefined) result = result.gt(range.above);
  if (range.max !== undefined) result = result.lte(range.max);
  if (range.below !== undefined) result = result.lt(range.below);
  return result;
}

export function number(range: Range = {}): ValueType<number> {
  return typeOf(() => withRange(zod().number(), range), {
    expected: `a number${rangeText(range)}`,
    isList: false,
    isFlag: false,
    coerce: coerceNumber,
  });
}

export function integer(range: Range = {}): ValueType<number> {
  return typeOf(() => withRange(zod().int(), range), {
    expected: `an integer${rangeText(range)}`,
    isList: false,
    isFlag: false,
    coerce: coerceNumber,
  });
}

export function flag(): ValueType<boolean> {
  return typeOf(() => zod().boolean(), {
    expected: 'true or false',
    isList: false,
    isFlag: true,
    coerce(raw) {
      const word = typeof raw === 'string' ? raw.toLowerCase() : typeof raw === 'number' ? String(raw) : '';
      return Object.hasOwn(WORDS, word) ? WORDS[word] : raw;
    },
  });
}

/** Text. A bare number in YAML (`run_name: 42`) is text too. */
export function text(): ValueType<string> {
  return typeOf(() => zod().string(), {
    expected: 'text',
    isList: false,
    isFlag: false,
    coerce: (raw) => (typeof raw === 'number' ? String(raw) : raw),
  });
}

/** One of a few words. YAML 1.1 readers turn a bare `no` into false; where `no` is a choice it means `no`. */
export function choice<const T extends string>(values: readonly T[]): ValueType<T> {
  const words: readonly string[] = values;
  return typeOf(() => zod().enum(values as readonly [T, ...T[]]) as unknown as z.ZodType<T>, {
    expected: `one of ${values.join(', ')}`,
    choices: values,
    isList: false,
    isFlag: false,
    coerce: (raw) => (raw === false && words.includes('no') ? 'no' : raw),
  });
}

/** A list of text. One word alone is a list of one; on the command line items follow each other or are joined by commas. */
export function textList(): ValueType<string[]> {
  return typeOf(() => zod().array(zod().string()), {
    expected: 'a list of text',
    isList: true,
    isFlag: false,
    coerce(raw) {
      const parsed = fromFlowText(raw);
      if (Array.isArray(parsed)) return parsed.map((item: unknown) => (typeof item === 'number' ? String(item) : item));
      return typeof parsed === 'string' ? parsed.split(',').map((item) => item.trim()) : parsed;
    },
  });
}

/** A list of words out of a few; spelt as a list of text. */
export function choices<const T extends string>(values: readonly T[]): ValueType<T[]> {
  const { coerce, isList, isFlag } = textList();
  return typeOf(() => zod().array(choice(values).schema), {
    expected: `a list out of ${values.join(', ')}`,
    choices: values,
    isList,
    isFlag,
    coerce,
  });
}

/** A mapping with free keys; a string holding JSON (as TRL's flags take it) is read as one. */
export function dictionary(): ValueType<Record<string, unknown>> {
  return typeOf(() => zod().record(zod().string(), zod().unknown()), {
    expected: 'a mapping',
    isList: false,
    isFlag: false,
    coerce: fromFlowText,
  });
}

/** A structured value given by its own schema. */
export function structured<T>(schema: () => z.ZodType<T>, expected: string): ValueType<T> {
  return typeOf(schema, { expected, isList: false, isFlag: false, coerce: fromFlowText });
}

export function nullable<T>(inner: ValueType<T>): ValueType<T | null> {
  return typeOf(() => inner.schema.nullable(), {
    expected: `${inner.expected}, or null`,
    choices: inner.choices,
    isList: inner.isList,
    isFlag: inner.isFlag,
    coerce: (raw) => (raw === null ? null : inner.coerce(raw)),
  });
}

/** The first of two types that takes the value. */
export function either<A, B>(first: ValueType<A>, second: ValueType<B>): ValueType<A | B> {
  return typeOf(() => zod().union([first.schema, second.schema]), {
    expected: `${first.expected}, or ${second.expected}`,
    isList: first.isList || second.isList,
    isFlag: first.isFlag || second.isFlag,
    coerce(raw) {
      const value = first.coerce(raw);
      return first.schema.safeParse(value).success ? value : second.coerce(raw);
    },
  });
}

/** `[a, b]` and `{"a": 1}` arriving as text are read as YAML flow collections (a superset of JSON). */
function fromFlowText(raw: unknown): unknown {
  if (typeof raw !== 'string' || !/^\s*[[{]/.test(raw)) return raw;
  try {
    return (require('yaml') as typeof import('yaml')).parse(raw) as unknown;
  } catch {
    return raw;
  }
}

/** `text "fast"`, `a list of 2`, `null`: the "received ..." half of an error. */
export function describeValue(value: unknown): string {
  if (value === null) return 'null';
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return `a mapping with ${Object.keys(value).length} keys`;
  if (typeof value === 'string')
    return `text ${JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value)}`;
  return `${typeof value} ${String(value)}`;
}
