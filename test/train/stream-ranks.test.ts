/**
 * Ranks that stream files of their own: two are one process with as many lanes, byte for byte in the data and within 1e-6 in
 * losses and weights; killed and resumed, also at another number of ranks, they are the same run.
 * Needs mpirun; without it the runs over ranks are skipped, and that is said.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { StreamLoaderState } from '../../src/data';
import { verifyDirectory } from '../../src/io/atomic-file';
import { distance, findMpi, runRanks, type Outcome } from './mpi';
import type { StreamRun, StreamRunResult } from './stream-ranks-child';
import { writeModel } from './tiny-folder';
import { temporaryFolder } from './tiny-run';

jest.setTimeout(600_000);
const base = temporaryFolder('stream-ranks');
const model = join(base, 'model');
const data = join(base, 'data');
const hasMpi = findMpi('streams over several ranks');
const overRanks = hasMpi ? test : test.skip;

const WORDS = 'the a small large ship sea moon rain wood king bread over under with and of'.split(' ');
const textOf = (i: number): string =>
  Array.from({ length: 9 + (i % 17) }, (_, k) => WORDS[(i * 7 + k * (1 + (i % 5))) % WORDS.length]).join(' ');

type Run = Omit<StreamRun, 'model' | 'data' | 'outputDir'> & { data?: string };

const start = (name: string, ranks: number, o: Run): Outcome<StreamRunResult> =>
  runRanks('stream-ranks-child.ts', ranks, { model, data, ...o, outputDir: join(base, name) } as StreamRun);

function finished(name: string, ranks: number, o: Run): StreamRunResult[] {
  const { status, output, results } = start(name, ranks, o);
  expect([status, status === 0 ? '' : output]).toEqual([0, '']);
  expect(results).toHaveLength(ranks);
  return results;
}

const loaderOf = (run: string, step: number): StreamLoaderState =>
  (
    JSON.parse(readFileSync(join(base, run, `checkpoint-${step}/lathe_state.json`), 'utf8')) as {
      loader: StreamLoaderState;
    }
  ).loader;

function expectSameTraining(a: StreamRunResult, b: StreamRunResult): void {
  expect(a.losses.length).toBe(b.losses.length);
  expect(distance(a.losses, b.losses)).toBeLessThan(1e-6);
  expect(distance(a.parameters, b.parameters)).toBeLessThan(1e-6);
  expect([a.epochs, a.numTokens]).toEqual([b.epochs, b.numTokens]);
}

const STEPS = 100;
let one: StreamRunResult;

beforeAll(async () => {
  await writeModel(model);
  mkdirSync(data);
  // 5 files of unequal length, two of them compressed, each with a bad line.
  for (let file = 0, row = 0; file < 5; file++) {
    const lines = Array.from({ length: 30 + 15 * file }, () => JSON.stringify({ text: textOf(row++) }));
    lines.splice(7, 0, '{"text": "cut sh');
    const bytes = Buffer.from(`${lines.join('\n')}\n`);
    writeFileSync(
      join(data, `train-0000${file}-of-00005.jsonl${file % 2 ? '.gz' : ''}`),
      file % 2 ? gzipSync(bytes) : bytes,
    );
  }
  [one] = finished('one', 1, { accumulation: 2, steps: STEPS, lanes: 2 });
});

test('one process with two lanes reads every file and goes through more than a pass', () => {
  expect(one.opened).toHaveLength(5);
  expect(one.losses).toHaveLength(STEPS);
  expect(one.epochs[STEPS - 1]).toBeGreaterThan(1);
});

overRanks('two ranks are that process: losses, weights, epochs, and the position in the data', () => {
  const two = finished('two', 2, { accumulation: 1, steps: STEPS });
  expectSameTraining(one, two[0]);
  // Every rank holds the same bits.
  expect(two[1]).toMatchObject({ losses: two[0].losses, crc: two[0].crc, epochs: two[0].epochs });
  for (const step of [20, 100]) expect(loaderOf('two', step)).toEqual(loaderOf('one', step));
  expect(loaderOf('two', 20).lanes).toHaveLength(2);
});

overRanks('in the first pass each rank reads its own files only', () => {
  const first = finished('first-pass', 2, { accumulation: 1, steps: 8 });
  const own = first.map(({ opened }) => new Set(opened));
  expect([...own[0]].filter((name) => own[1].has(name))).toEqual([]);
  expect(own.map(({ size }) => size > 0)).toEqual([true, true]);
});

overRanks('killed in the middle, resumed with two ranks and with one: the same run', async () => {
  const died = start('killed', 2, { accumulation: 1, steps: STEPS, kill: { rank: 1, step: 66 } });
  expect(died.status).not.toBe(0);
  expect(await verifyDirectory(join(base, 'killed/checkpoint-60'))).toEqual([]);
  const resumed = finished('killed', 2, { accumulation: 1, steps: STEPS, resume: true });
  const whole = JSON.parse(readFileSync(join(base, 'two/rank-0.json'), 'utf8')) as StreamRunResult;
  expect(resumed[0].losses).toEqual(whole.losses.slice(60));
  expect(resumed[0].crc).toBe(whole.crc);
  for (const step of readdirSync(join(base, 'killed')).filter((name) => /checkpoint-(80|100)/.test(name)))
    rmSync(join(base, 'killed', step), { recursive: true });
  // One process takes the lanes from the checkpoint, though it would have one of its own.
  const [alone] = finished('killed', 1, { accumulation: 2, steps: STEPS, resume: true });
  expect(distance(alone.losses, one.losses.slice(60))).toBeLessThan(1e-6);
  expect(distance(alone.parameters, one.parameters)).toBeLessThan(1e-6);
});

test('killed and resumed with lanes in one process: byte for byte', () => {
  const died = start('killed-one', 1, { accumulation: 2, steps: STEPS, lanes: 2, kill: { rank: 0, step: 66 } });
  expect(died.results).toHaveLength(0);
  const [resumed] = finished('killed-one', 1, { accumulation: 2, steps: STEPS, resume: true });
  expect(resumed.losses).toEqual(one.losses.slice(60));
  expect(resumed.crc).toBe(one.crc);
  const optimizer = (run: string): Buffer => readFileSync(join(base, run, 'checkpoint-100/optimizer.safetensors'));
  expect(optimizer('killed-one').equals(optimizer('one'))).toBe(true);
});

overRanks('lanes that the ranks cannot share are refused with what to do', () => {
  finished('three', 1, { accumulation: 3, steps: 20, lanes: 3 });
  const { status, output } = start('three', 2, { accumulation: 1, steps: 40, resume: true });
  expect(status).not.toBe(0);
  expect(output).toMatch(/ERR_CHECKPOINT|3 lanes, which 2 ranks cannot share evenly/);
  expect(output).toMatch(/start 1 or 3 ranks/);
});

overRanks('fewer files than ranks: every rank reads all, and rank 0 says so', () => {
  const single = join(base, 'single.jsonl');
  writeFileSync(single, Array.from({ length: 150 }, (_, i) => `${JSON.stringify({ text: textOf(i) })}\n`).join(''));
  const two = finished('few', 2, { accumulation: 1, steps: 8, data: single });
  expect(two[0].warnings.join('\n')).toMatch(/one file.*2 ranks: every rank reads all of it/);
  expect(two[1].warnings.join('\n')).not.toMatch(/every rank reads/);
  const [alone] = finished('few-one', 1, { accumulation: 2, steps: 8, data: single });
  expectSameTraining(alone, two[0]);
});
