/**
 * Parquet files as rows, one row group at a time (hyparquet, with every codec of hyparquet-compressors).
 *
 * The idea: the footer is read first, so a file that was cut short fails before any row is used; a row group is
 * the unit of memory and of skipping. hyparquet is an ES module and is imported when first needed.
 *
 * Invariants: INT64 becomes a number when it is exact and stays a bigint otherwise.
 */
import { LatheError } from '../errors';
import { FILE_START, type ReaderOptions, type RowBatch } from './table';
import type { Row } from './types';

async function openParquet(path: string) {
  const { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } = await import('hyparquet');
  const { compressors } = await import('hyparquet-compressors');
  try {
    const file = await asyncBufferFromFile(path);
    return { file, compressors, parquetReadObjects, metadata: await parquetMetadataAsync(file) };
  } catch (cause) {
    throw damaged(path, cause);
  }
}

function damaged(path: string, cause: unknown): LatheError {
  return new LatheError('ERR_DATA', `expected a complete Parquet file, received ${(cause as Error).message}`, {
    at: path,
    remedy: 'the file is cut short or damaged: fetch or write it again',
    cause,
  });
}

/** Names of the top-level columns. */
export async function parquetColumns(path: string): Promise<string[]> {
  const { metadata } = await openParquet(path);
  const [root, ...rest] = metadata.schema;
  const names: string[] = [];
  // The schema is a preorder walk: step over each top-level column's subtree.
  for (let i = 0, left = root.num_children ?? 0; left > 0; left--) {
    names.push(rest[i].name);
    for (let subtree = 1; subtree > 0; i++) subtree += (rest[i].num_children ?? 0) - 1;
  }
  return names;
}

function plain(value: unknown): unknown {
  if (typeof value === 'bigint') {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype) {
    for (const [key, inner] of Object.entries(value)) (value as Row)[key] = plain(inner);
  }
  return value;
}

/** Rows in batches of one row group; `columns` limits what is read; positions are 0-based rows. Earlier groups are not read. */
export async function* readParquet(
  path: string,
  options: ReaderOptions & { columns?: string[] } = {},
): AsyncGenerator<RowBatch> {
  const { file, compressors, metadata, parquetReadObjects } = await openParquet(path);
  const { skip = { left: 0 }, from = FILE_START } = options;
  let start = 0;
  for (const group of metadata.row_groups) {
    const end = start + Number(group.num_rows);
    const first = Math.min(Math.max(start, from.after + 1), end);
    const rowStart = Math.min(first + skip.left, end);
    skip.left -= rowStart - first;
    if (rowStart < end) {
      let rows: Row[];
      try {
        rows = await parquetReadObjects({
          file,
          metadata,
          compressors,
          columns: options.columns,
          rowStart,
          rowEnd: end,
        });
      } catch (cause) {
        throw damaged(`${path} rows ${start} to ${end - 1}`, cause);
      }
      yield { rows: rows.map((row, i) => ({ row: plain(row) as Row, position: rowStart + i })), anchor: null };
    }
    start = end;
  }
}
