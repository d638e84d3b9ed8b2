/**
 * Where configuration values come from: a YAML file, command-line overrides, or a JavaScript object. Each value becomes an
 * `Entry` that remembers its place, so that every later error can point at `train.yaml:3:16` or at the flag.
 *
 * Later entries override earlier ones. Only syntax is checked here; names and types are resolve.ts's business.
 */

import { readFileSync } from 'node:fs';
import type { Node } from 'yaml';
import { LatheError } from '../../errors';
import { toIoError } from '../../io/io-error';
import { findKey, KEYS } from './keys';
import { RETIRED } from './retired';

export interface Entry {
  /** The key as it was written. */
  readonly key: string;
  readonly value: unknown;
  readonly origin: 'file' | 'flag' | 'object';
  /** `train.yaml:3:16`, `--learning_rate`, or `options.learningRate`. */
  readonly at: string;
  /** Place of the key itself, for one that is not known. */
  readonly keyAt?: string;
  /** A more exact place for a problem inside a nested value. */
  readonly atPath?: (path: readonly (string | number)[]) => string;
}

/** The entries of a YAML file. Fails with ERR_CONFIG when it cannot be read, is not YAML, or is not a mapping. */
export function readConfigFile(path: string): Entry[] {
  let source: string;
  try {
    source = readFileSync(path, 'utf8');
  } catch (cause) {
    throw toIoError(cause, 'read the configuration', path, 'ERR_CONFIG');
  }
  return parseConfigText(source, path);
}

/** The entries of YAML text; `name` stands for the file in errors. */
export function parseConfigText(source: string, name: string): Entry[] {
  // Loaded when there is a file: programs give objects.
  const { isMap, isNode, isScalar, LineCounter, parseDocument } = require('yaml') as typeof import('yaml');
  const lines = new LineCounter();
  const document = parseDocument(source, { lineCounter: lines, prettyErrors: false });
  const place = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${name}:${line}:${col}`;
  };
  const problem = document.errors[0];
  if (problem) {
    throw new LatheError('ERR_CONFIG', `expected YAML, received a syntax error: ${problem.message}`, {
      at: place(problem.pos[0]),
      remedy: problem.code === 'DUPLICATE_KEY' ? 'keep one of the two' : 'mend the line',
    });
  }
  const root = document.contents;
  if (root === null) return [];
  if (!isMap(root)) {
    throw new LatheError('ERR_CONFIG', 'expected a mapping of configuration keys, received something else', {
      at: `${name}:1:1`,
      remedy: 'write one `key: value` per line',
    });
  }
  return root.items.map((pair) => {
    const keyNode = pair.key as Node;
    const valueNode = pair.value as Node | null;
    const key = isScalar(keyNode) ? String(keyNode.value) : String(keyNode);
    const at = place((valueNode?.range ?? keyNode.range)?.[0] ?? 0);
    return {
      key,
      value: valueNode === null ? null : (valueNode.toJS(document) as unknown),
      origin: 'file' as const,
      at,
      keyAt: place(keyNode.range?.[0] ?? 0),
      atPath: (path) => {
        const node = document.getIn([key, ...path], true);
        return isNode(node) && node.range ? place(node.range[0]) : at;
      },
    };
  });
}

/** The entries of a plain object (snake_case or camelCase names). Undefined values count as absent, and so do the notes of a resolved configuration. */
export function entriesFromObject(object: Readonly<Record<string, unknown>>, name = 'options'): Entry[] {
  return Object.entries(object)
    .filter(([key, value]) => value !== undefined && key !== 'notes')
    .map(([key, value]) => ({
      key,
      value,
      origin: 'object' as const,
      at: `${name}.${key}`,
      atPath: (path) => [`${name}.${key}`, ...path].join('.'),
    }));
}

/**
 * Command-line overrides: `key=value`, `--key value`, `--key=value`, `--flag`, `--no-flag`, and `--list a b c`.
 * Dashes inside a name count as underscores. Fails with ERR_CONFIG on anything else.
 */
export function parseOverrides(args: readonly string[]): Entry[] {
  const entries: Entry[] = [];
  let i = 0;
  while (i < args.length) {
    const arg = args[i++];
    const assignment = /^(--)?([A-Za-z][\w-]*)=(.*)$/s.exec(arg);
    if (assignment) {
      const [, dashes = '', key, value] = assignment;
      entries.push(flagEntry(`${dashes}${key}`, snake(key), fromArgument(value)));
      continue;
    }
    if (!arg.startsWith('--') || arg.length === 2) {
      throw new LatheError('ERR_CONFIG', `expected key=value or --key value, received ${JSON.stringify(arg)}`, {
        at: `argument ${i}`,
        remedy: 'write overrides as learning_rate=1e-4 or --learning_rate 1e-4',
      });
    }
    const key = snake(arg.slice(2));
    const values: string[] = [];
    while (i < args.length && takesValue(key, values.length, args[i])) values.push(args[i++]);
    entries.push(
      values.length === 0
        ? bareFlag(arg, key)
        : flagEntry(arg, key, values.length === 1 ? fromArgument(values[0]) : values),
    );
  }
  return entries;
}

function flagEntry(at: string, key: string, value: unknown): Entry {
  return { key, value, origin: 'flag', at };
}

/** `--packing` and `--no-packing`. A `no_...` name that is a key itself (no_cuda) is not a negation. */
function bareFlag(at: string, key: string): Entry {
  const negated = key.startsWith('no_') && definition(key) === undefined;
  return flagEntry(at, negated ? key.slice(3) : key, !negated);
}

function snake(name: string): string {
  return name.replaceAll('-', '_');
}

/** A negative number is a value, `--x` is not. */
function isFlag(arg: string): boolean {
  return arg.startsWith('--') && arg.length > 2;
}

/** `null` and Python's `None` mean null; lower-case `none` is a value (report_to none). */
function fromArgument(value: string): unknown {
  return value === 'null' || value === 'None' || value === '~' ? null : value;
}

function definition(key: string) {
  const retired = Object.hasOwn(RETIRED, key) ? RETIRED[key] : undefined;
  const name = findKey(retired && 'to' in retired ? retired.to : key);
  return name === undefined ? undefined : KEYS[name];
}

/** Whether `next` belongs to `--key`, which has `taken` values so far. A flag takes only what reads as true or false. */
function takesValue(key: string, taken: number, next: string): boolean {
  if (isFlag(next)) return false;
  const type = definition(key)?.type;
  if (type === undefined) return taken === 0 && !next.includes('=');
  if (type.isFlag) return taken === 0 && type.schema.safeParse(type.coerce(next)).success;
  return taken === 0 || type.isList;
}
