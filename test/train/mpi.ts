/** Children of a test as ranks under mpirun, and how far two runs are apart. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Whether mpirun of Open MPI is here; says what is skipped when it is not. */
export function findMpi(what: string): boolean {
  const { status, stdout } = spawnSync('mpirun', ['--version'], { encoding: 'utf8' });
  const found = status === 0 && /Open MPI|Open RTE/.test(stdout);
  if (!found) process.stdout.write(`${what} skipped: mpirun of Open MPI was not found (apt-get install openmpi-bin)\n`);
  return found;
}

export interface Outcome<Result> {
  readonly status: number | null;
  readonly output: string;
  /** By rank; those that wrote no result are missing. */
  readonly results: Result[];
}

/** Arguments of Node that run a script of this folder. */
export const childArgs = (script: string, run: object): string[] => [
  '-r',
  'ts-node/register/transpile-only',
  join(__dirname, script),
  JSON.stringify(run),
];

/** Arguments of mpirun before `-np`. */
export const MPI_ARGS: readonly string[] = ['--allow-run-as-root', '--oversubscribe', '--bind-to', 'none'];

/** Runs a child script (a file of this folder) as so many processes; each writes `rank-N.json` into `run.outputDir`. */
export function runRanks<Result>(child: string, ranks: number, run: { outputDir: string }): Outcome<Result> {
  const args = childArgs(child, run);
  const { status, stdout, stderr } =
    ranks === 1
      ? spawnSync(process.execPath, args, { encoding: 'utf8' })
      : spawnSync('mpirun', [...MPI_ARGS, '-np', String(ranks), process.execPath, ...args], { encoding: 'utf8' });
  const files = Array.from({ length: ranks }, (_, rank) => join(run.outputDir, `rank-${rank}.json`));
  const results = files
    .filter((file) => existsSync(file))
    .map((file) => JSON.parse(readFileSync(file, 'utf8')) as Result);
  return { status, output: stdout + stderr, results };
}

/** In magnitude. */
export const largest = (values: readonly number[]): number => values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);

/** Largest difference in units of the largest value. */
export const distance = (a: readonly number[], b: readonly number[]): number =>
  largest(a.map((v, i) => v - b[i])) / largest(a);
