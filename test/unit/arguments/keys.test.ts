/** The key tables against the real dataclasses of transformers and TRL (test/golden/arguments, dumped by scripts/golden/trl_keys.py). */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { camelCase } from '../../../src/train/arguments/key';
import type { KeyDefinition } from '../../../src/train/arguments/key';
import { findKey, KEY_GROUPS, KEY_NAMES, KEYS } from '../../../src/train/arguments/keys';
import { OPTIMIZERS } from '../../../src/train/arguments/keys-training';
import { RETIRED, RETIRED_VALUES } from '../../../src/train/arguments/retired';

interface Field {
  default: unknown;
  choices: string[] | null;
}

type Golden = Record<
  'TrainingArguments' | 'SFTConfig' | 'ModelConfig' | 'ScriptArguments' | 'DatasetMixtureConfig',
  Record<string, Field>
> & {
  optimizers: string[];
  schedules: string[];
};

const golden = JSON.parse(readFileSync(join(__dirname, '../../golden/arguments/trl-keys.json'), 'utf8')) as Golden;

function definitionOf(name: string): KeyDefinition {
  const key = findKey(name);
  if (key === undefined) throw new Error(`${name} is not in the tables`);
  return KEYS[key];
}

describe.each(['SFTConfig', 'ModelConfig', 'ScriptArguments', 'DatasetMixtureConfig'] as const)('%s', (className) => {
  const fields = Object.entries(golden[className]);

  test('has been dumped', () => {
    expect(fields.length).toBeGreaterThan(2);
  });

  test.each(fields)('%s is known, with the same default', (name, field) => {
    expect(definitionOf(name).default).toEqual(field.default);
  });

  test('takes the same choices', () => {
    for (const [name, field] of fields) {
      if (!field.choices) continue;
      const { schema } = definitionOf(name).type;
      expect([name, field.choices.filter((choice) => !schema.safeParse(choice).success)]).toEqual([name, []]);
      expect([name, schema.safeParse('no-such-choice').success]).toEqual([name, false]);
    }
  });
});

test.each(Object.entries(golden.TrainingArguments))('TrainingArguments.%s has the same default', (name, field) => {
  const key = definitionOf(name);
  expect('trainingDefault' in key ? key.trainingDefault : key.default).toEqual(field.default);
});

test('every optimizer and schedule name of transformers is known', () => {
  const { optim, lr_scheduler_type: schedule } = KEYS;
  expect(golden.optimizers.filter((name) => !optim.type.schema.safeParse(name).success)).toEqual([]);
  expect(golden.schedules.filter((name) => !schedule.type.schema.safeParse(name).success)).toEqual([]);
  const unaccounted = golden.optimizers.filter((name) => !(name in OPTIMIZERS) && !(name in (optim.refused ?? {})));
  expect(unaccounted).toEqual([]);
});

test('a key that claims a class of origin is a field of it', () => {
  const foreign = KEY_NAMES.filter((name) => {
    const { source } = KEYS[name];
    if (source === 'lathe' || source === 'trl') return false;
    return !(name in golden[source]);
  });
  expect(foreign).toEqual([]);
});

test('groups share no key, and camelCase names are unique', () => {
  const names = KEY_GROUPS.flatMap((group) => Object.keys(group.keys));
  expect(new Set(names).size).toBe(names.length);
  expect(names.length).toBe(KEY_NAMES.length);
  expect(new Set(names.map((name) => camelCase(name))).size).toBe(names.length);
  expect(camelCase('load_in_4bit')).toBe('loadIn4bit');
  expect(camelCase('bnb_4bit_quant_type')).toBe('bnb4bitQuantType');
});

test('every default is a valid value, and survives coercion', () => {
  for (const name of KEY_NAMES) {
    const { type, default: value } = KEYS[name];
    expect([name, type.schema.safeParse(type.coerce(value))]).toEqual([
      name,
      expect.objectContaining({ success: true }),
    ]);
    // Where one word or a list will do, the word becomes a list of one.
    expect([name, type.coerce(value)]).toEqual([name, type.isList && typeof value === 'string' ? [value] : value]);
  }
});

test('what is ignored or refused says why', () => {
  for (const name of KEY_NAMES) {
    const key = KEYS[name];
    if (key.support !== 'supported') expect([name, (key.note ?? '').length > 5]).toEqual([name, true]);
    expect([name, key.doc.length > 5]).toEqual([name, true]);
  }
});

test('retired spellings lead to current keys and hide none', () => {
  for (const [name, rule] of Object.entries(RETIRED)) {
    expect([name, findKey(name)]).toEqual([name, undefined]);
    if ('to' in rule) expect([name, findKey(rule.to)]).toEqual([name, rule.to]);
  }
  for (const [name, values] of Object.entries(RETIRED_VALUES)) {
    for (const now of Object.values(values))
      expect(KEYS[name as keyof typeof KEYS].type.schema.safeParse(now).success).toBe(true);
  }
});
