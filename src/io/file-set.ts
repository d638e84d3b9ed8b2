/**
 * Replacing files that belong together, in a folder that may hold others: all of them or none.
 *
 * The idea: the new files are built in a hidden folder inside the target, where a failure costs nothing. Then a journal says what
 * goes and what comes, the old files step aside (the one that the others depend on first), the new ones take their places (that
 * one last), and the old ones are deleted. In between the folder has no such file, so it is nothing that could be opened: never
 * a mixture of two saves.
 *
 * Invariants: a failure puts the old files back; what a killed process had begun to move is finished by the next save into the
 * folder, and what it had not finished building is deleted. Files that belong to no given set are not touched, unless one of the
 * same name is written. The folder must have room for both saves.
 */
import { existsSync } from 'node:fs';
import { lstat, mkdir, readdir, readFile, rename, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { LatheError } from '../errors';
import { leftoversOf, listTree, siblingName, syncPath, writeJsonAtomic } from './atomic-file';
import { systemCode, toIoError } from './io-error';

/** Files that one save writes and the next one replaces, whichever of them it writes itself. */
export interface FileSet {
  /** The file without which the others are nothing. A save without it replaces only files of the same names. */
  readonly lead: string;
  /** Matches the paths of the set, relative, with `/`. */
  readonly owns: RegExp;
  /** Folders inside that hold files of the set. */
  readonly folders?: readonly string[];
  /** Files that are written only where there are none. */
  readonly keeps?: readonly string[];
  /** @throws LatheError when something in the folder would be opened instead of the set, or be spoilt by it */
  check?(dir: string): void;
}

const JOURNAL = 'journal.json';

/** Paths in the order in which they move. */
interface Journal {
  readonly old: readonly string[];
  readonly incoming: readonly string[];
}

/**
 * Runs `build` on an empty folder, then puts its files into `dir` (created if missing) in place of those of `sets`.
 * @param sets in the order in which their leads are put in place
 * @throws LatheError ERR_CHECKPOINT for the disk and of the sets' checks; what `build` throws passes through. `dir` is then as it was
 */
export async function replaceFileSets<T>(
  dir: string,
  sets: readonly FileSet[],
  build: (staging: string) => Promise<T>,
): Promise<T> {
  const target = resolve(dir);
  let created: string | undefined;
  let staging: string | null = null;
  try {
    created = await mkdir(target, { recursive: true });
    await finishLeftovers(target);
    for (const set of sets) set.check?.(dir);
    staging = siblingName(join(target, 'lathe'), 'tmp');
    await mkdir(staging);
    const result = await build(staging);
    await commit(target, staging, await journalOf(target, staging, sets));
    return result;
  } catch (error) {
    // A journal that is still there means that not even moving back was possible: then nothing is deleted.
    if (staging && !existsSync(join(asideOf(staging), JOURNAL))) await discard(staging);
    if (created !== undefined) await rmdir(target).catch(() => undefined);
    throw toIoError(error, 'write into', dir);
  }
}

async function journalOf(target: string, staging: string, sets: readonly FileSet[]): Promise<Journal> {
  const kept = new Set(sets.flatMap(({ keeps = [] }) => keeps).filter((name) => existsSync(join(target, name))));
  const incoming = (await listTree(staging)).files.filter((name) => !kept.has(name));
  const written = new Set(incoming);
  const active = sets.filter(({ lead }) => written.has(lead));
  const folders = new Set(['.', ...incoming.map(dirname), ...active.flatMap((set) => set.folders ?? [])]);
  const old: string[] = [];
  for (const folder of folders) {
    for (const entry of await namesIn(join(target, folder))) {
      const name = folder === '.' ? entry : `${folder}/${entry}`;
      if (written.has(name) || active.some(({ owns }) => owns.test(name))) old.push(name);
    }
  }
  for (const name of old) {
    if (!(await lstat(join(target, name))).isDirectory()) continue;
    throw new LatheError('ERR_CHECKPOINT', `expected a file '${name}' or none, found a folder`, {
      at: join(target, name),
      remedy: 'choose another output folder, or move it away',
    });
  }
  const rank = (name: string): number => sets.findIndex(({ lead }) => lead === name);
  incoming.sort((a, b) => rank(a) - rank(b));
  old.sort((a, b) => rank(b) - rank(a));
  return { old, incoming };
}

async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: unknown) => {
    if (['ENOENT', 'ENOTDIR'].includes(systemCode(error) ?? '')) return [];
    throw error;
  });
}

/** Where the old files wait while `staging` is put in place. */
const asideOf = (staging: string): string => join(dirname(staging), basename(staging).replace('.tmp-', '.old-'));
/** One level: a folder inside would have to be taken away again. */
const flat = (name: string): string => name.replaceAll('/', '--');

async function commit(target: string, staging: string, journal: Journal): Promise<void> {
  const file = join(asideOf(staging), JOURNAL);
  try {
    await mkdir(dirname(file));
    await writeJsonAtomic(file, journal);
    await moveAll(target, staging, journal);
  } catch (error) {
    await moveBack(target, staging, journal);
    await rm(file, { force: true });
    throw error;
  }
  await discard(staging);
}

/** Goes on from wherever a process was killed. */
async function moveAll(target: string, staging: string, { old, incoming }: Journal): Promise<void> {
  const aside = asideOf(staging);
  for (const name of old)
    if (!existsSync(join(aside, flat(name)))) await rename(join(target, name), join(aside, flat(name)));
  await syncPath(target);
  for (const [i, name] of incoming.entries()) {
    if (!existsSync(join(staging, name))) continue;
    // The last one says that the others are there: they must be on the disk before it.
    if (i === incoming.length - 1) await syncPath(target);
    await mkdir(dirname(join(target, name)), { recursive: true });
    await rename(join(staging, name), join(target, name));
  }
  await syncPath(target);
}

/** Undoes as much of `moveAll` as was done. */
async function moveBack(target: string, staging: string, { old, incoming }: Journal): Promise<void> {
  const aside = asideOf(staging);
  for (const name of incoming)
    if (!existsSync(join(staging, name))) await rename(join(target, name), join(staging, name));
  for (const name of old)
    if (existsSync(join(aside, flat(name)))) await rename(join(aside, flat(name)), join(target, name));
}

/** Without the journal the rest is rubbish. One that cannot be deleted now goes with the next save. */
async function discard(staging: string): Promise<void> {
  const aside = asideOf(staging);
  try {
    for (const path of [join(aside, JOURNAL), aside, staging]) await rm(path, { recursive: true, force: true });
  } catch {
    // What was to be saved is saved.
  }
}

/** Finishes what a killed process had begun to move, and deletes what it was still building. */
async function finishLeftovers(target: string): Promise<void> {
  for (const path of await leftoversOf(join(target, 'lathe'))) {
    const staging = join(target, basename(path).replace('.old-', '.tmp-'));
    const journal = await readFile(join(asideOf(staging), JOURNAL), 'utf8').catch(() => null);
    if (journal !== null) await moveAll(target, staging, JSON.parse(journal) as Journal);
    await discard(staging);
  }
}
