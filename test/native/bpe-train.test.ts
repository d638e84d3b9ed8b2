/** Tokenizer training through the addon: the reference's merges, any number of threads, misuse, abandoned processes. */
import { spawnSync } from 'node:child_process';
import { join, resolve } from 'node:path';
import { loadNative } from '../../src/runtime/binding';
import type { NativeBpeOptions } from '../../src/runtime/native';
import { tokenizerTraining } from '../../src/runtime/tokenizer-training';
import { AutoTokenizer, trainTokenizer } from '../../src/pretrained/auto-tokenizer';
import type { PreTokenizerKind } from '../../src/tokenizers/byte-level';
import { trainNewFromIterator } from '../../src/tokenizers/train';
import { referenceTraining } from '../unit/tokenizers/bpe-reference';
import { GOLDEN, golden } from '../unit/tokenizers/goldens';

interface TrainCase {
  vocabSize: number;
  minFrequency: number;
  initialAlphabet: boolean;
  specialTokens: string[];
  tokens: string[];
  merges: string[];
}
const { corpus, cases } = golden<{ corpus: string[]; cases: TrainCase[] }>('train.json');

function modelOf(json: string): { tokens: string[]; merges: string[] } {
  const { vocab, merges } = (JSON.parse(json) as { model: { vocab: Record<string, number>; merges: string[][] } })
    .model;
  return {
    tokens: Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]),
    merges: merges.map((pair) => pair.join(' ')),
  };
}

describe.each([1, 2])('%i threads: the merges of the tokenizers library', (threads) => {
  test.each(cases.map((c) => [c.vocabSize, c.minFrequency, c] as const))(
    '%i tokens, pairs from %i',
    async (_size, _minimum, c) => {
      const { tokenizer, stats } = await trainTokenizer(null, corpus, {
        vocabSize: c.vocabSize,
        minFrequency: c.minFrequency,
        specialTokens: c.specialTokens,
        initialAlphabet: c.initialAlphabet ? undefined : [],
        threads,
      });
      expect(modelOf(tokenizer.toJson())).toEqual({ tokens: c.tokens, merges: c.merges });
      expect(stats).toMatchObject({ textBytes: Buffer.byteLength(corpus.join('')), prunedWords: 0 });
    },
  );
});

/** Text in which threads really share the work: several batches of several megabytes, with every kind of character. */
function* longText(): Generator<string> {
  const words = [
    'def',
    'return',
    'self',
    'naïve',
    '日本語',
    '12345',
    '()',
    ':\n    ',
    '\n\n\n',
    "don't",
    '😀',
    'value_of',
    '  ',
  ];
  let state = 12345;
  for (let i = 0; i < 60; i++) {
    let text = '';
    while (text.length < 100_000) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      text += words[state % words.length] + (state % 7 === 0 ? String(state % 997) : ' ');
    }
    yield text;
  }
}

test.each<PreTokenizerKind>(['gpt2', 'gpt2-digits', 'llama3', 'qwen2'])(
  '%s: one thread and two give the same files',
  async (preTokenizer) => {
    const [one, two] = [1, 2].map((threads) =>
      trainTokenizer(null, longText(), { vocabSize: 1500, preTokenizer, threads }),
    );
    const { tokenizer, stats } = await one;
    expect((await two).tokenizer.toJson()).toBe(tokenizer.toJson());
    expect((await two).stats).toEqual(stats);
    expect(stats.textBytes).toBeGreaterThan(6e6);
  },
);

test('equals the plain TypeScript trainer on text without a golden file', async () => {
  const texts = [...longText()].slice(0, 1).map((text) => text.slice(0, 20_000));
  const options = { vocabSize: 600, minFrequency: 3 };
  const native = await trainTokenizer(null, texts, options);
  const plain = await trainNewFromIterator(null, texts, { ...options, native: referenceTraining });
  expect(native.tokenizer.toJson()).toBe(plain.tokenizer.toJson());
  expect(native.stats).toEqual(plain.stats);
});

test('the public calls: from nothing, and from a tokenizer whose pipeline is kept', async () => {
  const fresh = await AutoTokenizer.trainNewFromIterator(corpus, { vocabSize: 400, eosToken: '</s>' });
  expect([fresh.vocabSize, fresh.eosToken]).toEqual([400, '</s>']);
  const model = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));
  const like = await model.trainNewFromIterator(corpus, { vocabSize: 350 });
  expect([like.vocabSize, like.preTokenizer, like.chatTemplate]).toEqual([350, model.preTokenizer, model.chatTemplate]);
  expect(like.decode(await like.encode('the old cat'))).toBe('the old cat');
});

describe('a memory cap', () => {
  const words = Array.from({ length: 60_000 }, (_, i) => `word${(i * 7919) % 60_000} common `);

  test('drops the rarest words and counts them', async () => {
    const { tokenizer, stats } = await trainTokenizer(null, words, {
      vocabSize: 300,
      memoryCapBytes: 200_000,
      threads: 1,
    });
    // Each text is word, its number, common, a blank: the numbers occur once.
    expect(stats).toMatchObject({ words: 3, occurrences: 180_000, prunedWords: 60_000, prunedOccurrences: 60_000 });
    expect(tokenizer.tokenToId('Ġcommon')).toBeDefined();
  });

  test('is said by the public call, which gives only the tokenizer', async () => {
    const warn = jest.spyOn(process, 'emitWarning').mockImplementation(() => {});
    await AutoTokenizer.trainNewFromIterator(words, { vocabSize: 300, memoryCapBytes: 200_000, threads: 1 });
    expect(warn.mock.calls).toEqual([
      [expect.stringMatching(/reached its memory cap: 60000 rare words/), 'LatheWarning'],
    ]);
    warn.mockClear();
    await AutoTokenizer.trainNewFromIterator(words, { vocabSize: 300 });
    expect(warn).not.toHaveBeenCalled();
    warn.mockRestore();
  });

  test('that leaves nothing is an error', async () => {
    await expect(trainTokenizer(null, words, { vocabSize: 300, memoryCapBytes: 1000 })).rejects.toThrow(
      /memory cap left no word/,
    );
  });
});

test('progress comes while merging, and the event loop runs on', async () => {
  const seen: number[] = [];
  let ticks = 0;
  const timer = setInterval(() => ticks++, 5);
  await trainTokenizer(null, longText(), {
    vocabSize: 4000,
    threads: 1,
    onProgress: (p) => p.phase === 'merge' && seen.push(p.done),
  });
  clearInterval(timer);
  expect(seen.at(-1)).toBeGreaterThan(300);
  expect(ticks).toBeGreaterThan(5);
});

describe('misuse', () => {
  const options: NativeBpeOptions = {
    vocabSize: 300,
    minFrequency: 0,
    specialTokens: [],
    initialAlphabet: new Uint8Array(),
    preTokenizer: 'gpt2',
    threads: 1,
    memoryCapBytes: 0,
  };
  const bytes = Buffer.from('some text');

  test.each<[string, object, string]>([
    ['vocabSize', { vocabSize: -1 }, 'ERR_CONFIG'],
    ['preTokenizer', { preTokenizer: 'bert' }, 'ERR_CONFIG'],
    ['initialAlphabet', { initialAlphabet: [1, 2] }, 'ERR_DTYPE'],
    ['specialTokens', { specialTokens: [1] }, 'ERR_CONFIG'],
    ['threads', { threads: 1e6 }, 'ERR_CONFIG'],
  ])('a wrong %s is refused by name', (name, change, code) => {
    const attempt = () => tokenizerTraining.createBpeTrainer({ ...options, ...change });
    expect(attempt).toThrow(expect.objectContaining({ name: 'LatheError', code }));
    expect(attempt).toThrow(name);
  });

  test('lengths that do not fit the bytes', async () => {
    const trainer = tokenizerTraining.createBpeTrainer(options);
    await expect(trainer.feed(bytes, Uint32Array.of(4))).rejects.toThrow(/received less/);
    await expect(trainer.feed(bytes, Uint32Array.of(4, 6))).rejects.toThrow(/received more/);
    await expect(trainer.feed(bytes, Uint32Array.of(4, 0xffffffff))).rejects.toThrow(/received more/);
    await expect(trainer.feed(bytes, new Int32Array(1) as never)).rejects.toThrow(/Uint32Array/);
    await trainer.feed(bytes, Uint32Array.of(9));
    expect((await trainer.train()).stats).toMatchObject({ words: 2, textBytes: 9 });
  });

  test('one call at a time', async () => {
    const trainer = loadNative().createBpeTrainer(options);
    // Enough text that the first call is still at work when the second comes.
    const long = Buffer.alloc(16 << 20, 'some words in a row ');
    const pending = trainer.feed(long, Uint32Array.of(long.length));
    expect(() => trainer.feed(bytes, Uint32Array.of(bytes.length))).toThrow(/at work/);
    expect(() => trainer.train()).toThrow(/at work/);
    await pending;
    await trainer.train();
  });

  test('no text at all', async () => {
    const { tokens, merges } = await tokenizerTraining.createBpeTrainer(options).train();
    expect([tokens, merges.length]).toEqual([[], 0]);
  });
});

test('a source that throws in the middle rejects with its error', async () => {
  const source = function* () {
    yield 'x'.repeat(5 << 20);
    throw new Error('disk gone');
  };
  await expect(trainTokenizer(null, source(), { vocabSize: 300 })).rejects.toThrow('disk gone');
});

test.each(['exit', 'worker'])('%s in the middle of training ends the process cleanly', (how) => {
  const addon = process.env.LATHE_ADDON_PATH ?? resolve(__dirname, '../../build/Release/lathe.node');
  const script = join(__dirname, 'fixtures', 'exit-while-training.js');
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [script, addon, how], {
    encoding: 'utf8',
    timeout: 50_000,
  });
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: '' });
  expect(stdout).toContain('training');
  if (how === 'worker') expect(stdout).toContain('main still works');
});
