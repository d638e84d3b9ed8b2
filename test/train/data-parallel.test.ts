/**
 * Training over processes: 2 and 3 ranks are one process at the same global batch, a sharded optimizer changes nothing,
 * checkpoints go from one world size to another, and a rank that dies ends the job with a checkpoint that is whole.
 * Needs mpirun; without it only what does not start ranks is tested, and that is said.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { deviceSpec } from '../../src/compile/devices';
import { verifyDirectory } from '../../src/io/atomic-file';
import { partition } from '../../src/optim/partition';
import { launchedBy } from '../../src/runtime/world';
import { configFromObject } from '../../src/train/arguments';
import { memoryLimitBytes } from '../../src/train/training-plan';
import { childArgs, distance, findMpi, largest, MPI_ARGS, runRanks, type Outcome } from './mpi';
import type { RankResult, RanksRun } from './ranks-child';
import { temporaryFolder } from './tiny-run';

jest.setTimeout(300_000);
const base = temporaryFolder('ranks');
const hasMpi = findMpi('runs over several ranks');
const overRanks = hasMpi ? describe : describe.skip;

const run = (name: string, ranks: number, o: Omit<RanksRun, 'outputDir'>): Outcome<RankResult> =>
  runRanks('ranks-child.ts', ranks, { ...o, outputDir: join(base, name) });

function finished(name: string, ranks: number, o: Omit<RanksRun, 'outputDir'>): RankResult[] {
  const { status, output, results } = run(name, ranks, o);
  expect([status, output]).toEqual([0, expect.any(String)]);
  expect(results).toHaveLength(ranks);
  return results;
}

function expectSameTraining(a: RankResult, b: RankResult): void {
  expect(a.losses.length).toBe(b.losses.length);
  expect(distance(a.losses, b.losses)).toBeLessThan(1e-6);
  expect(distance(a.gradNorms, b.gradNorms)).toBeLessThan(1e-6);
  expect(distance(a.evalLosses, b.evalLosses)).toBeLessThan(1e-6);
  expect(distance(a.parameters, b.parameters)).toBeLessThan(1e-6);
  expect([a.numTokens, a.totalFlos]).toEqual([b.numTokens, b.totalFlos]);
}

describe('what a launcher says', () => {
  test.each([
    [
      'Open MPI',
      { OMPI_COMM_WORLD_SIZE: '4', OMPI_COMM_WORLD_RANK: '3', OMPI_COMM_WORLD_LOCAL_SIZE: '2' },
      { rank: 3, size: 4, localSize: 2 },
    ],
    ['MPICH', { PMI_SIZE: '2', PMI_RANK: '0' }, { rank: 0, size: 2, localSize: null }],
    ['srun', { SLURM_STEP_NUM_TASKS: '8', SLURM_PROCID: '5' }, { rank: 5, size: 8, localSize: null }],
    [
      'srun on several machines',
      { SLURM_STEP_NUM_TASKS: '9', SLURM_PROCID: '5', SLURM_STEP_TASKS_PER_NODE: '2(x3),3' },
      { rank: 5, size: 9, localSize: 3 },
    ],
  ])('%s', (_name, env, want) => expect(launchedBy(env)).toMatchObject(want));

  test('nobody, and a batch script, which is one process however many tasks its job has', () => {
    expect(launchedBy({})).toBeNull();
    expect(launchedBy({ SLURM_NTASKS: '8', SLURM_PROCID: '0' })).toBeNull();
  });

  test('numbers that make no sense', () => {
    expect(() => launchedBy({ PMI_SIZE: '2', PMI_RANK: '2' })).toThrow(
      expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringContaining('PMI_RANK=2') as string }),
    );
  });
});

test('ranks on one machine share its memory', () => {
  const args = configFromObject({ memoryLimit: null });
  const device = deviceSpec('cpu', 1);
  const [alone, half] = [memoryLimitBytes(args, device, 1), memoryLimitBytes(args, device, 2)];
  // What is free changes between the two calls, but not by a quarter of the machine.
  expect(Math.abs(half / alone - 0.5)).toBeLessThan(0.25);
  expect(memoryLimitBytes(configFromObject({ memoryLimit: 1e9 }), device, 2)).toBe(1e9);
});

test('parameters are dealt to ranks by size, every one once', () => {
  expect(partition([5, 1, 1, 3], 2)).toEqual([0, 1, 1, 1]);
  expect(partition([1], 3)).toEqual([0]);
  const owners = partition(
    Array.from({ length: 100 }, (_, i) => 1 + (i % 7)),
    4,
  );
  const held = [0, 1, 2, 3].map((r) => owners.reduce((n, owner, i) => n + (owner === r ? 1 + (i % 7) : 0), 0));
  expect(Math.max(...held) - Math.min(...held)).toBeLessThanOrEqual(7);
});

test('without MPI one line says what to install', () => {
  const env = {
    ...process.env,
    OMPI_COMM_WORLD_SIZE: '2',
    OMPI_COMM_WORLD_RANK: '0',
    LATHE_MPI_LIBRARY: join(base, 'no-such-libmpi.so'),
  };
  const { status, stderr } = spawnSync(
    process.execPath,
    childArgs('ranks-child.ts', { outputDir: join(base, 'none'), accumulation: 1, steps: 1 }),
    { encoding: 'utf8', env },
  );
  expect(status).toBe(1);
  expect(stderr).toMatch(/^no MPI library can be opened .*apt-get install openmpi-bin.*\n$/);
});

overRanks('over ranks', () => {
  let two: RankResult[];
  let one: RankResult;

  test('two ranks are one process: losses, norms, evaluation, weights', () => {
    [one] = finished('one', 1, { accumulation: 2, steps: 7, saveSteps: 4 });
    two = finished('two', 2, { accumulation: 1, steps: 7, saveSteps: 5 });
    expect(two[0].library).toContain('Open MPI');
    expectSameTraining(one, two[0]);
    // Every rank holds the same bits, and sees the same numbers.
    expect(two[1]).toEqual(two[0]);
    expect(one.losses).toHaveLength(7);
    expect(largest(one.parameters)).toBeGreaterThan(0);
  });

  test('three ranks, whose slices do not divide the tensors, two of them without a batch in the last step of an epoch', () => {
    const [single] = finished('one of three', 1, { accumulation: 3, steps: 5 });
    const three = finished('three', 3, { accumulation: 1, steps: 5 });
    expect(three.map((r) => r.withoutBatch)).toEqual([0, 1, 1]);
    expectSameTraining(single, three[0]);
    const sharded = finished('three sharded', 3, { accumulation: 1, steps: 5, zero: 1 });
    expect(new Set([...three, ...sharded].map((r) => r.crc)).size).toBe(1);
  });

  test.each(['adamw_torch', 'adamw_8bit'] as const)(
    'a sharded optimizer gives the same bits from half the state: %s',
    (optim) => {
      const o = { accumulation: 1, steps: 7, optim, saveSteps: 5 };
      const whole = optim === 'adamw_torch' ? two : finished('whole', 2, o);
      const sharded = finished(`sharded ${optim}`, 2, { ...o, zero: 1 });
      for (const r of [0, 1]) {
        expect(sharded[r].crc).toBe(whole[r].crc);
        expect(sharded[r].losses).toEqual(whole[r].losses);
        expect(sharded[r].optimizerBytes).toBeLessThan(0.55 * whole[r].optimizerBytes);
      }
      const optimizer = (name: string): Buffer => readFileSync(join(base, name, 'checkpoint-5/optimizer.safetensors'));
      expect(optimizer(`sharded ${optim}`).equals(optimizer(optim === 'adamw_torch' ? 'two' : 'whole'))).toBe(true);
    },
  );

  test('a checkpoint of one rank goes on with two, and one of two that stopped together with one', () => {
    finished('grow', 1, { accumulation: 2, steps: 7, saveSteps: 4, stop: { rank: 0, step: 4 } });
    const [grown] = finished('grow', 2, { accumulation: 1, steps: 7, zero: 1, resume: true });
    expect(grown.losses).toHaveLength(3);
    expect(distance(grown.parameters, one.parameters)).toBeLessThan(1e-6);
    expect(distance(grown.losses, one.losses.slice(4))).toBeLessThan(1e-6);

    // Rank 1 is told to stop after step 4; both agree on it in step 5, and save.
    const stopped = finished('shrink', 2, {
      accumulation: 1,
      steps: 7,
      saveSteps: 100,
      zero: 1,
      stop: { rank: 1, step: 4 },
    });
    expect(stopped.map((r) => [r.interrupted, r.losses.length])).toEqual([
      [true, 5],
      [true, 5],
    ]);
    const [shrunk] = finished('shrink', 1, { accumulation: 2, steps: 7, resume: true });
    expect(shrunk.losses).toHaveLength(2);
    expect(distance(shrunk.parameters, one.parameters)).toBeLessThan(1e-6);
    expect(distance(shrunk.losses, one.losses.slice(5))).toBeLessThan(1e-6);
  });

  test('a rank that dies ends the job, and its last checkpoint resumes to the same run', async () => {
    const died = run('die', 2, { accumulation: 1, steps: 7, saveSteps: 2, kill: { rank: 1, step: 5 } });
    expect(died.status).not.toBe(0);
    expect(died.results).toHaveLength(0);
    expect(await verifyDirectory(join(base, 'die', 'checkpoint-4'))).toEqual([]);
    expect(existsSync(join(base, 'die', 'checkpoint-6'))).toBe(false);
    const resumed = finished('die', 2, { accumulation: 1, steps: 7, saveSteps: 100, resume: true });
    expect(resumed[0].crc).toBe(two[0].crc);
    expect(resumed[0].losses).toEqual(two[0].losses.slice(4));
  });

  test('ranks that were given different runs refuse to start', () => {
    const outputDir = join(base, 'different');
    const child = (steps: number): string[] => [
      '-np',
      '1',
      process.execPath,
      ...childArgs('ranks-child.ts', { outputDir, accumulation: 1, steps }),
    ];
    const { status, stderr } = spawnSync('mpirun', [...MPI_ARGS, ...child(3), ':', ...child(4)], { encoding: 'utf8' });
    expect(status).not.toBe(0);
    expect(stderr).toContain('the ranks disagree: max_steps is 3 on rank 0 and 4 on rank 1');
  });
});
