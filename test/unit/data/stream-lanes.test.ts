/** Lanes: ranks that read their own files are one process; positions go from one number of ranks to another. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import {
  Dataset,
  interleave,
  IterableDataset,
  loadDataset,
  StreamLoader,
  type StepBatches,
  type StreamLoaderOptions,
  type StreamLoaderState,
  type StreamPeers,
} from '../../../src/data';
import { FakeTokenizer } from './fake-tokenizer';

const base = mkdtempSync(join(tmpdir(), 'lathe-lanes-'));
afterAll(() => rmSync(base, { recursive: true, force: true }));

const FILES = 6;
/** Every row's text is its own; files have from 12 to 22 rows. */
const rowsOf = (file: number): string[] =>
  Array.from({ length: 12 + 2 * file }, (_, i) =>
    String.fromCharCode(0x4e00 + 100 * file + i).repeat(1 + ((7 * i + file) % 11)),
  );
const name = (file: number): string => `train-0000${file}-of-00006.jsonl${file % 2 ? '.gz' : ''}`;

function write(folder: string): string {
  const dir = join(base, folder);
  mkdirSync(dir);
  for (let file = 0; file < FILES; file++) {
    const bytes = Buffer.from(
      rowsOf(file)
        .map((text) => `${JSON.stringify({ text })}\n`)
        .join(''),
    );
    writeFileSync(join(dir, name(file)), file % 2 ? gzipSync(bytes) : bytes);
  }
  return dir;
}
const data = write('rows');
const stream = (dir = data): Promise<IterableDataset> => loadDataset(dir, { split: 'train', streaming: true });

/** A meeting of ranks in one process: every call waits for the others. */
function meeting(size: number): StreamPeers[] {
  let arrived: (Uint8Array | undefined)[] = [];
  let open: ((all: Uint8Array[]) => void)[] = [];
  return Array.from({ length: size }, (_, rank) => ({
    gather: (bytes: Uint8Array) =>
      new Promise<Uint8Array[]>((resolve) => {
        arrived[rank] = Uint8Array.from(bytes);
        open.push(resolve);
        if (open.length < size) return;
        const [all, waiting] = [arrived as Uint8Array[], open];
        [arrived, open] = [[], []];
        waiting.forEach((done) => done(all));
      }),
  }));
}

type Options = Partial<StreamLoaderOptions>;
const SETTINGS: StreamLoaderOptions = {
  batchSize: 2,
  maxLength: 16,
  packing: 'wrapped',
  windowRows: 40,
  windowTokens: 200,
  seed: 5,
};

/** The loaders of a job of `ranks` with `microBatches` a step. */
function job(rows: IterableDataset, ranks: number, microBatches: number, options: Options = {}): StreamLoader[] {
  return meeting(ranks).map(
    (peers, rank) =>
      new StreamLoader(rows, new FakeTokenizer(), {
        ...SETTINGS,
        gradientAccumulationSteps: microBatches / ranks,
        rank,
        worldSize: ranks,
        peers,
        ...options,
      }),
  );
}

/** Steps of a job: what its ranks have in common, and their micro-batches in the order of one process. */
async function steps(loaders: StreamLoader[], count: number): Promise<StepBatches[]> {
  const all: StepBatches[] = [];
  for (let i = 0; i < count; i++) {
    const parts = await Promise.all(loaders.map((loader) => loader.next()));
    const [{ epoch, stepInEpoch, endsEpoch, numLabels }] = parts;
    for (const part of parts) expect(part).toMatchObject({ epoch, stepInEpoch, endsEpoch, numLabels });
    const microBatches = Array.from(
      { length: loaders.length * parts[0].microBatches.length },
      (_, n) => parts[n % loaders.length].microBatches[Math.floor(n / loaders.length)],
    );
    all.push({ epoch, stepInEpoch, endsEpoch, numLabels, microBatches });
  }
  return all;
}

const close = (loaders: StreamLoader[]): Promise<unknown> => Promise.all(loaders.map((loader) => loader.close()));
/** The ids of batches, without what pads them. */
const tokensOf = (all: StepBatches[]): number[] =>
  all.flatMap(({ microBatches }) =>
    microBatches.flatMap((batch) => Array.from(batch.inputIds.subarray(0, batch.numTokens))),
  );

describe.each([
  ['wrapped', { packing: 'wrapped' }, false],
  ['best fit, shuffled', { packing: 'bfd' }, true],
  ['rows as they are, shuffled', { packing: false }, true],
] as [string, Options, boolean][])('%s', (_name, options, isShuffled) => {
  const open = async (): Promise<IterableDataset> =>
    isShuffled ? (await stream()).shuffle({ seed: 3, bufferSize: 12 }) : stream();

  test.each([
    [2, 2, 2],
    [3, 6, 6],
    [2, 4, 4],
    [2, 2, 4],
    [3, 3, 6],
  ])(
    '%i ranks with %i micro-batches a step from %i lanes are one process, over several passes',
    async (ranks, microBatches, lanes) => {
      const whole = job(await open(), 1, microBatches, { ...options, lanes });
      const parts = job(await open(), ranks, microBatches, { ...options, lanes });
      const expected = await steps(whole, 60);
      expect(await steps(parts, 60)).toEqual(expected);
      expect(expected[59].epoch).toBeGreaterThan(0);
      for (const step of expected) {
        expect(step.microBatches).toHaveLength(microBatches);
        expect(step.numLabels).toBe(step.microBatches.reduce((sum, batch) => sum + batch.numLabels, 0));
      }
      await close([...whole, ...parts]);
    },
  );

  test('a position taken after any step goes on at 1, 2 and 4 ranks, and not at 3', async () => {
    const whole = job(await open(), 1, 4, { ...options, lanes: 4 });
    const expected = await steps(whole, 40);
    await close(whole);
    for (const k of [0, 1, 7, 30]) {
      const first = job(await open(), 2, 4, { ...options, lanes: 4 });
      await steps(first, k);
      const states = await Promise.all(first.map((loader) => loader.jobState()));
      expect(JSON.stringify(states[1])).toBe(JSON.stringify(states[0]));
      await close(first);
      for (const ranks of [1, 2, 4]) {
        // No number of lanes is given: the checkpoint's counts.
        const second = job(await open(), ranks, 4, k === 0 ? { ...options, lanes: 4 } : options);
        for (const loader of second) loader.seek(JSON.parse(JSON.stringify(states[0])) as StreamLoaderState);
        expect(await steps(second, 40 - k)).toEqual(expected.slice(k));
        await close(second);
      }
      if (k === 0) continue;
      const [third] = job(await open(), 3, 6, options);
      expect(() => third.seek(states[0])).toThrow(
        expect.objectContaining({
          code: 'ERR_CHECKPOINT',
          message: expect.stringMatching(/4 lanes, which 3 ranks.*start 1, 2 or 4 ranks/s) as string,
        }),
      );
    }
  });
});

test('the lanes of a pass hold every row once, whether files are shuffled or not', async () => {
  const encoded = await new FakeTokenizer().encodeBatch(
    Array.from({ length: FILES }, (_, file) => rowsOf(file))
      .flat()
      .map((text) => `${text}</s>`),
  );
  const expected = encoded.flatMap(({ ids }) => Array.from(ids)).sort((a, b) => a - b);
  for (const rows of [await stream(), (await stream()).shuffle({ seed: 9, bufferSize: 5 })]) {
    for (const epoch of [0, 1]) {
      const texts: string[] = [];
      for (const index of [0, 1, 2, 3]) {
        const cursor = rows.open(epoch, null, { index, count: 4 });
        for (let item = await cursor.next(); item; item = await cursor.next()) texts.push(item.row.text as string);
      }
      const again = await new FakeTokenizer().encodeBatch(texts.map((text) => `${text}</s>`));
      expect(again.flatMap(({ ids }) => Array.from(ids)).sort((a, b) => a - b)).toEqual(expected);
    }
  }
  // The loader's first pass: lanes that end early have begun their next one, so nothing may be missing.
  const loaders = job(await stream(), 1, 4, { lanes: 4 });
  const pass: StepBatches[] = [];
  do pass.push(...(await steps(loaders, 1)));
  while (!pass[pass.length - 1].endsEpoch);
  const counts = new Map<number, number>();
  for (const id of tokensOf(pass)) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const id of new Set(expected))
    expect(counts.get(id)).toBeGreaterThanOrEqual(expected.filter((other) => other === id).length);
  await close(loaders);
});

test('a rank opens no file of another', async () => {
  const dir = write('own');
  const rows = await stream(dir);
  const loaders = job(rows, 2, 2, { lanes: 2 });
  const whole = await steps(job(rows, 1, 2, { lanes: 2 }), 5);
  // What rank 1 reads is not there on rank 0's machine.
  for (const file of [1, 3, 5]) renameSync(join(dir, name(file)), join(base, name(file)));
  const first = loaders[0].next();
  await expect(loaders[1].next()).rejects.toThrow(/train-00001/);
  // Rank 0 could read its part, and is told why the step does not take place.
  await expect(first).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringMatching(/another rank/) as string,
  });
  for (const file of [1, 3, 5]) renameSync(join(base, name(file)), join(dir, name(file)));
  // Nobody has moved on.
  expect(await steps(loaders, 5)).toEqual(whole);
});

test('a file that vanishes in the middle: the position is that of the last whole step', async () => {
  const dir = write('gone');
  const rows = await stream(dir);
  const expected = await steps(job(rows, 1, 4, { lanes: 2, windowRows: 12 }), 30);
  const loaders = job(rows, 2, 4, { lanes: 2, windowRows: 12 });
  renameSync(join(dir, name(5)), join(base, 'aside'));
  let done = 0;
  const failed = async (): Promise<unknown> => {
    for (;;) {
      const results = await Promise.allSettled(loaders.map((loader) => loader.next()));
      const reasons = results.filter((result) => result.status === 'rejected').map((result) => String(result.reason));
      if (reasons.length > 0) return reasons;
      done++;
    }
  };
  expect(await failed()).toEqual([expect.stringMatching(/another rank/), expect.stringMatching(/train-00005/)]);
  expect(done).toBeGreaterThan(0);
  const [state] = await Promise.all(loaders.map((loader) => loader.jobState()));
  renameSync(join(base, 'aside'), join(dir, name(5)));
  const resumed = job(await stream(dir), 2, 4, { windowRows: 12 });
  for (const loader of resumed) loader.seek(JSON.parse(JSON.stringify(state)) as StreamLoaderState);
  expect(await steps(resumed, 30 - done)).toEqual(expected.slice(done));
});

test('how many lanes', async () => {
  const rows = await stream();
  const lanesOf = (
    ranks: number,
    of: IterableDataset = rows,
    options: Options = {},
  ): { lanes: number; note: string | null } => {
    const [loader] = job(of, ranks, ranks, options);
    return { lanes: (loader as unknown as { lanes: unknown[] }).lanes.length, note: loader.note };
  };
  expect([
    rows.numShards,
    rows.map(() => ({})).shuffle().numShards,
    rows.take(5).numShards,
    interleave([rows, rows.skip(1)]).numShards,
  ]).toEqual([6, 6, 1, 1]);
  expect(IterableDataset.fromDataset(Dataset.fromRows([{ text: 'a' }])).numShards).toBe(1);
  expect(lanesOf(1)).toEqual({ lanes: 1, note: null });
  expect(lanesOf(4)).toEqual({ lanes: 4, note: null });
  expect(lanesOf(7)).toEqual({
    lanes: 1,
    note: expect.stringMatching(/6 files for 7 ranks: every rank reads all of it.*7 files/s),
  });
  expect(lanesOf(2, rows.take(9)).note).toMatch(/one file.*test_split_size/);
  expect(lanesOf(2, rows, { lanes: 1 })).toEqual({ lanes: 1, note: null });
  for (const [ranks, lanes, message] of [
    [2, 3, /multiple of the 2 ranks/],
    [1, 7, /at most 6/],
    [1, 0.5, /whole number/],
  ] as const) {
    expect(() => lanesOf(ranks, rows, { lanes })).toThrow(
      expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) as string }),
    );
  }
});

test('states that do not fit: another number of lanes by configuration, other options, missing lanes', async () => {
  const [loader] = job(await stream(), 1, 4, { lanes: 4 });
  await steps([loader], 3);
  const state = JSON.parse(JSON.stringify(loader.state())) as StreamLoaderState;
  const refused = async (options: Options, microBatches = 4, of = state): Promise<void> => {
    const [other] = job(await stream(), 1, microBatches, options);
    expect(() => other.seek(of)).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }));
  };
  await refused({ lanes: 2 });
  await refused({ lanes: 1 });
  await refused({}, 8);
  await refused({ seed: 6 });
  await refused({}, 4, { ...state, lanes: [null, ...state.lanes!.slice(1)] });
  const few = new StreamLoader(IterableDataset.fromDataset(Dataset.fromRows([{ text: 'a' }])), new FakeTokenizer(), {
    ...SETTINGS,
    gradientAccumulationSteps: 4,
  });
  expect(() => few.seek(state)).toThrow(/4 lanes, and the data 1 files/);
  // A checkpoint of one lane goes on with two ranks that both read everything.
  const one = job(await stream(), 1, 2);
  const expected = await steps(one, 3);
  const position = one[0].state();
  expected.push(...(await steps(one, 5)));
  const two = job(await stream(), 2, 2);
  for (const rank of two) rank.seek(position);
  expect(await steps(two, 5)).toEqual(expected.slice(3));
});
