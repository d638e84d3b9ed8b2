/**
 * Files and folders that exist whole or not at all.
 *
 * The idea: write under a temporary sibling name, fsync, rename, fsync the parent folder. POSIX rename
 * replaces atomically, so a reader (or the next run after a power cut) sees the old thing or the new one.
 * A folder also carries `checksums.json`, so damage that happens later is found before it is trained on.
 *
 * Invariants: a failed write leaves no temporary behind while the process lives; those of a killed process are
 * swept by the next commit to the same name. Temporaries start with a dot and carry host, pid and a random part.
 */
import { createHash, randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { open, mkdir, readdir, readFile, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, posix, resolve } from 'node:path';
import { LatheError, formatBytes } from '../errors';
import { systemCode, toIoError } from './io-error';
import { isProcessAlive } from './process-identity';

export const CHECKSUMS_FILE = 'checksums.json';

// Large enough to amortise the call, small enough to keep the thread pool responsive.
const CHUNK_BYTES = 8 << 20;

function hostTag(): string {
  return createHash('sha256').update(hostname()).digest('hex').slice(0, 8);
}

/** A sibling of `path`: `.<name>.<role>-<host>-<pid>-<random>`. */
export function siblingName(path: string, role: 'tmp' | 'old'): string {
  return join(
    dirname(path),
    `.${basename(path)}.${role}-${hostTag()}-${process.pid}-${randomBytes(4).toString('hex')}`,
  );
}

/** What `withAtomicFile` hands out: an append-only file. */
class AtomicWriter {
  #file: FileHandle;
  #bytesWritten = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  /** Appends all of `bytes`. */
  async write(bytes: Uint8Array): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const length = Math.min(bytes.length - done, CHUNK_BYTES);
      const { bytesWritten } = await this.#file.write(bytes, done, length);
      done += bytesWritten;
      this.#bytesWritten += bytesWritten;
    }
  }
}

/**
 * Runs `build` on a temporary file, then moves it to `path`. Missing parent folders are created.
 * @throws LatheError ERR_CHECKPOINT for system errors; what `build` throws passes through. `path` is then untouched.
 */
export async function withAtomicFile<T>(path: string, build: (file: AtomicWriter) => Promise<T>): Promise<T> {
  const temporary = siblingName(path, 'tmp');
  let file: FileHandle | undefined;
  try {
    await mkdir(dirname(path), { recursive: true });
    await sweepTemporaries(resolve(path));
    file = await open(temporary, 'wx');
    const result = await build(new AtomicWriter(file));
    await file.sync();
    await file.close();
    file = undefined;
    await rename(temporary, path);
    await syncPath(dirname(path));
    return result;
  } catch (error) {
    await file?.close().catch(() => undefined);
    await rm(temporary, { force: true }).catch(() => undefined);
    throw toIoError(error, 'write', path);
  }
}

/** Replaces `path` by `data`, atomically and durably. */
export async function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  await withAtomicFile(path, (file) => file.write(typeof data === 'string' ? Buffer.from(data, 'utf8') : data));
}

/** `value` as JSON, two spaces deep, with a final newline. */
export async function writeJsonAtomic(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`);
}

/** fsync of a file or folder. Some file systems refuse it for folders; that costs durability, not correctness. */
export async function syncPath(path: string): Promise<void> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    await handle.sync();
  } catch (error) {
    if (!['EINVAL', 'ENOTSUP', 'EISDIR', 'EPERM', 'EACCES', 'EBADF'].includes(systemCode(error) ?? '')) throw error;
  } finally {
    await handle?.close();
  }
}

async function eachChunk(path: string, visit: (chunk: Uint8Array) => void, sync = false): Promise<number> {
  const file = await open(path, 'r');
  try {
    const buffer = new Uint8Array(CHUNK_BYTES);
    let total = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length, total);
      if (bytesRead === 0) break;
      visit(buffer.subarray(0, bytesRead));
      total += bytesRead;
    }
    if (sync) await file.sync();
    return total;
  } finally {
    await file.close();
  }
}

export interface FileDigest {
  sha256: string;
  bytes: number;
}

async function digest(path: string, sync = false): Promise<FileDigest> {
  const hash = createHash('sha256');
  try {
    const bytes = await eachChunk(path, (chunk) => hash.update(chunk), sync);
    return { sha256: hash.digest('hex'), bytes };
  } catch (error) {
    throw toIoError(error, 'read', path);
  }
}

export interface Checksums {
  version: 1;
  algorithm: 'sha256';
  /** Relative path with `/`, sorted. */
  files: Record<string, FileDigest>;
}

/** Regular files under `dir` as sorted `/` paths, and its folders. Anything else (links, sockets) is refused. */
export async function listTree(dir: string): Promise<{ files: string[]; folders: string[] }> {
  const files: string[] = [];
  const folders: string[] = [''];
  for (const folder of folders) {
    for (const entry of await readdir(join(dir, folder), { withFileTypes: true })) {
      const path = posix.join(folder, entry.name);
      if (entry.isDirectory()) folders.push(path);
      else if (entry.isFile()) files.push(path);
      else {
        throw new LatheError(
          'ERR_CHECKPOINT',
          `expected files and folders only, received a link or special file '${path}'`,
          {
            at: join(dir, path),
            remedy: 'copy the file instead of linking it',
          },
        );
      }
    }
  }
  return { files: files.sort(), folders };
}

export interface DirectoryCommitOptions {
  /** Replace an existing folder (default false: an existing, non-empty folder is an error). */
  replace?: boolean;
}

/**
 * Builds a folder under a temporary name, fsyncs every file, adds `checksums.json` and renames it to `finalDir`.
 *
 * With `replace`, the old folder steps aside first; if the process dies between the two renames, the next
 * commit to the same name puts the old one back.
 * @throws LatheError ERR_CHECKPOINT; what `build` throws passes through. `finalDir` is then as it was.
 */
export async function withDirectoryCommit<T>(
  finalDir: string,
  build: (tmpDir: string) => Promise<T>,
  options: DirectoryCommitOptions = {},
): Promise<T> {
  const target = resolve(finalDir);
  const temporary = siblingName(target, 'tmp');
  try {
    await mkdir(dirname(target), { recursive: true });
    await sweepLeftovers(target);
    if (!options.replace) await requireAbsent(target);
    await mkdir(temporary);
    const result = await build(temporary);
    await sealDirectory(temporary);
    if (options.replace) await swapDirectory(temporary, target);
    else await moveIntoPlace(temporary, target);
    await syncPath(dirname(target));
    return result;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw toIoError(error, 'write the folder', finalDir);
  }
}

async function requireAbsent(dir: string): Promise<void> {
  const entries = await readdir(dir).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  if (entries.length > 0) {
    throw new LatheError('ERR_CHECKPOINT', `expected no folder or an empty one, found ${entries.length} entries`, {
      at: dir,
      remedy: 'choose another name, or delete the folder',
    });
  }
}

async function moveIntoPlace(temporary: string, target: string): Promise<void> {
  await rename(temporary, target).catch(async (error: unknown) => {
    // Somebody created it while we were building.
    if (['ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) await requireAbsent(target);
    throw error;
  });
}

async function swapDirectory(temporary: string, target: string): Promise<void> {
  const aside = siblingName(target, 'old');
  const existed = await rename(target, aside).then(
    () => true,
    (error: unknown) => {
      if (systemCode(error) === 'ENOENT') return false;
      throw error;
    },
  );
  try {
    await rename(temporary, target);
  } catch (error) {
    if (existed) await rename(aside, target);
    throw error;
  }
  if (existed) {
    await syncPath(dirname(target));
    await rm(aside, { recursive: true, force: true });
  }
}

/** fsyncs all files, writes checksums.json, fsyncs all folders. */
async function sealDirectory(dir: string): Promise<void> {
  const { files, folders } = await listTree(dir);
  const checksums: Checksums = { version: 1, algorithm: 'sha256', files: {} };
  for (const file of files) {
    if (file !== CHECKSUMS_FILE) checksums.files[file] = await digest(join(dir, file), true);
  }
  await writeJsonAtomic(join(dir, CHECKSUMS_FILE), checksums);
  for (const folder of folders.reverse()) await syncPath(join(dir, folder));
}

/** What killed processes of this host left beside `target`. */
export async function leftoversOf(target: string): Promise<string[]> {
  const parent = dirname(target);
  const prefix = `.${basename(target)}.`;
  const isLeftover = (name: string): boolean => {
    const match =
      name.startsWith(prefix) && /^(?:tmp|old)-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}$/.exec(name.slice(prefix.length));
    return !!match && match[1] === hostTag() && !isProcessAlive(Number(match[2]));
  };
  return (await readdir(parent)).filter(isLeftover).map((name) => join(parent, name));
}

/** Removes them, and restores a folder that was stepped aside. */
async function sweepLeftovers(target: string): Promise<void> {
  for (const leftover of await leftoversOf(target)) {
    const restored =
      basename(leftover).startsWith(`.${basename(target)}.old-`) &&
      (await rename(leftover, target).then(
        () => true,
        () => false,
      ));
    if (!restored) await rm(leftover, { recursive: true, force: true });
  }
}

/** Of a single file nothing steps aside. What cannot be looked at or deleted is no reason not to write. */
async function sweepTemporaries(target: string): Promise<void> {
  const leftovers = await leftoversOf(target).catch((): string[] => []);
  for (const leftover of leftovers.filter((path) => basename(path).startsWith(`.${basename(target)}.tmp-`)))
    await rm(leftover, { force: true }).catch(() => undefined);
}

export interface DirectoryProblem {
  /** Relative path, or `checksums.json` itself. */
  file: string;
  kind: 'missing' | 'size' | 'content' | 'unreadable';
  message: string;
}

/**
 * Compares a committed folder with its `checksums.json`; files that are not listed are none of its business.
 * @param options.quick compare sizes only (no byte of the files is read)
 * @returns an empty list when all is well; never throws for damage
 */
export async function verifyDirectory(dir: string, options: { quick?: boolean } = {}): Promise<DirectoryProblem[]> {
  let checksums: Checksums;
  try {
    checksums = parseChecksums(await readFile(join(dir, CHECKSUMS_FILE), 'utf8'));
  } catch (error) {
    const missing = systemCode(error) === 'ENOENT';
    return [
      {
        file: CHECKSUMS_FILE,
        kind: missing ? 'missing' : 'unreadable',
        message: missing
          ? 'the folder was not committed by lathe, or the file was deleted'
          : String((error as Error).message),
      },
    ];
  }
  const problems: DirectoryProblem[] = [];
  for (const [file, expected] of Object.entries(checksums.files)) {
    const problem = await checkFile(dir, file, expected, options.quick ?? false);
    if (problem) problems.push(problem);
  }
  return problems;
}

async function checkFile(
  dir: string,
  file: string,
  expected: FileDigest,
  quick: boolean,
): Promise<DirectoryProblem | undefined> {
  const path = join(dir, file);
  try {
    const { size } = await stat(path);
    if (size !== expected.bytes) {
      return {
        file,
        kind: 'size',
        message: `expected ${expected.bytes} bytes (${formatBytes(expected.bytes)}), found ${size}`,
      };
    }
    if (quick) return undefined;
    const { sha256 } = await digest(path);
    return sha256 === expected.sha256
      ? undefined
      : { file, kind: 'content', message: `expected sha256 ${expected.sha256}, found ${sha256}` };
  } catch (error) {
    const missing = systemCode(error) === 'ENOENT';
    return {
      file,
      kind: missing ? 'missing' : 'unreadable',
      message: missing ? 'the file is gone' : String((error as Error).message),
    };
  }
}

function parseChecksums(text: string): Checksums {
  const value = JSON.parse(text) as Partial<Checksums> | null;
  const isDigest = (d: unknown): boolean =>
    typeof (d as FileDigest | null)?.sha256 === 'string' && Number.isSafeInteger((d as FileDigest).bytes);
  const files = value?.files;
  const inside = (file: string): boolean => !posix.isAbsolute(file) && !file.split('/').includes('..');
  if (
    value?.version !== 1 ||
    value.algorithm !== 'sha256' ||
    typeof files !== 'object' ||
    !Object.values(files).every(isDigest) ||
    !Object.keys(files).every(inside)
  ) {
    throw new Error('expected {version: 1, algorithm: "sha256", files: {path: {sha256, bytes}}}');
  }
  return value as Checksums;
}
