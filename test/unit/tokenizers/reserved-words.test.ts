/** Which reserved words a tokenizer splits; the seam through which a tokenizer finds its training. */
import { join } from 'node:path';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import { RESERVED_WORDS, reservedWords } from '../../../src/tokenizers/reserved-words';
import { trainNewFromIterator } from '../../../src/tokenizers/train';
import { provideTokenizerTrainer, tokenizerTrainer } from '../../../src/tokenizers/training-hook';
import { referenceTraining as native } from './bpe-reference';
import { GOLDEN } from './goldens';

test('the lists are complete and without repetition', () => {
  expect(RESERVED_WORDS.python).toHaveLength(35);
  expect(RESERVED_WORDS.javascript).toHaveLength(38);
  for (const list of Object.values(RESERVED_WORDS)) expect(new Set(list).size).toBe(list.length);
});

test('a word counts as one token at the beginning and after a blank, separately', async () => {
  // 'return' is learned bare, 'while' with its blank, 'def' both ways.
  const texts = [
    ...Array<string>(50).fill('return'),
    ...Array<string>(50).fill('a while'),
    ...Array<string>(50).fill('def'),
    ...Array<string>(50).fill('a def'),
  ];
  const { tokenizer } = await trainNewFromIterator(null, texts, { native, vocabSize: 400 });
  const { words, missing, missingAfterBlank } = await reservedWords(tokenizer, 'python');
  expect(words).toBe(35);
  const found = (list: readonly string[]) => RESERVED_WORDS.python.filter((word) => !list.includes(word));
  expect(found(missing)).toEqual(['def', 'return']);
  expect(found(missingAfterBlank)).toEqual(['def', 'while']);
});

test('an unknown language is refused with the nearest', async () => {
  const tokenizer = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));
  await expect(reservedWords(tokenizer, 'pyhton')).rejects.toThrow(/did you mean 'python'/);
});

test('training without the native side says what to import; with it, the tokenizer is the model', async () => {
  const tokenizer = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));
  expect(() => tokenizerTrainer()).toThrow(/import AutoTokenizer from 'lathe'/);
  expect(() => tokenizer.trainNewFromIterator(['a'], { vocabSize: 300 })).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG' }),
  );
  provideTokenizerTrainer(
    async (model, texts, options) => (await trainNewFromIterator(model, texts, { ...options, native })).tokenizer,
  );
  const trained = await tokenizer.trainNewFromIterator(['some words, some text'], { vocabSize: 265 });
  expect([trained.vocabSize, trained.eosToken]).toEqual([265, tokenizer.eosToken]);
});
