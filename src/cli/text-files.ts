/**
 * Texts out of files of any kind, for commands that only want text: JSON Lines, JSON, CSV and Parquet give one column's
 * value per row, everything else (source code, prose) is one text per file. gzip and zstd are opened on the way.
 *
 * Invariants: constant memory (a file above 16 MiB comes in parts that end before an unindented line); files in sorted
 * order within a pattern; nothing is left out without being counted.
 */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { loadDataset, type Row } from '../data';
import { readBytes } from '../data/byte-source';
import { formatOf, globToRegExp } from '../data/locate';
import { LatheError } from '../errors';

export interface TextFile {
  path: string;
  bytes: number;
}

export interface TextOptions {
  /** Column of tables; default: the first of text, content, code that a file has. */
  field?: string;
  /** Take tables as plain text too. */
  asText?: boolean;
  /** 'skip' leaves out text files that are not UTF-8. */
  onBadFile?: 'error' | 'skip';
  onSkip?: (path: string) => void;
}

const PART_CHARACTERS = 16 << 20;
const BATCH_ROWS = 256;
const FIELDS = ['text', 'content', 'code'];

/**
 * Files named by paths, folders (all files below) and patterns (`*`, `**`, `?`, `[abc]`), hidden ones left out.
 * @throws LatheError ERR_DATA when one matches nothing
 */
export async function locateTextFiles(patterns: readonly string[]): Promise<TextFile[]> {
  const found = new Map<string, TextFile>();
  for (const pattern of patterns) {
    const files = await filesOf(pattern);
    if (files.length === 0)
      throw new LatheError('ERR_DATA', `expected files at '${pattern}', found none`, {
        remedy: 'check the path; quote patterns so that the shell leaves them alone',
      });
    for (const file of files) found.set(file.path, file);
  }
  return [...found.values()];
}

async function filesOf(pattern: string): Promise<TextFile[]> {
  const wild = pattern.search(/[*?[]/);
  if (wild < 0) {
    const info = await stat(pattern).catch(() => null);
    if (!info) return [];
    return info.isDirectory() ? walk(pattern, () => true) : [{ path: pattern, bytes: info.size }];
  }
  const root = pattern.slice(0, pattern.lastIndexOf('/', wild) + 1);
  const expression = globToRegExp(pattern.slice(root.length));
  const folder = root || '.';
  return (await stat(folder).catch(() => null)) ? walk(folder, (path) => expression.test(path)) : [];
}

/** Files below `root` whose path from there is wanted, sorted by path. */
async function walk(root: string, wanted: (path: string) => boolean): Promise<TextFile[]> {
  const files: TextFile[] = [];
  const visit = async (folder: string): Promise<void> => {
    const entries = await readdir(join(root, folder), { withFileTypes: true });
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      const path = folder ? `${folder}/${entry.name}` : entry.name;
      if (entry.name.startsWith('.') || entry.name === '__pycache__') continue;
      // Links to folders are not followed: they may lead in a circle.
      if (entry.isDirectory()) await visit(path);
      else if (entry.isFile() && wanted(path))
        files.push({ path: join(root, path), bytes: (await stat(join(root, path))).size });
    }
  };
  await visit('');
  return files;
}

/** The texts of files, in batches. @throws LatheError ERR_DATA naming file and line */
export async function* readTexts(files: readonly TextFile[], o: TextOptions = {}): AsyncGenerator<string[]> {
  for (const file of files) {
    const format = formatOf(file.path);
    if (o.asText || format === undefined || format === 'text') yield* plainText(file, o);
    else yield* columnOf(file.path, format === 'json', o.field);
  }
}

/** A file's bytes: small ones at once, which is several times quicker for a folder of thousands. */
async function* bytesOf({ path, bytes }: TextFile): AsyncGenerator<Uint8Array> {
  if (bytes > PART_CHARACTERS) {
    yield* readBytes(path);
    return;
  }
  const whole = await readFile(path).catch((cause: Error) => {
    throw new LatheError('ERR_DATA', `expected a readable file, received ${cause.message}`, {
      at: path,
      remedy: 'check the path and its permissions',
      cause,
    });
  });
  const compressed =
    /\.(gz|zst|zstd)$/i.test(path) || [0x1f8b, 0x28b5].includes(whole.length > 1 ? whole.readUInt16BE(0) : 0);
  if (compressed) yield* readBytes(path);
  else yield whole;
}

async function* plainText(file: TextFile, o: TextOptions): AsyncGenerator<string[]> {
  const { path } = file;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let text = '';
  try {
    for await (const chunk of bytesOf(file)) {
      text += decoder.decode(chunk, { stream: true });
      if (text.length <= PART_CHARACTERS) continue;
      const end = lastUnindentedLine(text);
      if (end > 0) {
        yield [text.slice(0, end)];
        text = text.slice(end);
      }
    }
    text += decoder.decode();
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    if (o.onBadFile === 'skip') return o.onSkip?.(path);
    throw new LatheError('ERR_DATA', 'expected UTF-8 text, received bytes that are not', {
      at: path,
      remedy: 'leave the file out, convert it, or pass --on-bad-file skip',
      cause,
    });
  }
  if (text) yield [text];
}

/** Start of the last line that begins with neither blank nor line end, so that no run of white space is cut. */
function lastUnindentedLine(text: string): number {
  for (let end = text.lastIndexOf('\n', text.length - 2); end >= 0; end = text.lastIndexOf('\n', end - 1)) {
    if (/\S/.test(text[end + 1])) return end + 1;
    if (end === 0) break;
  }
  return 0;
}

async function* columnOf(path: string, whole: boolean, field: string | undefined): AsyncGenerator<string[]> {
  const rows: AsyncIterable<Row> | Iterable<Row> = whole
    ? await loadDataset(path, { split: 'train' })
    : await loadDataset(path, { split: 'train', streaming: true });
  let name = field;
  let row = 0;
  let batch: string[] = [];
  for await (const values of rows) {
    name ??= FIELDS.find((candidate) => typeof values[candidate] === 'string');
    const text = name === undefined ? undefined : values[name];
    row++;
    if (typeof text !== 'string') {
      const columns = Object.keys(values).join(', ');
      throw new LatheError(
        'ERR_DATA',
        `row ${row}: expected text in column ${name === undefined ? FIELDS.join(' or ') : `'${name}'`}, found columns ${columns}`,
        { at: path, remedy: 'name the column with --field' },
      );
    }
    batch.push(text);
    if (batch.length === BATCH_ROWS) {
      yield batch;
      batch = [];
    }
  }
  if (batch.length) yield batch;
}
