/**
 * CSV and TSV files as rows, with the type of each column inferred.
 *
 * The idea: csv-parse does the quoting; this file turns cells into numbers, booleans and nulls. A column is a number
 * or boolean only if every non-empty cell is one, as pandas (and so Hugging Face `datasets`) decides; unlike pandas, only
 * the empty cell is null ("NA" and "None" are words) and "007" stays a string. When streaming, types are
 * inferred from the first rows and a later cell that disagrees is an error, never a silent string.
 *
 * Invariants: a row with too few or too many cells is an error with file:line.
 */
import { parse } from 'csv-parse';
import { LatheError } from '../errors';
import { readBytes } from './byte-source';
import { FILE_START, type ReaderOptions, type RowBatch, type SourceRow } from './table';
import type { Row } from './types';

export type CsvColumnType = 'string' | 'number' | 'boolean';

export interface CsvReadOptions extends ReaderOptions {
  delimiter?: string;
  /** Column names for a file without a header line. */
  header?: string[];
  /** Types that override inference. */
  columnTypes?: Record<string, CsvColumnType>;
}

const kBatchRows = 1000;
const kNumber = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const kBoolean = /^(true|false)$/i;

interface RawRow {
  cells: string[];
  line: number;
  /** Where the next record begins. */
  end: CsvPlace;
}

/** Between two records: bytes and lines before it. */
interface CsvPlace {
  offset: number;
  lines: number;
}

const FILE_BEGIN: CsvPlace = { offset: 0, lines: 0 };

function delimiterOf(path: string, { delimiter }: Pick<CsvReadOptions, 'delimiter'>): string {
  return delimiter ?? (/\.tsv(\.|$)/i.test(path) ? '\t' : ',');
}

/** What reading on in the middle of a file needs to know of its beginning. */
interface CsvAnchor extends CsvPlace {
  names: string[];
  types: CsvColumnType[];
}

interface CsvRecord {
  record: string[];
  info: { lines: number; bytes: number };
}

/** Raw rows from a place between two records on. */
async function* rawRows(
  path: string,
  delimiter: string,
  from: CsvPlace,
  onBadRow: CsvReadOptions['onBadRow'],
): AsyncGenerator<RawRow> {
  const lenient = onBadRow !== undefined;
  const parser = parse({
    bom: from.offset === 0,
    delimiter,
    info: true,
    skip_empty_lines: true,
    relax_column_count: lenient,
    skip_records_with_error: lenient,
  });
  parser.on('skip', (cause: Error & { lines?: number }) => onBadRow?.(malformed(path, cause, from.lines)));
  const feed = (async () => {
    for await (const chunk of readBytes(path, from.offset)) {
      if (parser.destroyed) return;
      if (!parser.write(chunk))
        await new Promise<void>((resolve) => parser.once('drain', resolve).once('close', resolve));
    }
    parser.end();
  })().catch((error: Error) => parser.destroy(error));
  try {
    let previous = from.lines;
    for await (const { record, info } of parser as AsyncIterable<CsvRecord>) {
      const end = { offset: from.offset + info.bytes, lines: from.lines + info.lines };
      // `lines` counts the line on which the record ends; it starts one after the previous one ended.
      yield { cells: record, line: previous + 1, end };
      previous = end.lines;
    }
  } catch (cause) {
    if (cause instanceof LatheError) throw cause;
    throw malformed(path, cause as Error, from.lines);
  } finally {
    parser.destroy();
    await feed;
  }
}

function malformed(path: string, cause: Error & { lines?: number }, linesBefore: number): LatheError {
  return new LatheError('ERR_DATA', `expected a well-formed CSV record, received ${cause.message}`, {
    at: cause.lines === undefined ? path : `${path}:${linesBefore + cause.lines}`,
    remedy:
      'quote cells that hold the delimiter, quotes or newlines, and give every row the same number of cells; set delimiter if it is not a comma',
    cause,
  });
}

function inferType(values: Iterable<string>): CsvColumnType {
  let type: CsvColumnType | undefined;
  for (const value of values) {
    if (value === '') continue;
    const own: CsvColumnType =
      kNumber.test(value) && Number.isFinite(Number(value)) && exactInteger(value)
        ? 'number'
        : kBoolean.test(value)
          ? 'boolean'
          : 'string';
    if (own === 'string' || (type !== undefined && own !== type)) return 'string';
    type = own;
  }
  return type ?? 'string';
}

/** An integer beyond 2^53 would lose digits as a number: it stays a string. */
function exactInteger(value: string): boolean {
  return !/^-?\d+$/.test(value) || Number.isSafeInteger(Number(value));
}

function convert(value: string, type: CsvColumnType, column: string, at: string): unknown {
  if (value === '') return null;
  if (type === 'string') return value;
  if (type === 'number' && kNumber.test(value)) return Number(value);
  if (type === 'boolean' && kBoolean.test(value)) return value.toLowerCase() === 'true';
  throw new LatheError(
    'ERR_DATA',
    `column ${JSON.stringify(column)}: expected a ${type} like the rows before, received ${JSON.stringify(value)}`,
    {
      at,
      remedy: `pass columnTypes: { ${JSON.stringify(column)}: 'string' }`,
    },
  );
}

/**
 * Rows of a CSV file in batches.
 * @param inferFrom how many rows decide the types: Infinity reads the file whole first (exact), a number streams
 */
export async function* readCsv(
  path: string,
  options: CsvReadOptions = {},
  inferFrom = Infinity,
): AsyncGenerator<RowBatch, void> {
  const { skip = { left: 0 }, from = FILE_START, onBadRow } = options;
  const anchor = from.anchor as CsvAnchor | null;
  const delimiter = delimiterOf(path, options);
  let names = anchor?.names ?? options.header;
  let types = anchor?.types;
  let start: CsvPlace = anchor ? { offset: anchor.offset, lines: anchor.lines } : FILE_BEGIN;
  let batch: RawRow[] = [];
  const flush = (): RowBatch => {
    const columns = names ?? [];
    types ??= columns.map((name, c) => options.columnTypes?.[name] ?? inferType(cellsOf(batch, c)));
    const decided = types;
    const rows: SourceRow[] = [];
    for (const { cells, line } of batch) {
      if (line <= from.after) continue;
      if (skip.left > 0 && !onBadRow) {
        skip.left--;
        continue;
      }
      const row: Row = {};
      try {
        columns.forEach((name, c) => (row[name] = convert(cells[c], decided[c], name, `${path}:${line}`)));
      } catch (error) {
        if (!onBadRow) throw error;
        onBadRow(error as LatheError);
        continue;
      }
      if (skip.left > 0) skip.left--;
      else rows.push({ row, position: line });
    }
    const found = { rows, anchor: { ...start, names: columns, types } };
    if (batch.length > 0) start = batch[batch.length - 1].end;
    batch = [];
    return found;
  };
  for await (const raw of rawRows(path, delimiter, start, onBadRow)) {
    if (names === undefined) {
      names = checkedHeader(raw.cells, path);
      start = raw.end;
      continue;
    }
    if (raw.cells.length !== names.length) {
      const error = wrongWidth(path, raw, names.length);
      if (!onBadRow) throw error;
      onBadRow(error);
      continue;
    }
    batch.push(raw);
    if (batch.length >= (types === undefined ? inferFrom : kBatchRows)) {
      const found = flush();
      if (found.rows.length > 0) yield found;
    }
  }
  if (names === undefined) {
    throw new LatheError('ERR_DATA', 'expected a header line, received an empty file', {
      at: path,
      remedy: 'remove the file or write its header',
    });
  }
  const found = flush();
  if (found.rows.length > 0) yield found;
}

function* cellsOf(batch: RawRow[], column: number): Generator<string> {
  for (const raw of batch) yield raw.cells[column];
}

function checkedHeader(cells: string[], path: string): string[] {
  const seen = new Set<string>();
  for (const name of cells) {
    if (seen.has(name)) {
      throw new LatheError('ERR_DATA', `expected distinct column names, received ${JSON.stringify(name)} twice`, {
        at: `${path}:1`,
        remedy: 'rename one of the columns, or pass header: [...] for a file without a header line',
      });
    }
    seen.add(name);
  }
  return cells;
}

function wrongWidth(path: string, raw: RawRow, width: number): LatheError {
  return new LatheError('ERR_DATA', `expected ${width} cells, received ${raw.cells.length}`, {
    at: `${path}:${raw.line}`,
    remedy: 'quote cells that hold the delimiter, or pass header with one name per column',
  });
}

/** The header alone, so that a file without rows still has columns. */
export async function csvColumns(
  path: string,
  options: Pick<CsvReadOptions, 'delimiter' | 'header'> = {},
): Promise<string[]> {
  if (options.header) return options.header;
  for await (const raw of rawRows(path, delimiterOf(path, options), FILE_BEGIN, undefined)) return raw.cells;
  return [];
}
