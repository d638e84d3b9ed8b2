/**
 * JSON and JSON Lines files as rows.
 *
 * The idea: a `.json` file is an array of objects, an object with one array under `field` (or "data"), or, as
 * Hugging Face `datasets` also accepts, JSON Lines under the wrong name. JSON Lines stream; a whole document
 * must fit in memory and therefore cannot.
 *
 * Invariants: a bad line is an error with file:line, or is reported with it; never silently left out.
 */
import { LatheError } from '../errors';
import { FIRST_LINE, readLines, readText, type LinePlace } from './byte-source';
import { jsonFaultOffset } from './json-fault';
import { FILE_START, type ReaderOptions, type RowBatch, type SourceRow } from './table';
import type { Row } from './types';

export interface JsonReadOptions extends ReaderOptions {
  /** Key of the array inside a JSON document; default: "data". */
  field?: string;
}

function isObject(value: unknown): value is Row {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}

function parseLine(line: string, at: string): Row {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new LatheError(
      'ERR_DATA',
      `expected one JSON object in the line, received none (${(cause as Error).message})`,
      {
        at,
        remedy: 'mend or remove the line; if it is the last one, the file may be cut short',
        cause,
      },
    );
  }
  if (isObject(value)) return value;
  throw new LatheError('ERR_DATA', `expected a JSON object in the line, received ${describe(value)}`, {
    at,
    remedy: 'write one {"column": value} object per line',
  });
}

/** Rows of a JSON Lines file (plain, gzip, zstd) in batches; blank lines are allowed. */
export async function* readJsonLines(path: string, options: JsonReadOptions = {}): AsyncGenerator<RowBatch> {
  const { skip = { left: 0 }, from = FILE_START, onBadRow } = options;
  for await (const { place, lines } of readLines(path, (from.anchor as LinePlace | null) ?? FIRST_LINE, onBadRow)) {
    const rows: SourceRow[] = [];
    let fault: unknown;
    for (let i = 0; i < lines.length && fault === undefined; i++) {
      const line = lines[i];
      const position = place.line + i;
      if (line === null || position <= from.after || line.trim() === '') continue;
      // A line that turns out bad is no row and does not count: where such lines are left out, all must be parsed.
      if (skip.left > 0 && !onBadRow) {
        skip.left--;
        continue;
      }
      try {
        const row = parseLine(line, `${path}:${position}`);
        if (skip.left > 0) skip.left--;
        else rows.push({ row, position });
      } catch (error) {
        if (onBadRow) onBadRow(error as LatheError);
        else fault = error;
      }
    }
    if (rows.length > 0) yield { rows, anchor: { ...place } };
    // Only now: whoever needs no row past the good ones never meets the bad one.
    // eslint-disable-next-line @typescript-eslint/only-throw-error -- what was caught above, as it was
    if (fault !== undefined) throw fault;
  }
}

/** True when a `.json` file is JSON Lines: its first non-blank line is a whole object and more follows. */
async function looksLikeJsonLines(path: string): Promise<boolean> {
  let sawObject = false;
  for await (const { lines } of readLines(path)) {
    for (const line of lines) {
      if (line === null || line.trim() === '') continue;
      if (sawObject) return true;
      try {
        if (!isObject(JSON.parse(line))) return false;
        sawObject = true;
      } catch {
        return false;
      }
    }
  }
  return false;
}

function lineOfOffset(text: string, offset: number): number {
  let line = 1;
  for (let i = text.indexOf('\n'); i >= 0 && i < offset; i = text.indexOf('\n', i + 1)) line++;
  return line;
}

function parseDocument(text: string, path: string): unknown {
  try {
    return JSON.parse(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
  } catch (cause) {
    const fault = jsonFaultOffset(text);
    const cut = fault === text.length;
    throw new LatheError('ERR_DATA', `expected a JSON document, received ${(cause as Error).message}`, {
      at: `${path}:${lineOfOffset(text, fault)}`,
      remedy: cut ? 'the file is cut short: write or fetch it again' : 'mend the JSON at that line',
      cause,
    });
  }
}

/** The array of rows inside a document. Without `field`, "data" is tried, then the only array of objects. */
function rowsOfDocument(document: unknown, path: string, field: string | undefined): unknown[] {
  if (Array.isArray(document) && field === undefined) return document as unknown[];
  if (isObject(document)) {
    const key = field ?? (Array.isArray(document.data) ? 'data' : undefined);
    if (key !== undefined && Array.isArray(document[key])) return document[key] as unknown[];
    const keys = Object.keys(document);
    throw new LatheError(
      'ERR_DATA',
      `expected an array of objects under ${JSON.stringify(field ?? 'data')}, received an object with keys ${keys.slice(0, 8).join(', ') || '(none)'}`,
      {
        at: path,
        remedy: 'name the array with the option field, or write JSON Lines',
      },
    );
  }
  throw new LatheError(
    'ERR_DATA',
    `expected an array of objects or an object with "${field ?? 'data'}", received ${describe(document)}`,
    {
      at: path,
      remedy: 'write [ {...}, {...} ] or one object per line in a .jsonl file',
    },
  );
}

/** Rows of a `.json` file, in one batch (or in many when it turns out to be JSON Lines). Positions are 0-based elements. */
export async function* readJson(path: string, options: JsonReadOptions = {}): AsyncGenerator<RowBatch> {
  if (options.field === undefined && (await looksLikeJsonLines(path))) {
    yield* readJsonLines(path, options);
    return;
  }
  const elements = rowsOfDocument(parseDocument(await readText(path), path), path, options.field);
  const { skip = { left: 0 }, from = FILE_START, onBadRow } = options;
  const rows: SourceRow[] = [];
  elements.forEach((row, i) => {
    if (i <= from.after) return;
    if (!isObject(row)) {
      const error = new LatheError('ERR_DATA', `expected an object, received ${describe(row)}`, {
        at: `${path} element ${i}`,
        remedy: 'every element of the array must be a {"column": value} object',
      });
      if (!onBadRow) throw error;
      onBadRow(error);
    } else if (skip.left > 0) skip.left--;
    else rows.push({ row, position: i });
  });
  if (rows.length > 0) yield { rows, anchor: null };
}

/** Whether streaming a `.json` file is possible: only when it is JSON Lines. @throws ERR_UNSUPPORTED otherwise */
export async function requireStreamableJson(path: string): Promise<void> {
  if (await looksLikeJsonLines(path)) return;
  throw new LatheError('ERR_UNSUPPORTED', 'streaming: expected JSON Lines, received one JSON document', {
    at: path,
    remedy: 'convert it to .jsonl (jq -c ".[]"), or load it without streaming',
  });
}
