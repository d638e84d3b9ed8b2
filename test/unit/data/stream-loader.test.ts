/** The windowed loader: every document once, whole steps until the end, resumable after any step. */
import fc from 'fast-check';
import {
  Dataset,
  IterableDataset,
  StreamLoader,
  type StepBatches,
  type StreamLoaderOptions,
  type StreamLoaderState,
} from '../../../src/data';
import { FakeTokenizer } from './fake-tokenizer';

const texts = fc
  .array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 60 })
  .map((lengths) => lengths.map((n, i) => ({ text: String.fromCharCode(97 + (i % 26)).repeat(n) })));
const settings = fc.record({
  batchSize: fc.integer({ min: 1, max: 3 }),
  gradientAccumulationSteps: fc.integer({ min: 1, max: 2 }),
  packing: fc.constantFrom('bfd' as const, 'bfd_split' as const, 'wrapped' as const, false as const),
  maxLength: fc.constant(16),
  windowRows: fc.integer({ min: 2, max: 20 }),
  windowTokens: fc.integer({ min: 10, max: 400 }),
  maxDocumentsPerRow: fc.integer({ min: 1, max: 4 }),
  seed: fc.nat(50),
  shuffleWindows: fc.boolean(),
});

const open = (rows: { text: string }[], options: StreamLoaderOptions, shuffle = false): StreamLoader => {
  const stream = IterableDataset.fromDataset(Dataset.fromRows(rows));
  return new StreamLoader(shuffle ? stream.shuffle({ seed: 3, bufferSize: 5 }) : stream, new FakeTokenizer(), options);
};

async function steps(loader: StreamLoader, count: number): Promise<StepBatches[]> {
  const all: StepBatches[] = [];
  while (all.length < count) all.push(await loader.next());
  return all;
}

/** The steps of the epoch that the loader stands in. */
async function restOfEpoch(loader: StreamLoader): Promise<StepBatches[]> {
  const all = [await loader.next()];
  while (!all[all.length - 1].endsEpoch) all.push(await loader.next());
  return all;
}

const tokensOf = (all: StepBatches[]): number[] =>
  all
    .flatMap(({ microBatches }) =>
      microBatches.flatMap((batch) => Array.from(batch.inputIds.subarray(0, batch.numTokens))),
    )
    .sort((a, b) => a - b);

test('every token once, known shapes, short steps only at the end', async () => {
  await fc.assert(
    fc.asyncProperty(texts, settings, async (rows, options) => {
      const loader = open(rows, options);
      const epoch = await restOfEpoch(loader);
      const encoded = await new FakeTokenizer().encodeBatch(rows.map(({ text }) => `${text}</s>`));
      const cuts = options.packing === 'bfd_split' || options.packing === 'wrapped';
      const kept = encoded.flatMap(({ ids }) => (cuts ? Array.from(ids) : Array.from(ids).slice(0, 16)));
      expect(tokensOf(epoch)).toEqual(kept.sort((a, b) => a - b));
      epoch.forEach(({ microBatches, numLabels, stepInEpoch, endsEpoch }, i) => {
        expect([stepInEpoch, endsEpoch]).toEqual([i, i === epoch.length - 1]);
        if (i < epoch.length - 1) expect(microBatches.length).toBe(options.gradientAccumulationSteps);
        expect(numLabels).toBe(microBatches.reduce((sum, batch) => sum + batch.numLabels, 0));
        for (const batch of microBatches) {
          expect(loader.shapes).toContainEqual({ tokens: batch.tokens, documents: batch.cuSeqlens.length - 1 });
          // Wrapped rows are full but for the very last of the stream.
          if (options.packing === 'wrapped' && i < epoch.length - 1) expect(batch.numTokens).toBe(batch.tokens);
        }
      });
      expect(await loader.next()).toMatchObject({ epoch: 1, stepInEpoch: 0 });
      await loader.close();
    }),
    { numRuns: 80 },
  );
});

test('resumed from JSON after any k steps, also in a later epoch, it gives the same steps', async () => {
  await fc.assert(
    fc.asyncProperty(texts, settings, fc.nat(12), fc.boolean(), async (rows, options, k, shuffle) => {
      const whole = await steps(open(rows, options, shuffle), k + 5);
      const first = open(rows, options, shuffle);
      const seen = await steps(first, k);
      const second = open(rows, options, shuffle);
      second.seek(JSON.parse(JSON.stringify(first.state())) as StreamLoaderState);
      expect([...seen, ...(await steps(second, 5))]).toEqual(whole);
    }),
    { numRuns: 100 },
  );
});

test('epochs differ in their order under a shuffle, and hold the same tokens', async () => {
  const rows = Array.from({ length: 40 }, (_, i) => ({ text: String.fromCharCode(97 + (i % 26)).repeat(1 + (i % 7)) }));
  const loader = open(rows, { batchSize: 2, maxLength: 16, packing: 'wrapped' }, true);
  const [first, second] = [await restOfEpoch(loader), await restOfEpoch(loader)];
  expect(tokensOf(first)).toEqual(tokensOf(second));
  expect(first[0].microBatches).not.toEqual(second[0].microBatches);
});

test('ranks share the micro-batches of one process', async () => {
  const rows = Array.from({ length: 40 }, (_, i) => ({ text: 'x'.repeat(1 + (i % 9)) }));
  const options = { batchSize: 2, maxLength: 16, packing: 'wrapped' as const };
  const whole = await steps(open(rows, { ...options, gradientAccumulationSteps: 2 }), 3);
  const ranks = await Promise.all([0, 1].map((rank) => steps(open(rows, { ...options, rank, worldSize: 2 }), 3)));
  whole.forEach(({ microBatches, numLabels }, i) => {
    expect(microBatches).toEqual([...ranks[0][i].microBatches, ...ranks[1][i].microBatches]);
    expect(ranks.map((steps) => steps[i].numLabels)).toEqual([numLabels, numLabels]);
  });
});

test('a state that is none, or of other options, is refused; the beginning of an epoch is a state', async () => {
  const rows = [{ text: 'a' }, { text: 'b' }];
  const loader = open(rows, { batchSize: 1, maxLength: 16 });
  expect(() => loader.seek({ epoch: -1, stepInEpoch: 0 })).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }));
  expect(() => loader.seek({ epoch: 0, stepInEpoch: 3 })).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }));
  const other = open(rows, { batchSize: 2, maxLength: 16 }).state();
  expect(() => loader.seek(other)).toThrow(/ignore_data_skip/);
  loader.seek({ epoch: 2, stepInEpoch: 0 });
  expect(await loader.next()).toMatchObject({ epoch: 2, stepInEpoch: 0 });
});

test('a stream without rows is an error, and a row that cannot be used can be left out', async () => {
  await expect(open([], { batchSize: 1, maxLength: 16 }).next()).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringMatching(
      /^expected rows in the stream, received none: check the files and filters/,
    ) as string,
  });
  const long = Array.from({ length: 40 }, () => ({ text: 'a'.repeat(30) }));
  await expect(
    open(long, { batchSize: 1, maxLength: 16, truncation: 'drop', windowRows: 7 }).next(),
  ).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringMatching(
      /received 40 of which none can be used: truncation drop at 16 tokens: dropped 40 rows \(first rows: 0, 1, .*raise max_length/,
    ) as string,
  });
  const rows = [{ text: 'a' }, { text: 7 }, { text: 'b' }] as unknown as { text: string }[];
  await expect(open(rows, { batchSize: 1, maxLength: 16 }).next()).rejects.toThrow(/row 1/);
  const left: string[] = [];
  const [step] = await steps(
    open(rows, { batchSize: 4, shuffleWindows: false, maxLength: 16, onBadRow: (error) => left.push(error.message) }),
    1,
  );
  expect(step.microBatches[0].rows).toEqual([0, 2]);
  expect(left).toEqual([expect.stringMatching(/expected a string.*row 1/)]);
});
