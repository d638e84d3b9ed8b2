/** The windowed loader: every document once, whole steps until the end, resumable after any step. */
import fc from 'fast-check';
import { Dataset, IterableDataset, StreamLoader, type StreamLoaderOptions, type StreamStep } from '../../../src/data';
import { FakeTokenizer } from './fake-tokenizer';

const texts = fc
  .array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 60 })
  .map((lengths) => lengths.map((n, i) => ({ text: String.fromCharCode(97 + (i % 26)).repeat(n) })));
const settings = fc.record({
  batchSize: fc.integer({ min: 1, max: 3 }),
  gradientAccumulationSteps: fc.integer({ min: 1, max: 2 }),
  packing: fc.constantFrom('bfd' as const, 'bfd_split' as const, 'wrapped' as const),
  maxLength: fc.constant(16),
  windowRows: fc.integer({ min: 2, max: 20 }),
  maxDocumentsPerRow: fc.integer({ min: 1, max: 4 }),
  seed: fc.nat(50),
});

const open = (rows: { text: string }[], options: StreamLoaderOptions): StreamLoader =>
  new StreamLoader(IterableDataset.fromDataset(Dataset.fromRows(rows)), new FakeTokenizer(), options);

async function collect(loader: StreamLoader, limit = Infinity): Promise<StreamStep[]> {
  const steps: StreamStep[] = [];
  for await (const step of loader.steps()) {
    steps.push(step);
    if (steps.length >= limit) break;
  }
  return steps;
}

const tokensOf = (steps: StreamStep[]): number[] =>
  steps
    .flatMap(({ microBatches }) =>
      microBatches.flatMap((batch) => Array.from(batch.inputIds.subarray(0, batch.numTokens))),
    )
    .sort((a, b) => a - b);

test('every token once, one shape, short steps only at the end', async () => {
  await fc.assert(
    fc.asyncProperty(texts, settings, async (rows, options) => {
      const loader = open(rows, options);
      const steps = await collect(loader);
      const encoded = await new FakeTokenizer().encodeBatch(rows.map(({ text }) => `${text}</s>`));
      const kept = encoded.flatMap(({ ids }) =>
        options.packing === 'bfd' ? Array.from(ids).slice(0, 16) : Array.from(ids),
      );
      expect(tokensOf(steps)).toEqual(kept.sort((a, b) => a - b));
      const full = options.gradientAccumulationSteps;
      steps.forEach(({ microBatches, numLabels }, i) => {
        if (i < steps.length - 1) expect(microBatches.length).toBe(full);
        expect(numLabels).toBe(microBatches.reduce((sum, batch) => sum + batch.numLabels, 0));
        for (const batch of microBatches) {
          expect([batch.tokens, batch.cuSeqlens.length]).toEqual([
            options.batchSize * 16,
            options.batchSize * options.maxDocumentsPerRow + 1,
          ]);
          // Wrapped rows are full but for the very last of the stream.
          if (options.packing === 'wrapped' && i < steps.length - 1) expect(batch.numTokens).toBe(batch.tokens);
        }
      });
    }),
    { numRuns: 60 },
  );
});

test('resumed from JSON after any k steps it gives the same steps', async () => {
  await fc.assert(
    fc.asyncProperty(texts, settings, fc.integer({ min: 1, max: 12 }), async (rows, options, k) => {
      const whole = await collect(open(rows, options));
      const first = open(rows, options);
      const seen = await collect(first, k);
      const second = open(rows, options);
      second.seek(JSON.parse(JSON.stringify(first.state())));
      // A loader that came to the end of its stream stands at the start of the next pass.
      const rest = await collect(second);
      expect([...seen, ...rest]).toEqual(k > whole.length ? [...whole, ...whole] : whole);
    }),
    { numRuns: 60 },
  );
});

test('a state that is none is refused', () => {
  expect(() => open([{ text: 'a' }], { batchSize: 1, maxLength: 16 }).seek({ position: -1 } as never)).toThrow(
    expect.objectContaining({ code: 'ERR_CHECKPOINT' }),
  );
});
