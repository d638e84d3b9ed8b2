/**
 * System errors (ENOENT, ENOSPC, ...) into LatheErrors that name the file and a remedy.
 * Errors that are already ours pass through, so a wrapper can be put around a whole operation.
 */
import { mkdirSync } from 'node:fs';
import { LatheError, type ErrorCode } from '../errors';

const REASONS: Record<string, [reason: string, remedy: string]> = {
  ENOENT: ['no such file or folder', 'check the path'],
  EACCES: ['permission denied', 'check the permissions of the file and of its folder'],
  EPERM: ['operation not permitted', 'check the permissions of the file and of its folder'],
  EROFS: ['the file system is read-only', 'choose an output folder on a writable file system'],
  ENOSPC: [
    'no space left on the device',
    'free some space or choose another output folder; nothing half-written was left behind',
  ],
  EDQUOT: [
    'the disk quota is used up',
    'free some space or choose another output folder; nothing half-written was left behind',
  ],
  EFBIG: [
    'the file would exceed the size limit of the file system or process',
    'write smaller shards or raise the limit',
  ],
  EISDIR: ['expected a file, found a folder', 'give the path of the file'],
  ENOTDIR: ['expected a folder, found a file', 'check the path'],
  EMFILE: ['too many open files', 'raise the limit on open files'],
  EEXIST: ['it exists already', 'choose another path'],
  ENOTEMPTY: ['the folder is not empty', 'choose another path'],
};
const FILE_IN_THE_WAY = [
  'a file stands where a folder should',
  'choose another folder, or move the file away',
] as const;

export function systemCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  const { code } = error as { code?: unknown };
  return typeof code === 'string' ? code : undefined;
}

/**
 * @param action what was tried, an infinitive: `open`, `write`
 * @returns `error` itself when it carries one of our codes or is no system error
 */
export function toIoError(error: unknown, action: string, path: string, code: ErrorCode = 'ERR_CHECKPOINT'): unknown {
  const system = systemCode(error);
  if (system === undefined || system.startsWith('ERR_')) return error;
  const isFolder = (error as NodeJS.ErrnoException).syscall === 'mkdir';
  const [reason, remedy] =
    isFolder && (system === 'EEXIST' || system === 'ENOTDIR')
      ? FILE_IN_THE_WAY
      : (REASONS[system] ?? [system, undefined]);
  return new LatheError(code, `expected to ${action} ${path}, received ${system} (${reason})`, {
    at: path,
    remedy,
    cause: error,
  });
}

/** Creates a folder with those above it, if it is missing. @throws LatheError ERR_CHECKPOINT when it cannot be had */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw toIoError(error, 'create', path);
  }
}
