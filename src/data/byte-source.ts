/**
 * Reading a file as bytes and as lines, through gzip or zstd when the file is compressed.
 *
 * The idea: compression is recognised by the first bytes, not by the name, and a file that ends before its
 * compressed stream does, or whose content does not have the checksum it was written with, is an error, never another dataset.
 *
 * Invariants: constant memory in the file's size; text is strict UTF-8; a place in a file is a byte offset into its
 * decompressed content, which a plain file seeks to and a compressed one must decompress (but not decode) up to.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { createGunzip } from 'node:zlib';
import { LatheError } from '../errors';
import { decodeZstd } from './zstd';

type Compression = 'none' | 'gzip' | 'zstd';

async function firstBytes(path: string, count: number): Promise<Buffer> {
  let handle;
  try {
    handle = await open(path, 'r');
  } catch (cause) {
    throw new LatheError('ERR_DATA', `expected a readable file, received ${(cause as Error).message}`, {
      at: path,
      remedy: 'check the path and its permissions',
      cause,
    });
  }
  try {
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(count), 0, count, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

async function detectCompression(path: string): Promise<Compression> {
  const head = await firstBytes(path, 4);
  const named = /\.gz$/i.test(path) ? 'gzip' : /\.(zst|zstd)$/i.test(path) ? 'zstd' : 'none';
  let found: Compression = 'none';
  if (head[0] === 0x1f && head[1] === 0x8b) found = 'gzip';
  else if (head.length === 4 && head.readUInt32LE(0) === 0xfd2fb528) found = 'zstd';
  else if (head.length === 4 && (head.readUInt32LE(0) & 0xfffffff0) >>> 0 === 0x184d2a50) found = 'zstd'; // skippable frame
  if (named !== 'none' && found !== named) {
    throw new LatheError(
      'ERR_DATA',
      `expected ${named} data by its name, received bytes ${head.toString('hex') || '(empty file)'}`,
      {
        at: path,
        remedy:
          found === 'none'
            ? 'the file is not compressed or is damaged: rename it or fetch it again'
            : `rename it: it holds ${found} data`,
      },
    );
  }
  return found;
}

function truncated(path: string, kind: string, cause: unknown): LatheError {
  return new LatheError('ERR_DATA', `expected a complete ${kind} stream, received ${(cause as Error).message}`, {
    at: path,
    remedy: 'the file is cut short or damaged: fetch or write it again',
    cause,
  });
}

async function* gunzip(path: string): AsyncGenerator<Uint8Array> {
  const source = createReadStream(path);
  const inflate = createGunzip();
  source.on('error', (error) => inflate.destroy(error));
  source.pipe(inflate);
  try {
    for await (const chunk of inflate) yield chunk as Buffer;
  } catch (cause) {
    throw truncated(path, 'gzip', cause);
  } finally {
    source.destroy();
    inflate.destroy();
  }
}

async function* unzstd(path: string): AsyncGenerator<Uint8Array> {
  const source = createReadStream(path, { highWaterMark: 1 << 18 });
  try {
    yield* decodeZstd(source);
  } catch (cause) {
    throw truncated(path, 'zstd', cause);
  } finally {
    source.destroy();
  }
}

/** The file's bytes from `start` on, decompressed. @throws ERR_DATA when it is missing, damaged or cut short */
export async function* readBytes(path: string, start = 0): AsyncGenerator<Uint8Array> {
  const compression = await detectCompression(path);
  if (compression === 'none') {
    yield* plainBytes(path, start);
    return;
  }
  let left = start;
  for await (const chunk of compression === 'gzip' ? gunzip(path) : unzstd(path)) {
    const dropped = Math.min(left, chunk.length);
    left -= dropped;
    if (dropped < chunk.length) yield dropped > 0 ? chunk.subarray(dropped) : chunk;
  }
}

async function* plainBytes(path: string, start: number): AsyncGenerator<Uint8Array> {
  const source = createReadStream(path, { highWaterMark: 1 << 18, start });
  try {
    for await (const chunk of source) yield chunk as Buffer;
  } catch (cause) {
    throw new LatheError('ERR_DATA', `expected a readable file, received ${(cause as Error).message}`, {
      at: path,
      remedy: 'check the disk or the network share that it lies on',
      cause,
    });
  } finally {
    source.destroy();
  }
}

/** The whole file as text. @throws ERR_DATA as readBytes, and for bytes that are not UTF-8 */
export async function readText(path: string): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const chunk of readBytes(path)) parts.push(chunk);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(parts));
  } catch (cause) {
    throw notUtf8(path, cause);
  }
}

function notUtf8(at: string, cause: unknown): LatheError {
  return new LatheError('ERR_DATA', 'expected UTF-8 text, received bytes that are not', {
    at,
    remedy: 'convert it, e.g. iconv -f latin1 -t utf-8',
    cause,
  });
}

/** A run of consecutive lines without their ends; `place` is where `lines[0]` begins. */
export interface LineRun {
  place: LinePlace;
  /** null stands for a line that is not UTF-8 and was reported. */
  lines: (string | null)[];
}

/** The beginning of a line: its 1-based number, and the bytes of (decompressed) content before it. */
export interface LinePlace {
  line: number;
  offset: number;
}

export const FIRST_LINE: LinePlace = { line: 1, offset: 0 };

/** What to do about a line or row that cannot be used; returning means that it is left out. */
export type OnBadRow = (error: LatheError) => void;

/**
 * The file's lines from a place on, in runs (one per chunk read: an await per line would cost more than parsing it).
 * A final line without a newline counts; an empty one after the last newline does not.
 */
export async function* readLines(path: string, from = FIRST_LINE, onBadLine?: OnBadRow): AsyncGenerator<LineRun> {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let { line: number, offset } = from;
  let rest: Uint8Array[] = [];
  const decode = (bytes: Uint8Array): string | null => {
    try {
      const line = decoder.decode(bytes.length > 0 && bytes[bytes.length - 1] === 13 ? bytes.subarray(0, -1) : bytes);
      return number === 1 && line.charCodeAt(0) === 0xfeff ? line.slice(1) : line;
    } catch (cause) {
      const error = notUtf8(`${path}:${number}`, cause);
      if (!onBadLine) throw error;
      onBadLine(error);
      return null;
    }
  };
  for await (const chunk of readBytes(path, from.offset)) {
    const place = { line: number, offset };
    const lines: (string | null)[] = [];
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const piece = chunk.subarray(start, end);
      const bytes = rest.length > 0 ? Buffer.concat([...rest, piece]) : piece;
      lines.push(decode(bytes));
      offset += bytes.length + 1;
      rest = [];
      number++;
      start = end + 1;
    }
    if (start < chunk.length) rest.push(chunk.slice(start));
    if (lines.length > 0) yield { place, lines };
  }
  if (rest.length > 0) yield { place: { line: number, offset }, lines: [decode(Buffer.concat(rest))] };
}
