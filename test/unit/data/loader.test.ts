/** Collation, buckets and the loader: what the engine gets, in which order, and from where. */
import fc from 'fast-check';
import {
  chooseBuckets,
  collate,
  countTrained,
  createLoader,
  IGNORE_INDEX,
  type Batch,
  type LoaderOptions,
  type TokenizedExample,
} from '../../../src/data';

function example(length: number, row: number, masked = 0): TokenizedExample {
  const inputIds = Int32Array.from({ length }, (_, i) => 1 + row * 1000 + i);
  const labels = inputIds.slice();
  labels.fill(IGNORE_INDEX, 0, masked);
  return { inputIds, labels: masked === 0 ? inputIds : labels, row };
}

const documents = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 0, max: 40 })), { minLength: 1, maxLength: 20 })
  .map((list) => list.map(([n, masked], row) => example(n, row, masked)))
  // A loader wants a label; packing may cut one away.
  .filter((list) => list.some(({ labels }) => countTrained(labels) > 1));

describe('collate', () => {
  test('by hand', () => {
    const batch = collate([example(3, 0, 1), example(1, 1), example(2, 2)], { tokens: 8, documents: 4, padId: 9 });
    expect({ ...batch, rows: [...batch.rows] }).toEqual({
      tokens: 8,
      inputIds: Int32Array.of(1, 2, 3, 1001, 2001, 2002, 9, 9),
      positionIds: Int32Array.of(0, 1, 2, 0, 0, 1, 0, 0),
      labels: Int32Array.of(2, 3, -100, -100, 2002, -100, -100, -100),
      cuSeqlens: Int32Array.of(0, 3, 4, 6, 6),
      numTokens: 6,
      numLabels: 3,
      rows: [0, 1, 2],
    });
  });

  test('every document is there, its labels are its own next tokens, the rest is padding', () => {
    fc.assert(
      fc.property(documents, fc.nat(9), fc.nat(5), (docs, padding, spare) => {
        const total = docs.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
        const batch = collate(docs, { tokens: total + padding, documents: docs.length + spare });
        expect(batch.cuSeqlens.length).toBe(docs.length + spare + 1);
        docs.forEach(({ inputIds, labels }, d) => {
          const [start, end] = [batch.cuSeqlens[d], batch.cuSeqlens[d + 1]];
          expect(batch.inputIds.slice(start, end)).toEqual(inputIds);
          expect(Array.from(batch.positionIds.slice(start, end))).toEqual(Array.from(inputIds, (_, i) => i));
          expect(Array.from(batch.labels.slice(start, end))).toEqual([...labels.slice(1), IGNORE_INDEX]);
        });
        for (let d = docs.length; d <= docs.length + spare; d++) expect(batch.cuSeqlens[d]).toBe(total);
        expect(batch.labels.slice(total).every((label) => label === IGNORE_INDEX)).toBe(true);
        expect(batch.numLabels).toBe(docs.reduce((sum, { labels }) => sum + countTrained(labels), 0));
        expect(batch.numTokens).toBe(total);
      }),
    );
  });

  test('too much is refused', () => {
    expect(() => collate([example(5, 0)], { tokens: 4 })).toThrow(/at most 4 tokens/);
    expect(() => collate([example(5, 0), example(1, 1)], { documents: 1 })).toThrow(/in 1 documents/);
  });
});

describe('chooseBuckets', () => {
  const totals = fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 300 });

  test('few ascending multiples that hold every total, with the waste it states', () => {
    fc.assert(
      fc.property(totals, fc.integer({ min: 1, max: 8 }), (list, maxBuckets) => {
        const { sizes, waste } = chooseBuckets(list, { maxBuckets });
        expect(sizes.length).toBeLessThanOrEqual(maxBuckets);
        expect(sizes).toEqual([...new Set(sizes)].sort((a, b) => a - b));
        for (const size of sizes) expect(size % 32).toBe(0);
        const padded = list.map((total) => sizes.find((size) => size >= total) as number);
        expect(padded).not.toContain(undefined);
        const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);
        expect(waste).toBeCloseTo(sum(padded) / sum(list) - 1, 9);
      }),
    );
  });

  test('no other choice of so many sizes pads less', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 320 }), { minLength: 1, maxLength: 12 }), (list) => {
        const { waste } = chooseBuckets(list, { maxBuckets: 2, targetWaste: 0 });
        const total = list.reduce((a, b) => a + b, 0);
        const top = Math.ceil(Math.max(...list) / 32) * 32;
        let best = Infinity;
        for (let low = 32; low <= top; low += 32)
          best = Math.min(
            best,
            list.reduce((sum, n) => sum + (n <= low ? low : top), 0),
          );
        expect(waste).toBeCloseTo(best / total - 1, 9);
      }),
    );
  });

  test('stops adding sizes when padding is small, and covers what was not sampled', () => {
    expect(chooseBuckets([1000, 1010, 1020]).sizes).toEqual([1024]);
    expect(chooseBuckets([64, 64], { cover: 500 }).sizes).toEqual([64, 512]);
    expect(chooseBuckets(Array.from({ length: 5000 }, (_, i) => i + 1)).sizes.length).toBeLessThanOrEqual(8);
  });
});

const optionsArbitrary: fc.Arbitrary<LoaderOptions> = fc.record({
  batchSize: fc.integer({ min: 1, max: 5 }),
  gradientAccumulationSteps: fc.integer({ min: 1, max: 3 }),
  seed: fc.nat(100),
  samplingStrategy: fc.constantFrom('random' as const, 'sequential' as const, 'group_by_length' as const),
  packing: fc.constantFrom(false, 'bfd' as const, 'bfd_split' as const, 'wrapped' as const),
  maxLength: fc.constant(30),
  dropLast: fc.constant(false),
});

function tokensOf(batches: Batch[]): number[] {
  return batches.flatMap((batch) => Array.from(batch.inputIds.subarray(0, batch.numTokens)));
}

describe('createLoader', () => {
  test('an epoch has every token once, in shapes that were announced', () => {
    fc.assert(
      fc.property(documents, optionsArbitrary, (docs, options) => {
        const loader = createLoader(docs, options);
        for (let epoch = 0; epoch < 2; epoch++) {
          const steps = [...loader.epochSteps()];
          expect(steps.length).toBe(loader.stepsPerEpoch);
          const batches = steps.flatMap(({ microBatches }) => microBatches);
          for (const batch of batches) {
            expect(loader.buckets).toContain(batch.tokens);
            expect(batch.cuSeqlens.length).toBe(loader.maxDocuments + 1);
          }
          if (options.packing) expect(loader.buckets).toEqual([options.batchSize * 30]);
          expect(tokensOf(batches).sort((a, b) => a - b)).toEqual(
            docs.flatMap(({ inputIds }) => Array.from(inputIds)).sort((a, b) => a - b),
          );
          for (const step of steps)
            expect(step.numLabels).toBe(step.microBatches.reduce((sum, { numLabels }) => sum + numLabels, 0));
          expect(
            steps.slice(0, -1).every(({ microBatches }) => microBatches.length === options.gradientAccumulationSteps),
          ).toBe(true);
        }
      }),
    );
  });

  test('resumed after any k steps it gives the same steps', () => {
    fc.assert(
      fc.property(documents, optionsArbitrary, fc.nat(30), (docs, options, k) => {
        const whole = createLoader(docs, options);
        const expected = Array.from({ length: k + 4 }, () => whole.next()).slice(k);
        const first = createLoader(docs, options);
        for (let i = 0; i < k; i++) first.next();
        const second = createLoader(docs, options);
        second.seek(JSON.parse(JSON.stringify(first.state())));
        expect(Array.from({ length: 4 }, () => second.next())).toEqual(expected);
      }),
    );
  });

  test('steps per epoch as the HF Trainer counts them', () => {
    const docs = Array.from({ length: 10 }, (_, i) => example(4, i));
    const steps = (options: Partial<LoaderOptions>): number =>
      createLoader(docs, { batchSize: 3, ...options }).stepsPerEpoch;
    expect(steps({})).toBe(4);
    expect(steps({ dropLast: true })).toBe(3);
    expect(steps({ gradientAccumulationSteps: 3 })).toBe(2);
    expect(steps({ gradientAccumulationSteps: 8 })).toBe(1);
  });

  test('ranks share a step: together they have what one rank would, and agree on the labels', () => {
    fc.assert(
      fc.property(
        documents,
        fc.integer({ min: 2, max: 4 }),
        fc.integer({ min: 1, max: 3 }),
        (docs, worldSize, gradientAccumulationSteps) => {
          const alone = createLoader(docs, {
            batchSize: 2,
            gradientAccumulationSteps: gradientAccumulationSteps * worldSize,
          });
          const ranks = Array.from({ length: worldSize }, (_, rank) =>
            createLoader(docs, { batchSize: 2, gradientAccumulationSteps, rank, worldSize }),
          );
          for (const step of alone.epochSteps()) {
            const parts = ranks.map((rank) => rank.next());
            for (const { numLabels } of parts) expect(numLabels).toBe(step.numLabels);
            const together = tokensOf(parts.flatMap(({ microBatches }) => microBatches)).sort((a, b) => a - b);
            expect(together).toEqual(tokensOf(step.microBatches).sort((a, b) => a - b));
          }
        },
      ),
    );
  });

  test('epochs differ when random and not when sequential; seeds differ', () => {
    const docs = Array.from({ length: 50 }, (_, i) => example(1 + (i % 7), i));
    const rows = (options: Partial<LoaderOptions>, epoch: number): number[] => {
      const loader = createLoader(docs, { batchSize: 4, ...options });
      loader.seek({ epoch, stepInEpoch: 0 });
      return [...loader.epochSteps()].flatMap(({ microBatches }) => microBatches.flatMap((batch) => batch.rows));
    };
    expect(rows({ shuffle: false }, 0)).toEqual(docs.map(({ row }) => row));
    expect(rows({ shuffle: false }, 3)).toEqual(rows({ shuffle: false }, 0));
    expect(rows({}, 0)).not.toEqual(rows({}, 1));
    expect(rows({ seed: 1 }, 0)).not.toEqual(rows({ seed: 2 }, 0));
    const grouped = rows({ samplingStrategy: 'group_by_length' }, 0);
    expect(docs[grouped[0]].inputIds.length).toBe(7);
    // Megabatches of 12: lengths fall inside each (the first two places may have swapped their longest).
    const lengths = grouped.map((row) => docs[row].inputIds.length);
    expect(lengths.slice(13, 24)).toEqual([...lengths.slice(13, 24)].sort((a, b) => b - a));
  });

  test('other data or options are noticed when resuming', () => {
    const docs = Array.from({ length: 9 }, (_, i) => example(4, i));
    const state = createLoader(docs, { batchSize: 2 }).state();
    const other =
      (examples: TokenizedExample[], options: Partial<LoaderOptions> = {}) =>
      () =>
        createLoader(examples, { batchSize: 2, ...options }).seek(state);
    expect(other(docs)).not.toThrow();
    expect(other(docs.slice(1))).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }));
    expect(other(docs, { seed: 7 })).toThrow(/same data, seed/);
    expect(other(docs, { gradientAccumulationSteps: 2 })).toThrow(/fingerprint/);
    const third = docs[3];
    const edited = Int32Array.from(third.inputIds);
    edited[1] += 1;
    const withThird = (row: Partial<TokenizedExample>): TokenizedExample[] => docs.with(3, { ...third, ...row });
    expect(other(withThird({ inputIds: edited, labels: edited }))).toThrow(/fingerprint/);
    expect(other(withThird({ labels: Int32Array.from(third.labels).fill(-100, 0, 2) }))).toThrow(/fingerprint/);
    expect(other(withThird({}))).not.toThrow();
  });

  test('own buckets must hold the largest batch', () => {
    const docs = Array.from({ length: 9 }, (_, i) => example(10 + i, i));
    expect(createLoader(docs, { batchSize: 2, buckets: [64, 32] }).buckets).toEqual([32, 64]);
    expect(() => createLoader(docs, { batchSize: 2, buckets: [32] })).toThrow(
      /at most 32 tokens in a batch, received 35/,
    );
    expect(() => createLoader(docs, { batchSize: 2, packing: true })).toThrow(/maxLength/);
  });

  const few = [example(4, 0), example(5, 1), example(6, 2)];
  test.each<[string, TokenizedExample[], Partial<LoaderOptions>, RegExp]>([
    ['no rows', [], {}, /^eval rows: expected at least one, received none: check the file, the split, filters/],
    [
      'rows of no token',
      [example(0, 0), example(0, 1)],
      {},
      /^eval rows: expected at least one token, received 2 rows without any: check the column/,
    ],
    [
      'fewer rows than a micro-batch that must be whole',
      few,
      { batchSize: 4, dropLast: true },
      /^eval rows: expected at least one whole micro-batch of 4 .*, received 3 rows: set dataloader_drop_last: false/,
    ],
    [
      'fewer packed rows than that',
      few,
      { batchSize: 2, dropLast: true, packing: true, maxLength: 16 },
      /received 1 packed rows of 16 tokens/,
    ],
    [
      'rows with every token masked',
      [example(4, 0, 4), example(5, 1, 5)],
      {},
      /^eval rows: expected at least one token that is not masked, received 2 rows without any: check completion_only_loss/,
    ],
    [
      'rows of one token, which nothing predicts',
      [example(1, 0), example(1, 1)],
      {},
      /expected at least one token that is not masked/,
    ],
  ])('%s: an error that says so', (_what, rows, options, message) => {
    expect(() => createLoader(rows, { batchSize: 2, name: 'eval rows', ...options })).toThrow(
      expect.objectContaining({ code: 'ERR_DATA', message: expect.stringMatching(message) as string }),
    );
  });

  test('the same rows without the demand that a micro-batch is whole', () => {
    expect(createLoader(few, { batchSize: 4 }).step(0, 0).microBatches).toHaveLength(1);
    expect(createLoader(few, { batchSize: 3, dropLast: true }).stepsPerEpoch).toBe(1);
  });
});
