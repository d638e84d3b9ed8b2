/** Training: the merges of the tokenizers library, the files around them, what is kept of a model tokenizer; statistics. */
import { join } from 'node:path';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import { BYTE_ALPHABET, preTokenizerComponent, preTokenizerKind } from '../../../src/tokenizers/byte-level';
import { tokenizerStats } from '../../../src/tokenizers/tokenizer-stats';
import type { TokenizerJson } from '../../../src/tokenizers/tokenizer-files';
import { trainNewFromIterator } from '../../../src/tokenizers/train';
import { referenceTraining as native } from './bpe-reference';
import { GOLDEN, golden, temporaryFolder } from './goldens';

interface TrainCase {
  vocabSize: number;
  minFrequency: number;
  initialAlphabet: boolean;
  specialTokens: string[];
  tokens: string[];
  merges: string[];
}
const { corpus, cases } = golden<{ corpus: string[]; cases: TrainCase[] }>('train.json');
const small = corpus.slice(0, 120);

function modelOf(json: string): { tokens: string[]; merges: string[] } {
  const model = (JSON.parse(json) as TokenizerJson).model as unknown as {
    vocab: Record<string, number>;
    merges: string[][];
  };
  return {
    tokens: Object.entries(model.vocab)
      .sort((a, b) => a[1] - b[1])
      .map(([token]) => token),
    merges: model.merges.map((pair) => pair.join(' ')),
  };
}

describe('equals the tokenizers library', () => {
  test.each(cases.map((c) => [`${c.vocabSize} tokens, pairs from ${c.minFrequency}`, c] as const))(
    '%s',
    async (_name, c) => {
      const { tokenizer, stats } = await trainNewFromIterator(null, corpus, {
        native,
        vocabSize: c.vocabSize,
        minFrequency: c.minFrequency,
        specialTokens: c.specialTokens,
        initialAlphabet: c.initialAlphabet ? undefined : [],
      });
      expect(modelOf(tokenizer.toJson())).toEqual({ tokens: c.tokens, merges: c.merges });
      expect(stats.textBytes).toBe(Buffer.byteLength(corpus.join('')));
      expect(tokenizer.vocabSize).toBe(c.tokens.length);
    },
  );
});

describe('a tokenizer from nothing', () => {
  const train = (options = {}) =>
    trainNewFromIterator(null, small, {
      native,
      vocabSize: 320,
      specialTokens: ['<|endoftext|>'],
      eosToken: '<|endoftext|>',
      padToken: '<pad>',
      ...options,
    });

  test('encodes, decodes, saves and loads', async () => {
    const { tokenizer } = await train();
    expect([tokenizer.tokenToId('<|endoftext|>'), tokenizer.eosTokenId, tokenizer.padTokenId]).toEqual([0, 0, 1]);
    const text = 'the old cat won’t 😀\n';
    const ids = await tokenizer.encode(`${text}<|endoftext|>`);
    expect(tokenizer.decode(ids)).toBe(`${text}<|endoftext|>`);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(text);
    const folder = temporaryFolder();
    tokenizer.savePretrained(folder);
    const again = AutoTokenizer.fromPretrained(folder);
    expect(await again.encode(`${text}<|endoftext|>`)).toEqual(ids);
    expect(again.padToken).toBe('<pad>');
  });

  test('batches and async sources give the same', async () => {
    async function* source() {
      for (const text of small) yield await Promise.resolve([text]);
    }
    const one = await train();
    const two = await trainNewFromIterator(null, source(), {
      native,
      vocabSize: 320,
      specialTokens: ['<|endoftext|>'],
      eosToken: '<|endoftext|>',
      padToken: '<pad>',
    });
    expect(two.tokenizer.toJson()).toBe(one.tokenizer.toJson());
  });

  test('reports progress', async () => {
    const seen: string[] = [];
    await train({ onProgress: (p: { phase: string }) => seen.push(p.phase) });
    expect(new Set(seen)).toEqual(new Set(['count', 'merge']));
  });

  test('refuses no text, wrong items and too small vocabularies', async () => {
    await expect(trainNewFromIterator(null, [], { native, vocabSize: 300 })).rejects.toThrow(
      /expected text to train on/,
    );
    await expect(trainNewFromIterator(null, ['a', null as never], { native, vocabSize: 300 })).rejects.toThrow(
      /expected a text, received null \(at texts\[1\]\)/,
    );
    await expect(trainNewFromIterator(null, [['a', 3 as never]], { native, vocabSize: 300 })).rejects.toThrow(
      /texts\[1\]/,
    );
    await expect(train({ vocabSize: 258 })).rejects.toThrow(/above 258/);
    await expect(train({ initialAlphabet: ['日'] })).rejects.toThrow(/byte-level alphabet/);
  });
});

describe('a tokenizer like another', () => {
  const model = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));

  test('keeps pipeline, special tokens and template; replaces the vocabulary', async () => {
    const { tokenizer } = await trainNewFromIterator(model, small, {
      native,
      vocabSize: 300,
      specialTokens: ['<new>'],
      specialTokensMap: { '<|im_end|>': '<|end|>' },
    });
    expect(tokenizer.allSpecialTokens.sort()).toEqual(['<new>', '<|endoftext|>', '<|end|>', '<|im_start|>'].sort());
    expect(['<|endoftext|>', '<|im_start|>', '<|end|>', '<new>'].map((t) => tokenizer.tokenToId(t))).toEqual([
      0, 1, 2, 3,
    ]);
    expect([tokenizer.eosToken, tokenizer.bosToken, tokenizer.vocabSize]).toEqual(['<|end|>', '<|endoftext|>', 300]);
    expect(tokenizer.chatTemplate).toBe(model.chatTemplate);
    expect(tokenizer.preTokenizer).toEqual(model.preTokenizer);
    expect(tokenizer.tokenToId('<think>')).toBeUndefined();
  });

  test('is the same as training with the same pipeline', async () => {
    const like = await trainNewFromIterator(model, small, { native, vocabSize: 300 });
    const fresh = await trainNewFromIterator(null, small, {
      native,
      vocabSize: 300,
      minFrequency: 0,
      specialTokens: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
    });
    expect(modelOf(like.tokenizer.toJson())).toEqual(modelOf(fresh.tokenizer.toJson()));
  });

  test('WordPiece is refused', async () => {
    const wordpiece = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-wordpiece'));
    await expect(trainNewFromIterator(wordpiece, small, { native, vocabSize: 300 })).rejects.toThrow(
      /expected byte-level BPE.*received WordPiece/,
    );
  });
});

test('pre-tokenizers are recognised from their files', () => {
  for (const kind of ['gpt2', 'gpt2-digits', 'llama3', 'qwen2'] as const)
    expect(preTokenizerKind(preTokenizerComponent(kind))).toBe(kind);
  expect(preTokenizerKind({ type: 'ByteLevel', add_prefix_space: true, use_regex: true })).toBeUndefined();
  expect(preTokenizerKind(null)).toBeUndefined();
  expect(new Set(BYTE_ALPHABET).size).toBe(256);
});

describe('statistics', () => {
  const tokenizer = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));

  test('of one text, counted by hand', async () => {
    const text = 'the old zq\n';
    const ids = await tokenizer.encode(text);
    expect(ids.map((id) => tokenizer.decode([id]))).toEqual(['the', ' old', ' ', 'z', 'q', '\n']);
    expect(await tokenizerStats(tokenizer, [text])).toMatchObject({
      texts: 1,
      characters: 11,
      bytes: 11,
      words: 3,
      tokens: 6,
      tokensPerWord: 2,
      fertility: 4 / 3, // the, old, z+q
      continuedWords: 1 / 3,
      charactersPerToken: 11 / 6,
      bytesPerToken: 11 / 6,
      coverage: 6 / tokenizer.vocabSize,
      unknown: 0,
      dropped: 0,
    });
  });

  test('a text the vocabulary was made for needs fewer pieces', async () => {
    const own = await tokenizerStats(tokenizer, corpus.slice(0, 60));
    const foreign = await tokenizerStats(tokenizer, [
      ['Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.'],
    ]);
    expect(own.fertility).toBeLessThan(foreign.fertility);
    expect(own.charactersPerToken).toBeGreaterThan(foreign.charactersPerToken);
    expect(own.longestTokens[0].length).toBeGreaterThanOrEqual(own.longestTokens[1].length);
    expect(own.lastTokens).toHaveLength(20);
    expect(own.lastTokens).not.toContain('<think>');
  });

  test('unknown tokens and dropped bytes are seen', async () => {
    const wordpiece = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-wordpiece'));
    expect((await tokenizerStats(wordpiece, ['the ☃ cat'])).unknown).toBeGreaterThan(0);
    const { tokenizer: narrow } = await trainNewFromIterator(null, ['aaa bbb'], {
      native,
      vocabSize: 10,
      initialAlphabet: [],
    });
    expect((await tokenizerStats(narrow, ['a日 b'])).dropped).toBeCloseTo(1 / 3);
  });

  test('nothing gives zeros', async () => {
    expect(await tokenizerStats(tokenizer, [])).toMatchObject({
      tokens: 0,
      fertility: 0,
      coverage: 0,
      charactersPerToken: 0,
    });
  });
});
