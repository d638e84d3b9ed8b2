/**
 * The directory of a zip file whose entries are stored, not compressed: what torch.save writes.
 *
 * The idea: the directory lies at the end and says where each entry begins, so a checkpoint of any size is opened with a few
 * small reads, and a tensor's bytes are a range of the file. zip64 is read, because checkpoints pass 4 GiB.
 *
 * Invariants: every range handed out lies in the file, before the directory; a file that is cut short, compressed or
 * encrypted, or that names an entry twice, is refused.
 *
 * Source: PKWARE APPNOTE 6.3, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (ends).
 */
import type { FileHandle } from 'node:fs/promises';
import { LatheError } from '../../errors';
import { readFully } from '../tensor-source';

export interface ZipEntry {
  readonly name: string;
  readonly byteLength: number;
  readonly crc32: number;
  /** Where its local header begins. */
  readonly headerOffset: number;
}

export interface ZipDirectory {
  readonly path: string;
  readonly entries: ReadonlyMap<string, ZipEntry>;
  /** Where the directory begins: no entry's bytes lie behind it. */
  readonly offset: number;
}

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const END_BYTES = 22;
const MAX_COMMENT = 0xffff;
/** A directory is some 100 bytes an entry; this is a million of them. */
const MAX_DIRECTORY_BYTES = 1 << 27;

export function damaged(path: string, message: string): LatheError {
  return new LatheError('ERR_FORMAT', message, {
    at: path,
    remedy: 'the file is damaged or cut short; download or save it again',
  });
}

/** Reads the directory. @throws LatheError ERR_FORMAT */
export async function readZipDirectory(file: FileHandle, path: string): Promise<ZipDirectory> {
  const { size } = await file.stat();
  const end = await findEnd(file, size, path);
  if (end.offset + end.bytes > end.limit)
    throw damaged(
      path,
      `expected a directory of ${end.bytes} bytes at offset ${end.offset}, received a file of ${size}`,
    );
  if (end.bytes > MAX_DIRECTORY_BYTES)
    throw damaged(path, `expected a directory of at most ${MAX_DIRECTORY_BYTES} bytes, received ${end.bytes}`);
  const view = await read(file, end.offset, end.bytes, path);
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < end.entries; i++) {
    const { entry, next } = centralEntry(view, at, path);
    if (entries.has(entry.name)) throw damaged(path, `expected every entry once, found '${entry.name}' twice`);
    if (entry.headerOffset + 30 + entry.byteLength > end.offset)
      throw damaged(path, `entry '${entry.name}' does not lie in the file`);
    entries.set(entry.name, entry);
    at = next;
  }
  return { path, entries, offset: end.offset };
}

/** Where an entry's bytes begin; its local header may hold padding that the directory does not know of. */
export async function dataOffset(file: FileHandle, directory: ZipDirectory, entry: ZipEntry): Promise<number> {
  const view = await read(file, entry.headerOffset, 30, directory.path);
  if (view.getUint32(0, true) !== LOCAL)
    throw damaged(directory.path, `expected the header of '${entry.name}' at offset ${entry.headerOffset}`);
  const offset = entry.headerOffset + 30 + view.getUint16(26, true) + view.getUint16(28, true);
  if (offset + entry.byteLength > directory.offset)
    throw damaged(directory.path, `entry '${entry.name}' does not lie in the file`);
  return offset;
}

async function read(file: FileHandle, offset: number, length: number, path: string): Promise<DataView> {
  const bytes = new Uint8Array(length);
  await readFully(file, bytes, offset, path);
  return new DataView(bytes.buffer);
}

interface End {
  entries: number;
  bytes: number;
  offset: number;
  /** First byte behind the directory. */
  limit: number;
}

async function findEnd(file: FileHandle, size: number, path: string): Promise<End> {
  const length = Math.min(size, END_BYTES + MAX_COMMENT);
  const tail = await read(file, size - length, length, path);
  for (let at = length - END_BYTES; at >= 0; at--) {
    if (tail.getUint32(at, true) !== END || at + END_BYTES + tail.getUint16(at + 20, true) !== length) continue;
    const start = size - length + at;
    const end = {
      entries: tail.getUint16(at + 10, true),
      bytes: tail.getUint32(at + 12, true),
      offset: tail.getUint32(at + 16, true),
      limit: start,
    };
    const isLarge = end.entries === 0xffff || end.bytes === 0xffffffff || end.offset === 0xffffffff;
    return isLarge ? findEnd64(file, start, path) : end;
  }
  throw damaged(path, 'expected a zip directory at the end of the file, found none');
}

async function findEnd64(file: FileHandle, end: number, path: string): Promise<End> {
  if (end < 20) throw damaged(path, 'expected a zip64 directory, found none');
  const locator = await read(file, end - 20, 20, path);
  const at = locator.getUint32(0, true) === LOCATOR64 ? safe(locator.getBigUint64(8, true), path) : -1;
  if (at < 0 || at + 56 > end - 20) throw damaged(path, 'expected a zip64 directory, found none');
  const view = await read(file, at, 56, path);
  if (view.getUint32(0, true) !== END64) throw damaged(path, `expected the end of a zip64 directory at offset ${at}`);
  return {
    entries: safe(view.getBigUint64(32, true), path),
    bytes: safe(view.getBigUint64(40, true), path),
    offset: safe(view.getBigUint64(48, true), path),
    limit: at,
  };
}

function safe(value: bigint, path: string): number {
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  throw damaged(path, `expected a size below 2^53, received ${value}`);
}

function centralEntry(view: DataView, at: number, path: string): { entry: ZipEntry; next: number } {
  if (at + 46 > view.byteLength || view.getUint32(at, true) !== CENTRAL)
    throw damaged(path, `expected an entry at byte ${at} of the directory`);
  const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((field) => view.getUint16(at + field, true));
  const next = at + 46 + nameBytes + extraBytes + commentBytes;
  if (next > view.byteLength) throw damaged(path, 'the directory ends in the middle of an entry');
  const name = new TextDecoder().decode(new Uint8Array(view.buffer, view.byteOffset + at + 46, nameBytes));
  const stored = view.getUint16(at + 10, true) === 0 && !(view.getUint16(at + 8, true) & 1);
  if (!stored) {
    throw new LatheError('ERR_UNSUPPORTED', `entry '${name}' is compressed or encrypted`, {
      at: path,
      remedy: 'torch.save stores entries as they are; save the checkpoint again with it',
    });
  }
  const sizes = {
    byteLength: view.getUint32(at + 24, true),
    packed: view.getUint32(at + 20, true),
    headerOffset: view.getUint32(at + 42, true),
  };
  readExtra64(view, at + 46 + nameBytes, extraBytes, sizes, path);
  if (sizes.byteLength !== sizes.packed)
    throw damaged(path, `entry '${name}' is stored, but has two sizes: ${sizes.byteLength} and ${sizes.packed}`);
  return {
    entry: {
      name,
      byteLength: sizes.byteLength,
      headerOffset: sizes.headerOffset,
      crc32: view.getUint32(at + 16, true),
    },
    next,
  };
}

/** Fields that did not fit 32 bits stand in the zip64 extra field, in this order. */
function readExtra64(
  view: DataView,
  start: number,
  length: number,
  sizes: Record<'byteLength' | 'packed' | 'headerOffset', number>,
  path: string,
): void {
  for (let at = start; at + 4 <= start + length;) {
    const [id, bytes] = [view.getUint16(at, true), view.getUint16(at + 2, true)];
    if (at + 4 + bytes > start + length) throw damaged(path, 'the directory ends in the middle of an entry');
    if (id === 1) {
      let field = at + 4;
      for (const key of ['byteLength', 'packed', 'headerOffset'] as const) {
        if (sizes[key] !== 0xffffffff) continue;
        if (field + 8 > at + 4 + bytes) throw damaged(path, 'expected a zip64 size, found none');
        sizes[key] = safe(view.getBigUint64(field, true), path);
        field += 8;
      }
    }
    at += 4 + bytes;
  }
}
