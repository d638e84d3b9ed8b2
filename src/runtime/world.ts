/**
 * The job that this process is a part of: its rank and how many there are.
 *
 * Clusters start processes with what they have (mpirun, srun, an MPIJob); we only read what the launcher left in the
 * environment, and open MPI when it promises more than one rank. MPI is started on the main thread and ended there when
 * the process exits well; exchanges happen on an engine's thread. A process that fails exits without ending MPI, and that is
 * what makes the launcher end the others.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { LatheError } from '../errors';
import { convertErrors, loadNative } from './binding';

export interface World {
  readonly rank: number;
  readonly size: number;
  /** What carries the bytes: an MPI library and its version, or 'single'. */
  readonly library: string;
  /** Ranks that share this machine; where the launcher does not say, all of them. */
  readonly localSize: number;
}

/** A process that is alone. */
const SINGLE: World = { rank: 0, size: 1, library: 'single', localSize: 1 };

interface Launch {
  /** What started this process. */
  readonly launcher: string;
  readonly rank: number;
  readonly size: number;
  /** Ranks on this machine; null: not said. */
  readonly localSize: number | null;
}

/** Variables of launchers: name, size, rank, ranks on this machine. The first whose size and rank are set counts. */
const LAUNCHERS = [
  ['mpirun of Open MPI', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_SIZE'],
  ['mpiexec of MVAPICH', 'MV2_COMM_WORLD_SIZE', 'MV2_COMM_WORLD_RANK', 'MV2_COMM_WORLD_LOCAL_SIZE'],
  ['mpiexec of MPICH', 'PMI_SIZE', 'PMI_RANK', 'MPI_LOCALNRANKS'],
  // The step's numbers are set by srun; those of the job are there in a batch script too, which is one process.
  ['srun', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID', 'SLURM_STEP_TASKS_PER_NODE'],
] as const;

/** What a launcher says about this process; null when none started it. @throws LatheError ERR_CONFIG for numbers that make no sense */
export function launchedBy(env: Readonly<Record<string, string | undefined>> = process.env): Launch | null {
  for (const [launcher, sizeName, rankName, localName] of LAUNCHERS) {
    if (env[sizeName] === undefined || env[rankName] === undefined) continue;
    const [size, rank] = [Number(env[sizeName]), Number(env[rankName])];
    if (!Number.isInteger(size) || !Number.isInteger(rank) || size < 1 || rank < 0 || rank >= size) {
      throw new LatheError(
        'ERR_CONFIG',
        `${launcher}: expected a rank below a size, received ${rankName}=${env[rankName]} and ${sizeName}=${env[sizeName]}`,
        {
          remedy: 'start the job with mpirun or srun, or unset these variables',
        },
      );
    }
    // srun writes a list, "4(x2),3": the machine with the most counts.
    const local = Math.max(
      ...(env[localName]
        ?.replace(/\(x\d+\)/g, '')
        .split(',')
        .map(Number) ?? [NaN]),
    );
    return { launcher, rank, size, localSize: Number.isInteger(local) && local > 0 ? local : null };
  }
  return null;
}

let joined: World | null = null;

/**
 * The world of this process; the first call in a job of several ranks opens MPI and waits for the others.
 * @throws LatheError ERR_UNSUPPORTED (no MPI library: the message says what to install), ERR_DEVICE (another MPI's launcher)
 */
export function currentWorld(): World {
  if (joined) return joined;
  const launch = isMainThread ? launchedBy() : null;
  if (launch === null || launch.size === 1) return (joined = SINGLE);
  shareCores(launch);
  const { rank, size } = launch;
  const world = convertErrors(() => loadNative().joinMpiWorld(librariesFor(launch.launcher), rank, size));
  process.once('exit', (code) => {
    // Ending MPI waits for every rank, so a rank that failed must not come here.
    if (code === 0) leaveWorld();
  });
  return (joined = { ...world, localSize: launch.localSize ?? size });
}

/** Ends MPI, when this process joined a world: all ranks must come here. Happens by itself when the process exits with 0. */
export function leaveWorld(): void {
  if (!joined || joined.size === 1) return;
  joined = SINGLE;
  convertErrors(() => loadNative().leaveWorld());
}

const OPEN_MPI = ['libmpi.so.40'];
const MPICH = ['libmpi.so.12', 'libmpich.so.12'];

/** A launcher's own library first: another one would see a job of one rank. srun can speak to both. */
function librariesFor(launcher: string): string[] {
  const chosen = process.env.LATHE_MPI_LIBRARY;
  if (chosen) return [chosen];
  const isOpenMpi = launcher.includes('Open MPI') || (launcher === 'srun' && process.env.PMIX_RANK !== undefined);
  return [...(isOpenMpi ? [...OPEN_MPI, ...MPICH] : [...MPICH, ...OPEN_MPI]), 'libmpi.so'];
}

/** Ranks that share a machine and are not bound to cores share its cores, unless LATHE_THREADS says how many to use. */
function shareCores({ localSize, size }: Launch): void {
  const ranks = localSize ?? size;
  if (process.env.LATHE_THREADS !== undefined || ranks === 1 || isBound()) return;
  process.env.LATHE_THREADS = String(Math.max(1, Math.floor(availableParallelism() / ranks)));
}

/** True when the launcher gave this process fewer cores than it has itself: nobody else will use them. */
function isBound(): boolean {
  const coresOf = (pid: string): string | undefined =>
    /^Cpus_allowed:\s*(\S+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  try {
    return coresOf('self') !== coresOf(String(process.ppid));
  } catch {
    return false;
  }
}
