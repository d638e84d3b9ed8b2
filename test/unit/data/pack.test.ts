/** Packing: nothing lost, nothing split, rows as full as best-fit promises. */
import fc from 'fast-check';
import { packBestFit, packExamples, type TokenizedExample } from '../../../src/data';

const lengthsAndWidth = fc
  .integer({ min: 1, max: 200 })
  .chain((width) => fc.tuple(fc.array(fc.integer({ min: 0, max: width }), { maxLength: 120 }), fc.constant(width)));

/** Best-fit decreasing in its plainest form: try every row. */
function naiveRows(lengths: number[], width: number): number {
  const spaces: number[] = [];
  for (const length of [...lengths].filter((n) => n > 0).sort((a, b) => b - a)) {
    let best = -1;
    spaces.forEach((space, i) => {
      if (space >= length && (best < 0 || space < spaces[best])) best = i;
    });
    if (best < 0) best = spaces.push(width) - 1;
    spaces[best] -= length;
  }
  return spaces.length;
}

function example(length: number, row: number): TokenizedExample {
  const inputIds = Int32Array.from({ length }, (_, i) => row * 1000 + i);
  return { inputIds, labels: inputIds, row };
}

test('every document once and whole, no row too long, as few rows as plain best-fit', () => {
  fc.assert(
    fc.property(lengthsAndWidth, ([lengths, width]) => {
      const { rows, fill } = packBestFit(lengths, width);
      const placed = rows.flat().sort((a, b) => a - b);
      expect(placed).toEqual(lengths.flatMap((length, i) => (length > 0 ? [i] : [])));
      for (const row of rows) expect(row.reduce((sum, i) => sum + lengths[i], 0)).toBeLessThanOrEqual(width);
      expect(rows.length).toBe(naiveRows(lengths, width));
      const total = lengths.reduce((a, b) => a + b, 0);
      expect(fill).toBeCloseTo(rows.length === 0 ? 0 : total / (rows.length * width), 12);
      expect(packBestFit(lengths, width).rows).toEqual(rows);
    }),
    { numRuns: 300 },
  );
});

test('at most one row is half empty', () => {
  fc.assert(
    fc.property(lengthsAndWidth, ([lengths, width]) => {
      const used = packBestFit(lengths, width).rows.map((row) => row.reduce((sum, i) => sum + lengths[i], 0));
      expect(used.filter((tokens) => tokens * 2 <= width).length).toBeLessThanOrEqual(1);
    }),
  );
});

test('packing the whole dataset at once beats packing 1,000 rows at a time', () => {
  const lengths = Array.from({ length: 20000 }, (_, i) => 1 + Math.floor(900 * Math.abs(Math.sin(i * 12.9898)) ** 3));
  const whole = packBestFit(lengths, 1024);
  let local = 0;
  for (let i = 0; i < lengths.length; i += 1000) local += packBestFit(lengths.slice(i, i + 1000), 1024).rows.length;
  expect(whole.rows.length).toBeLessThan(local);
});

test('a document that does not fit is refused by name', () => {
  expect(() => packBestFit([3, 9], 8)).toThrow(/at most 8 tokens, received 9.*document 1/);
});

test('bfd_split and wrapped lose no token and keep order within a row', () => {
  const make = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 30 });
  fc.assert(
    fc.property(make, fc.integer({ min: 1, max: 16 }), (lengths, width) => {
      const examples = lengths.map(example);
      const ids = examples.flatMap(({ inputIds }) => Array.from(inputIds));
      for (const strategy of ['bfd_split', 'wrapped'] as const) {
        const { documents, packing } = packExamples(examples, width, strategy);
        for (const { inputIds } of documents) expect(inputIds.length).toBeLessThanOrEqual(width);
        expect(packing.rows.flat().sort((a, b) => a - b)).toEqual(documents.map((_, i) => i));
        expect(documents.flatMap(({ inputIds }) => Array.from(inputIds))).toEqual(ids);
        documents.forEach(({ row, inputIds }) => expect(Math.floor(inputIds[0] / 1000)).toBe(row));
        if (strategy === 'wrapped') expect(documents.length).toBe(Math.ceil(ids.length / width));
      }
    }),
  );
});
