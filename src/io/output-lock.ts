/**
 * A lock file that keeps two runs out of one output folder.
 *
 * The idea: the lock is a hard link from a fully written temporary, so it appears atomically with its content
 * (host, pid, start time). A lock whose process is gone, or whose pid now belongs to another process, is stale
 * and is taken over. A lock from another host can't be judged and counts as held.
 */
import { randomBytes } from 'node:crypto';
import { unlinkSync, readFileSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { LatheError } from '../errors';
import { systemCode, toIoError } from './io-error';
import { isProcessAlive, processStartTime } from './process-identity';

export const LOCK_FILE = '.lathe.lock';

interface LockRecord {
  pid: number;
  /** Boot id and start ticks; null where unknown. */
  startTime: string | null;
  host: string;
  createdAt: string;
  token: string;
}

export interface OutputLock {
  readonly path: string;
  /** Deletes the lock; calling it twice does no harm. */
  release(): Promise<void>;
}

/**
 * Takes the lock of `dir` (created if missing). It is released by `release()`, and at a regular process exit.
 * @throws LatheError ERR_CHECKPOINT naming the process that holds it
 */
export async function acquireOutputLock(dir: string): Promise<OutputLock> {
  const path = join(resolve(dir), LOCK_FILE);
  const record: LockRecord = {
    pid: process.pid,
    startTime: processStartTime(process.pid),
    host: hostname(),
    createdAt: new Date().toISOString(),
    token: randomBytes(8).toString('hex'),
  };
  try {
    await mkdir(dir, { recursive: true });
    // Each turn either takes the lock, finds a live holder, or removes a stale file; ten is far beyond any real race.
    for (let attempt = 0; attempt < 10; attempt++) {
      if (await tryCreate(path, record)) return guard(path, record.token);
      const text = await readLock(path);
      if (text === undefined) continue;
      const holder = parseLock(text);
      if (holder && isHeld(holder)) throw heldError(dir, path, holder);
      await removeStale(path, text);
    }
    throw new LatheError('ERR_CHECKPOINT', 'expected to take the lock, other processes kept changing it', {
      at: path,
      remedy: 'start the run again',
    });
  } catch (error) {
    throw toIoError(error, 'lock the output folder', dir);
  }
}

async function tryCreate(path: string, record: LockRecord): Promise<boolean> {
  const text = `${JSON.stringify(record)}\n`;
  const temporary = `${path}.${record.token}`;
  await writeFile(temporary, text, { flag: 'wx' });
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    // No hard links here (some network and FUSE file systems): exclusive creation is the next best thing.
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(systemCode(error) ?? '')) throw error;
    return await writeFile(path, text, { flag: 'wx' }).then(
      () => true,
      (second: unknown) => {
        if (systemCode(second) === 'EEXIST') return false;
        throw second;
      },
    );
  } finally {
    await rm(temporary, { force: true });
  }
}

async function readLock(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  });
}

function parseLock(text: string): LockRecord | undefined {
  try {
    const value = JSON.parse(text) as LockRecord | null;
    return typeof value?.pid === 'number' && typeof value.host === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}

function isHeld(holder: LockRecord): boolean {
  if (holder.host !== hostname()) return true;
  if (!isProcessAlive(holder.pid)) return false;
  const startTime = processStartTime(holder.pid);
  return startTime === null || holder.startTime === null || startTime === holder.startTime;
}

function heldError(dir: string, path: string, holder: LockRecord): LatheError {
  const own = holder.pid === process.pid && holder.host === hostname();
  const who = own ? `this process (pid ${holder.pid})` : `process ${holder.pid} on ${holder.host}`;
  return new LatheError(
    'ERR_CHECKPOINT',
    `expected an output folder that no other run uses, found it locked by ${who} since ${holder.createdAt}`,
    {
      at: dir,
      remedy:
        holder.host === hostname()
          ? 'choose another output folder, or stop that run'
          : `choose another output folder; if that run is gone, delete ${path}`,
    },
  );
}

/** Moves the stale file away, and puts it back if another process had replaced it in the meantime. */
async function removeStale(path: string, staleText: string): Promise<void> {
  const aside = `${path}.${randomBytes(8).toString('hex')}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  if ((await readLock(aside)) !== staleText) await link(aside, path).catch(() => undefined);
  await rm(aside, { force: true });
}

function guard(path: string, token: string): OutputLock {
  const isOurs = (text: string): boolean => parseLock(text)?.token === token;
  const onExit = (): void => {
    try {
      if (isOurs(readFileSync(path, 'utf8'))) unlinkSync(path);
    } catch {
      // The folder may be gone already; a leftover is recognised as stale.
    }
  };
  process.once('exit', onExit);
  return {
    path,
    async release() {
      process.removeListener('exit', onExit);
      const text = await readLock(path);
      if (text !== undefined && isOurs(text)) await rm(path, { force: true });
    },
  };
}
