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
import type { SkipCounter, SourceRow } from './table';
import type { Row } from './types';

export type CsvColumnType = 'string' | 'number' | 'boolean';

export interface CsvReadOptions {
  delimiter?: string;
  /** Column names for a file without a header line. */
  header?: string[];
  /** Types that override inference. */
  columnTypes?: Record<string, CsvColumnType>;
  skip?: SkipCounter;
}

const kBatchRows = 1000;
const kNumber = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/;
const kBoolean = /^(true|false)$/i;

interface RawRow {
  cells: string[];
  line: number;
}

interface CsvRecord {
  record: string[];
  info: { lines: number };
}

/** Raw rows in batches; the first raw row is the header unless `header` was given. */
async function* rawRows(path: string, delimiter: string): AsyncGenerator<RawRow> {
  const parser = parse({ bom: true, delimiter, info: true, skip_empty_lines: true, relax_column_count: false });
  const feed = (async () => {
    for await (const chunk of readBytes(path)) {
      if (parser.destroyed) return;
      if (!parser.write(chunk))
        await new Promise<void>((resolve) => parser.once('drain', resolve).once('close', resolve));
    }
    parser.end();
  })().catch((error: Error) => parser.destroy(error));
  try {
    let previous = 0;
    for await (const { record, info } of parser as AsyncIterable<CsvRecord>) {
      // `lines` counts the line on which the record ends; it starts one after the previous one ended.
      yield { cells: record, line: previous + 1 };
      previous = info.lines;
    }
  } catch (cause) {
    if (cause instanceof LatheError) throw cause;
    const line = (cause as { lines?: number }).lines;
    throw new LatheError('ERR_DATA', `expected a well-formed CSV record, received ${(cause as Error).message}`, {
      at: line === undefined ? path : `${path}:${line}`,
      remedy:
        'quote cells that hold the delimiter, quotes or newlines, and give every row the same number of cells; set delimiter if it is not a comma',
      cause,
    });
  } finally {
    parser.destroy();
    await feed;
  }
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
): AsyncGenerator<SourceRow[], void> {
  const delimiter = options.delimiter ?? (/\.tsv(\.|$)/i.test(path) ? '\t' : ',');
  let names = options.header;
  let types: CsvColumnType[] | undefined;
  const skip = options.skip ?? { left: 0 };
  let batch: RawRow[] = [];
  const flush = (): SourceRow[] => {
    const columns = names ?? [];
    types ??= columns.map((name, c) => options.columnTypes?.[name] ?? inferType(cellsOf(batch, c)));
    const decided = types;
    const rows: SourceRow[] = [];
    for (const { cells, line } of batch) {
      if (skip.left > 0) {
        skip.left--;
        continue;
      }
      const row: Row = {};
      columns.forEach((name, c) => (row[name] = convert(cells[c], decided[c], name, `${path}:${line}`)));
      rows.push({ row, position: line });
    }
    batch = [];
    return rows;
  };
  for await (const raw of rawRows(path, delimiter)) {
    if (names === undefined) {
      names = checkedHeader(raw.cells, path);
      continue;
    }
    if (raw.cells.length !== names.length) throw wrongWidth(path, raw, names.length);
    batch.push(raw);
    if (batch.length >= (types === undefined ? inferFrom : kBatchRows)) {
      const rows = flush();
      if (rows.length > 0) yield rows;
    }
  }
  if (names === undefined) {
    throw new LatheError('ERR_DATA', 'expected a header line, received an empty file', {
      at: path,
      remedy: 'remove the file or write its header',
    });
  }
  const rows = flush();
  if (rows.length > 0) yield rows;
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
export async function csvColumns(path: string, options: CsvReadOptions = {}): Promise<string[]> {
  if (options.header) return options.header;
  for await (const raw of rawRows(path, options.delimiter ?? (/\.tsv(\.|$)/i.test(path) ? '\t' : ',')))
    return raw.cells;
  return [];
}
