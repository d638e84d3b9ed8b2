/**
 * loadDataset: local JSON, JSON Lines, CSV, Parquet and text files, single or as a folder of splits, in memory or streamed.
 *
 * The idea: names and shapes follow Hugging Face `datasets`: a path or a format name with `dataFiles`; without `split`
 * the answer is an object of splits, with `split` (slices such as "train[:10%]" included) it is one dataset.
 *
 * Invariants: nothing is fetched from a network; rows keep file order; every error names file and line.
 */
import { stat } from 'node:fs/promises';
import { LatheError, nearest, refuseUnknownOptions } from '../errors';
import { badRowHandler, type BadRowPolicy } from './bad-rows';
import { Dataset } from './dataset';
import { formatOf, locateFiles, locateSplits, type FileFormat, type SplitFiles } from './locate';
import { csvColumns, readCsv, type CsvReadOptions } from './read-csv';
import { readJson, readJsonLines, requireStreamableJson } from './read-json';
import { parquetColumns, readParquet } from './read-parquet';
import { readTextRows, type SampleBy } from './read-text';
import { measureShards } from './shards';
import { IterableDataset } from './stream';
import { TableBuilder, type ReaderOptions, type RowBatch } from './table';

export interface ReadOptions extends Omit<CsvReadOptions, keyof ReaderOptions> {
  /** Overrides the file name's extension. */
  format?: FileFormat;
  /** Key of the array inside a JSON document (default: "data"). */
  field?: string;
  /** How text files become rows (default: a row per line). */
  sampleBy?: SampleBy;
  /** Only these columns; Parquet files read nothing else. */
  columns?: string[];
  /** A line or row that cannot be read: stop with its file and line (default), or leave it out and say so. */
  onBadRow?: BadRowPolicy;
  /** Told of rows that were left out; default: process warnings. */
  warn?: (message: string) => void;
}

export interface LoadOptions extends ReadOptions {
  /** Files or patterns, by split or for "train"; with this, the path is a format name or a folder. */
  dataFiles?: string | string[] | Record<string, string | string[]>;
  /** A configuration of the folder's README.md. */
  name?: string;
  /** One split, optionally sliced: "train", "test[:100]", "train[10%:20%]". */
  split?: string;
  streaming?: boolean;
}

export type DatasetDict = Record<string, Dataset>;
export type IterableDatasetDict = Record<string, IterableDataset>;

const kLoadOptions: readonly (keyof LoadOptions)[] = [
  'format',
  'field',
  'sampleBy',
  'columns',
  'onBadRow',
  'warn',
  'delimiter',
  'header',
  'columnTypes',
  'dataFiles',
  'name',
  'split',
  'streaming',
];
const kFormatNames: readonly string[] = ['json', 'jsonl', 'csv', 'parquet', 'text'];
const kSplitOrder = ['train', 'validation', 'test'];

/** @throws ERR_DATA for missing, damaged or ill-formed files (with file:line), ERR_CONFIG for options that do not fit */
export function loadDataset(
  path: string | string[],
  options: LoadOptions & { split: string; streaming: true },
): Promise<IterableDataset>;
export function loadDataset(
  path: string | string[],
  options: LoadOptions & { streaming: true },
): Promise<IterableDatasetDict>;
export function loadDataset(
  path: string | string[],
  options: LoadOptions & { split: string; streaming?: false },
): Promise<Dataset>;
export function loadDataset(
  path: string | string[],
  options?: LoadOptions & { streaming?: false },
): Promise<DatasetDict>;
export async function loadDataset(
  path: string | string[],
  options: LoadOptions = {},
): Promise<Dataset | DatasetDict | IterableDataset | IterableDatasetDict> {
  refuseUnknownOptions(options, kLoadOptions, 'loadDataset');
  const { splits, format } = await resolveSplits(path, options);
  const read: ReadOptions = { ...options, format };
  const open = async (split: string, files: string[]): Promise<Dataset | IterableDataset> => {
    const kind = commonFormat(split, files, read);
    return options.streaming ? streamFiles(files, kind, read) : readFiles(files, kind, read);
  };
  if (options.split !== undefined) {
    const { name, slice } = parseSplit(options.split);
    const files = splits.get(name);
    if (!files) throw unknownSplit(name, splits);
    const dataset = await open(name, files);
    return slice ? applySlice(dataset, slice, options.split) : dataset;
  }
  const result: Record<string, Dataset | IterableDataset> = {};
  const rank = (name: string): number => (kSplitOrder.includes(name) ? kSplitOrder.indexOf(name) : kSplitOrder.length);
  for (const [name, files] of [...splits].sort(([a], [b]) => rank(a) - rank(b))) result[name] = await open(name, files);
  return result as DatasetDict | IterableDatasetDict;
}

/** The files that `loadDataset` would read, by split. @throws ERR_DATA, ERR_CONFIG as it */
export async function datasetFiles(path: string | string[], options: LoadOptions = {}): Promise<SplitFiles> {
  return (await resolveSplits(path, options)).splits;
}

async function resolveSplits(
  path: string | string[],
  options: LoadOptions,
): Promise<{ splits: SplitFiles; format?: FileFormat }> {
  const { dataFiles } = options;
  const isFormatName = typeof path === 'string' && kFormatNames.includes(path) && dataFiles !== undefined;
  const format = isFormatName ? (path as FileFormat) : options.format;
  if (dataFiles !== undefined) {
    const base = isFormatName ? '' : [path].flat()[0];
    const bySplit = typeof dataFiles === 'string' || Array.isArray(dataFiles) ? { train: dataFiles } : dataFiles;
    const splits: SplitFiles = new Map();
    for (const [split, patterns] of Object.entries(bySplit)) splits.set(split, await locateFiles(patterns, base));
    return { splits, format };
  }
  if (typeof path === 'string' && (await isFolder(path)))
    return { splits: await locateSplits(path, options.name), format };
  return { splits: new Map([['train', await locateFiles(path, '')]]), format };
}

async function isFolder(path: string): Promise<boolean> {
  if (/[*?[]/.test(path)) return false;
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    throw new LatheError('ERR_DATA', `expected a data file or a folder, received ${(cause as Error).message}`, {
      at: path,
      remedy: 'check the path; only local data can be loaded',
      cause,
    });
  }
}

function commonFormat(split: string, files: string[], options: ReadOptions): FileFormat {
  const formats = new Set(files.map((file) => options.format ?? formatOf(file)));
  const [format] = formats;
  if (formats.size === 1 && format !== undefined) return format;
  const unknown = files.find((file) => formatOf(file) === undefined);
  throw new LatheError(
    'ERR_DATA',
    `split ${split}: expected files of one known format, received ${[...formats].map((f) => f ?? 'unknown').join(' and ')}`,
    {
      at: unknown ?? files[0],
      remedy: `name one of ${kFormatNames.join(', ')} with the option format, or list the files with dataFiles`,
    },
  );
}

/** The rows of one file; what to leave out stands in `how`. */
function readRows(
  path: string,
  format: FileFormat,
  options: ReadOptions,
  how: ReaderOptions,
  inferFrom: number,
): AsyncGenerator<RowBatch> {
  if (format === 'jsonl') return readJsonLines(path, how);
  if (format === 'json') return readJson(path, { field: options.field, ...how });
  const { delimiter, header, columnTypes } = options;
  if (format === 'csv') return readCsv(path, { delimiter, header, columnTypes, ...how }, inferFrom);
  if (format === 'text') return readTextRows(path, { sampleBy: options.sampleBy, ...how });
  return readParquet(path, { columns: options.columns, ...how });
}

async function readFiles(files: string[], format: FileFormat, options: ReadOptions): Promise<Dataset> {
  const builder = new TableBuilder(format === 'parquet' || format === 'json' ? 'row' : 'line');
  const onBadRow = badRowHandler(options.onBadRow, options.warn);
  for (const file of files) {
    builder.startFile(file);
    if (format === 'csv') builder.declare(await csvColumns(file, options));
    if (format === 'parquet')
      builder.declare((await parquetColumns(file)).filter((name) => options.columns?.includes(name) ?? true));
    for await (const { rows } of readRows(file, format, options, { onBadRow }, Infinity)) {
      for (const { row, position } of rows) builder.add(row, position);
    }
  }
  const dataset = Dataset.fromTable(builder.build());
  return options.columns ? dataset.selectColumns(options.columns) : dataset;
}

const kStreamInferRows = 1000;

async function streamFiles(files: string[], format: FileFormat, options: ReadOptions): Promise<IterableDataset> {
  if (format === 'json') {
    for (const file of files) await requireStreamableJson(file);
  }
  const onBadRow = badRowHandler(options.onBadRow, options.warn);
  const source = IterableDataset.fromShards({
    shards: await measureShards(files),
    read: (path, how) => readRows(path, format, options, { ...how, onBadRow }, kStreamInferRows),
    describe: (path, position) => (format === 'parquet' ? `${path} row ${position}` : `${path}:${position}`),
  });
  return options.columns ? source.selectColumns(options.columns) : source;
}

interface Slice {
  from?: string;
  to?: string;
}

function parseSplit(text: string): { name: string; slice?: Slice } {
  const match = /^([\w.-]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?$/.exec(text);
  if (!match) {
    throw new LatheError(
      'ERR_CONFIG',
      `split: expected a name such as "train" or a slice such as "train[:10%]", received ${JSON.stringify(text)}`,
      {
        remedy: 'write name[from:to] with row numbers or percentages',
      },
    );
  }
  return { name: match[1], slice: text.endsWith(']') ? { from: match[2], to: match[3] } : undefined };
}

/** "10%" of a length, rounded as `datasets` does; negative bounds count from the end. */
function boundary(text: string, length: number): number {
  const value = Number.parseInt(text, 10);
  const rows = text.endsWith('%') ? Math.round((value * length) / 100) : value;
  return rows < 0 ? Math.max(length + rows, 0) : rows;
}

function applySlice(dataset: Dataset | IterableDataset, slice: Slice, text: string): Dataset | IterableDataset {
  if (dataset instanceof Dataset) {
    const from = slice.from === undefined ? 0 : boundary(slice.from, dataset.length);
    return dataset.slice(from, slice.to === undefined ? dataset.length : boundary(slice.to, dataset.length));
  }
  if (/[%-]/.test(`${slice.from ?? ''}${slice.to ?? ''}`)) {
    throw new LatheError('ERR_CONFIG', `split: expected row numbers when streaming, received ${JSON.stringify(text)}`, {
      remedy: 'the length of a stream is unknown: use train[100:200]',
    });
  }
  const from = Number(slice.from ?? 0);
  const skipped = dataset.skip(from);
  return slice.to === undefined ? skipped : skipped.take(Math.max(Number(slice.to) - from, 0));
}

function unknownSplit(name: string, splits: SplitFiles): LatheError {
  const near = nearest(name, splits.keys());
  return new LatheError(
    'ERR_CONFIG',
    `split: expected one of ${[...splits.keys()].join(', ')}, received ${JSON.stringify(name)}`,
    {
      remedy: near ? `did you mean ${JSON.stringify(near)}?` : 'name a split that exists',
    },
  );
}
