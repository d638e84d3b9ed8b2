/** The collator of transformers: who is masked, with what, and that it depends on seed and batch alone. */
import { DataCollatorForLanguageModeling } from '../../../src/data';

const tokenizer = { vocabSize: 1000, padTokenId: 0, maskTokenId: 3, allSpecialIds: [0, 1, 2, 3] };
const row = (n: number, from = 10): number[] => [1, ...Array.from({ length: n - 2 }, (_, i) => from + (i % 900)), 2];

test('causal: labels are the ids, padding is not predicted', () => {
  const { shape, inputIds, attentionMask, labels } = new DataCollatorForLanguageModeling({
    tokenizer,
    mlm: false,
    padToMultipleOf: 4,
  }).collate([{ input_ids: [5, 6, 7] }, { inputIds: [8] }, [9, 10, 11, 12, 13]]);
  expect(shape).toEqual([3, 8]);
  expect(Array.from(inputIds)).toEqual([5, 6, 7, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12, 13, 0, 0, 0]);
  expect(Array.from(attentionMask)).toEqual(Array.from(inputIds, (id) => Number(id !== 0)));
  expect(Array.from(labels)).toEqual(Array.from(inputIds, (id) => (id === 0 ? -100 : id)));
});

test('masked: 15 % are predicted, of which 80 % are masked, 10 % random, 10 % as they were; special tokens never', () => {
  const rows = Array.from({ length: 100 }, (_, i) => row(400 + (i % 3)));
  const collator = new DataCollatorForLanguageModeling({ tokenizer, seed: 7 });
  const { shape, inputIds, labels } = collator.collate(rows);
  const count = { drawn: 0, masked: 0, random: 0, kept: 0, tokens: 0 };
  for (let r = 0; r < shape[0]; r++) {
    for (let i = 0; i < shape[1]; i++) {
      const [id, label, original] = [inputIds[r * shape[1] + i], labels[r * shape[1] + i], rows[r][i] ?? 0];
      if (original > 3) count.tokens++;
      else expect([id, label]).toEqual([original, -100]);
      if (label === -100) {
        expect(id).toBe(original);
        continue;
      }
      expect(label).toBe(original);
      count.drawn++;
      if (id === 3) count.masked++;
      else if (id === original) count.kept++;
      else count.random++;
    }
  }
  // Four standard deviations: 0.15 +- 0.0072, 0.8 +- 0.021, 0.1 +- 0.016.
  expect(Math.abs(count.drawn / count.tokens - 0.15)).toBeLessThan(0.0072);
  expect(Math.abs(count.masked / count.drawn - 0.8)).toBeLessThan(0.021);
  expect(Math.abs(count.random / count.drawn - 0.1)).toBeLessThan(0.016);
  expect(Math.abs(count.kept / count.drawn - 0.1)).toBeLessThan(0.016);
});

test('a batch is a function of seed and number', () => {
  const rows = [row(200), row(200)];
  const make = (seed = 7): DataCollatorForLanguageModeling => new DataCollatorForLanguageModeling({ tokenizer, seed });
  const [first, second] = [make(), make()];
  const zero = first.collate(rows);
  const one = first.collate(rows);
  expect(one.inputIds).not.toEqual(zero.inputIds);
  expect(second.collate(rows, 1)).toEqual(one);
  expect(second.collate(rows)).toEqual(zero);
  expect(make(8).collate(rows)).not.toEqual(zero);
  // The rows that follow do not move the masks of those before them.
  expect(make().collate([rows[0]]).labels).toEqual(zero.labels.subarray(0, 200));
});

test('shares other than the usual ones', () => {
  const all = new DataCollatorForLanguageModeling({
    tokenizer,
    mlmProbability: 1,
    maskReplaceProb: 1,
    randomReplaceProb: 0,
  }).collate([row(50)]);
  expect(Array.from(all.inputIds)).toEqual([1, ...new Array<number>(48).fill(3), 2]);
  const none = new DataCollatorForLanguageModeling({ tokenizer, mlmProbability: 0 }).collate([row(50)]);
  expect([Array.from(none.inputIds), new Set(none.labels)]).toEqual([row(50), new Set([-100])]);
});

test('what cannot be done is refused', () => {
  const { maskTokenId: _mask, ...plain } = tokenizer;
  expect(() => new DataCollatorForLanguageModeling({ tokenizer: { ...plain, maskTokenId: undefined } })).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG' }),
  );
  expect(() => new DataCollatorForLanguageModeling({ tokenizer, maskReplaceProb: 0.95 })).toThrow(
    /maskReplaceProb \+ randomReplaceProb/,
  );
  const unpadded = new DataCollatorForLanguageModeling({
    tokenizer: { ...tokenizer, padTokenId: undefined },
    mlm: false,
  });
  expect(
    unpadded.collate([
      [5, 6],
      [7, 8],
    ]).shape,
  ).toEqual([2, 2]);
  expect(() => unpadded.collate([[5, 6], [7]])).toThrow(/pad token/);
  expect(() => unpadded.collate([])).toThrow(expect.objectContaining({ code: 'ERR_DATA' }));
});
