/** All keys together, by group and by name. A new key goes into one of the group files; nothing here needs to change. */

import type { CamelCase, KeyDefinition } from './key';
import { camelCase } from './key';
import { dataKeys } from './keys-data';
import { deviceKeys } from './keys-device';
import { latheKeys } from './keys-lathe';
import { loraKeys, modelKeys, precisionKeys } from './keys-model';
import { evaluationKeys, loggingKeys, savingKeys } from './keys-reporting';
import { optimizerKeys, trainingKeys } from './keys-training';
import type { ValueOf } from './value-types';

export const KEY_GROUPS = [
  { title: 'Our own', keys: latheKeys },
  { title: 'Model', keys: modelKeys },
  { title: 'Adapters and quantisation', keys: loraKeys },
  { title: 'Data', keys: dataKeys },
  { title: 'Run', keys: trainingKeys },
  { title: 'Optimizer and schedule', keys: optimizerKeys },
  { title: 'Precision and memory', keys: precisionKeys },
  { title: 'Logging', keys: loggingKeys },
  { title: 'Evaluation', keys: evaluationKeys },
  { title: 'Saving', keys: savingKeys },
  { title: 'Devices and processes', keys: deviceKeys },
] as const;

const ALL = {
  ...latheKeys,
  ...modelKeys,
  ...loraKeys,
  ...dataKeys,
  ...trainingKeys,
  ...optimizerKeys,
  ...precisionKeys,
  ...loggingKeys,
  ...evaluationKeys,
  ...savingKeys,
  ...deviceKeys,
};

type Table = typeof ALL;
export type KeyName = keyof Table;
export type KeyValues = { [K in KeyName]: ValueOf<Table[K]['type']> };

export const KEYS: Readonly<Record<KeyName, KeyDefinition>> = ALL;
export const KEY_NAMES = Object.keys(ALL) as KeyName[];

const byCamelCase = new Map<string, KeyName>(KEY_NAMES.map((name) => [camelCase(name), name]));

/** The values of every key under its API name. */
export type CamelValues = { [K in KeyName as CamelCase<K>]: KeyValues[K] };

/** `learning_rate`, `learning-rate` or `learningRate` -> `learning_rate`; undefined when there is no such key. */
export function findKey(name: string): KeyName | undefined {
  const snake = name.replaceAll('-', '_');
  return Object.hasOwn(ALL, snake) ? (snake as KeyName) : byCamelCase.get(name);
}
