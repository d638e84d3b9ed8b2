/**
 * The rows of a configuration: one data set or a mixture, in memory or as a stream, after filter, split and limits.
 *
 * A stream keeps the same meaning where it can: its test split is read into memory (an evaluation visits the same rows each
 * time), rows that `test_split_size` sets aside are its first ones, and a shuffle goes through a buffer.
 */
import { join } from 'node:path';
import { LatheError } from '../errors';
import { Dataset, interleave, loadDataset, type IterableDataset, type LoadOptions, type Row } from '../data';
import { resolveRepo } from '../io/hub';
import type { ResolvedConfig, RowFilter } from './arguments';

export interface RunData<Train = Dataset | IterableDataset, Test = Dataset> {
  train: Train;
  test: Test | null;
}

type Warn = (message: string) => void;

/** Rows to train and to evaluate on. @throws LatheError ERR_CONFIG, ERR_DATA naming what is missing */
export function openData(config: ResolvedConfig, warn?: Warn): Promise<RunData> {
  return config.datasetStreaming ? openStreams(config, warn) : openTables(config, warn);
}

const reading = (config: ResolvedConfig, warn?: Warn): Pick<LoadOptions, 'onBadRow' | 'warn'> => ({
  onBadRow: config.onBadRow,
  warn,
});
/** Whether the run looks at a test split. */
export const isEvaluated = (config: ResolvedConfig): boolean => config.evalStrategy !== 'no' || config.evalOnStart;

// ---- in memory

async function openTables(config: ResolvedConfig, warn?: Warn): Promise<RunData<Dataset>> {
  const splits = config.datasets.length
    ? { [config.datasetTrainSplit]: await openMixture(config, warn) }
    : await loadDataset(await datasetPath(config), { ...nameOf(config), ...reading(config, warn) });
  let train = requireSplit(splits, config);
  let test: Dataset | null = splits[config.datasetTestSplit] ?? null;
  if (config.shuffleDataset) train = train.shuffle({ seed: config.seed });
  train = await filtered(train, config.rowFilter);
  if (test) test = await filtered(test, config.rowFilter);
  if (config.testSplitSize)
    ({ train, test } = train.trainTestSplit({ testSize: config.testSplitSize, seed: config.splitSeed ?? config.seed }));
  if (!isEvaluated(config)) test = null;
  else if (!test) throw noTestSplit(config);
  if (train.length === 0) throw noRows(config, config.datasetTrainSplit);
  if (test?.length === 0) throw noRows(config, config.datasetTestSplit);
  if (config.maxTrainSamples) train = train.take(config.maxTrainSamples);
  if (config.maxEvalSamples && test) test = test.take(config.maxEvalSamples);
  return { train, test };
}

/** The members of `datasets`, one after the other; with fractions, as many rows of each as keep to the shares without repeating any. */
async function openMixture(config: ResolvedConfig, warn?: Warn): Promise<Dataset> {
  const parts: Dataset[] = [];
  for (const member of config.datasets) {
    const rows = await loadDataset(await memberPath(member), {
      split: member.split,
      ...memberOptions(member),
      ...reading(config, warn),
    });
    parts.push(member.columns ? rows.selectColumns(member.columns) : rows);
  }
  const weights = mixtureWeights(config);
  if (!weights) return concatenated(parts);
  const total = Math.min(...parts.map((rows, i) => rows.length / weights[i]));
  return concatenated(parts.map((rows, i) => rows.take(roundHalfEven(weights[i] * total))));
}

const concatenated = ([first, ...rest]: Dataset[]): Dataset => (rest.length ? first.concatenate(...rest) : first);

/** As Python rounds, which is what TRL does to the shares. */
function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  return x - floor === 0.5 ? floor + (floor % 2) : Math.round(x);
}

// ---- streams

async function openStreams(config: ResolvedConfig, warn?: Warn): Promise<RunData<IterableDataset>> {
  const splits = config.datasets.length
    ? { [config.datasetTrainSplit]: await openMixedStream(config, warn) }
    : await loadDataset(await datasetPath(config), { ...nameOf(config), ...reading(config, warn), streaming: true });
  let train = await filteredStream(requireSplit(splits, config), config.rowFilter);
  let heldOut: IterableDataset | null = splits[config.datasetTestSplit]
    ? await filteredStream(splits[config.datasetTestSplit], config.rowFilter)
    : null;
  if (config.testSplitSize) {
    heldOut = train.take(config.testSplitSize);
    train = train.skip(config.testSplitSize);
  }
  if (config.maxTrainSamples) train = train.take(config.maxTrainSamples);
  if (config.shuffleDataset)
    train = train.shuffle({ seed: config.dataSeed ?? config.seed, bufferSize: config.shuffleBufferSize });
  if (!isEvaluated(config)) return { train, test: null };
  if (!heldOut) throw noTestSplit(config);
  const test = await firstRows(heldOut, config.maxEvalSamples ?? Infinity);
  if (test.length === 0) throw noRows(config, config.datasetTestSplit);
  return { train, test };
}

/** The members one after the other, or drawn by their fractions. */
async function openMixedStream(config: ResolvedConfig, warn?: Warn): Promise<IterableDataset> {
  const parts: IterableDataset[] = [];
  for (const member of config.datasets) {
    const rows = await loadDataset(await memberPath(member), {
      split: member.split,
      ...memberOptions(member),
      ...reading(config, warn),
      streaming: true,
    });
    parts.push(member.columns ? rows.selectColumns(member.columns) : rows);
  }
  const weights = mixtureWeights(config);
  if (weights) return interleave(parts, { probabilities: weights, seed: config.dataSeed ?? config.seed });
  return parts.length > 1 ? parts[0].concatenate(...parts.slice(1)) : parts[0];
}

/** The first rows of a stream in memory. */
export async function firstRows(stream: IterableDataset, count: number): Promise<Dataset> {
  const rows: Row[] = [];
  const names: string[] = [];
  const cursor = stream.open();
  try {
    for (let item = null; rows.length < count && (item = await cursor.next());) {
      names.push(item.at ?? `row ${rows.length}`);
      rows.push(item.row);
    }
  } finally {
    await cursor.close();
  }
  return Dataset.fromRows(rows, names);
}

// ---- both

type Member = ResolvedConfig['datasets'][number];

export async function datasetPath({ datasetName }: ResolvedConfig): Promise<string> {
  if (!datasetName)
    throw new LatheError('ERR_CONFIG', 'expected dataset_name, received none', {
      remedy: 'name a local file, a folder with train and test files, or a dataset on the Hub',
    });
  return resolveRepo(datasetName, 'dataset');
}

export const nameOf = ({ datasetConfig }: ResolvedConfig): { name?: string } =>
  datasetConfig ? { name: datasetConfig } : {};

async function memberPath(member: Member): Promise<string> {
  const path = await resolveRepo(member.path, 'dataset');
  return member.data_dir === null ? path : join(path, member.data_dir);
}

function memberOptions(member: Member): Pick<LoadOptions, 'name' | 'dataFiles'> {
  return {
    ...(member.name ? { name: member.name } : {}),
    ...(member.data_files ? { dataFiles: member.data_files } : {}),
  };
}

/** Shares that sum to 1, or null where the members are simply joined. */
function mixtureWeights({ datasets }: ResolvedConfig): number[] | null {
  const fractions = datasets.map((member) => member.fraction ?? 0);
  const sum = fractions.reduce((a, b) => a + b, 0);
  return sum > 0 ? fractions.map((fraction) => fraction / sum) : null;
}

export function requireSplit<D>(splits: Record<string, D>, config: ResolvedConfig): D {
  const train = splits[config.datasetTrainSplit] as D | undefined;
  if (train) return train;
  throw new LatheError('ERR_DATA', `split '${config.datasetTrainSplit}' is not in ${config.datasetName}`, {
    remedy: `set dataset_train_split to one of ${Object.keys(splits).join(', ')}`,
  });
}

export function noTestSplit(config: ResolvedConfig): LatheError {
  const asked = config.evalStrategy === 'no' ? 'eval_on_start is set' : `eval_strategy is ${config.evalStrategy}`;
  return new LatheError('ERR_CONFIG', `${asked}, but ${config.datasetName} has no split '${config.datasetTestSplit}'`, {
    remedy: 'set test_split_size, dataset_test_split, or eval_strategy: no',
  });
}

function noRows(config: ResolvedConfig, split: string): LatheError {
  const why = config.rowFilter ? ' that row_filter keeps' : '';
  return new LatheError('ERR_DATA', `expected rows in split '${split}'${why}, received none`, {
    at: config.datasetName ?? 'datasets',
    remedy: config.rowFilter ? 'loosen row_filter' : 'check the file, or choose another split',
  });
}

async function filtered(rows: Dataset, filter: RowFilter | null): Promise<Dataset> {
  if (!filter) return rows;
  requireColumns(filter, rows.columnNames);
  return rows.filter((row) => keeps(row, filter));
}

export async function filteredStream(rows: IterableDataset, filter: RowFilter | null): Promise<IterableDataset> {
  if (!filter) return rows;
  const [first] = await firstRows(rows, 1);
  if (first) requireColumns(filter, Object.keys(first));
  return rows.filter((row) => keeps(row, filter));
}

function requireColumns(filter: RowFilter, columns: readonly string[]): void {
  const unknown = Object.keys(filter).find((column) => !columns.includes(column));
  if (unknown === undefined) return;
  throw new LatheError('ERR_CONFIG', `row_filter names the column '${unknown}', which the data does not have`, {
    remedy: `use one of ${columns.join(', ')}`,
  });
}

const keeps = (row: Row, filter: RowFilter): boolean =>
  Object.entries(filter).every(([column, condition]) => matches(row[column], condition));

function matches(value: unknown, condition: RowFilter[string]): boolean {
  if (Array.isArray(condition)) return condition.some((c) => c === value);
  if (typeof condition === 'object' && condition !== null) return !matches(value, condition.not);
  return value === condition || (condition === '' && (value === null || value === undefined));
}
