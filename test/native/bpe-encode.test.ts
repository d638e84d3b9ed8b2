/** Native encoding gives the ids of the `tokenizers` library: on source code, on any Unicode, with added tokens inside. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { AutoTokenizer } from '../../src/pretrained/auto-tokenizer';
import { createBpeEncoder } from '../../src/runtime/tokenizer-training';
import { loadNative } from '../../src/runtime/binding';
import { BYTE_ALPHABET, PATTERNS } from '../../src/tokenizers/byte-level';
import { IdEncoder } from '../../src/tokenizers/id-encoder';
import { Tokenizer } from '../../src/tokenizers/tokenizer';
import type { TokenizerJson } from '../../src/tokenizers/tokenizer-files';
import { realTokenizer } from '../unit/tokenizers/goldens';

const ROOT = join(__dirname, '../..');
const sources = (folder: string): string[] =>
  readdirSync(join(ROOT, folder))
    .filter((name) => /\.(ts|md|py)$/.test(name))
    .map((name) => readFileSync(join(ROOT, folder, name), 'utf8'));
const TEXTS = [
  ...sources('src/train'),
  ...sources('docs'),
  ...sources('test/unit/data'),
  '',
  ' ',
  '\n',
  'a',
  "it's WE'LL I'M y'all",
  '  two   blanks\t\ttabs \r\n\r\n end  ',
  '1234567890 12 3.14159 ½ ٣٤ 漢字 かな',
  'naïve café ﬁ ſ ’s',
  '👩‍👩‍👧‍👦 😀😀 \u200b\ufeff',
  'x'.repeat(5000),
  `${'ab'.repeat(40)} ${'='.repeat(200)} ${'\u00e9'.repeat(90)}`,
  '\ud800 lone \udc00 surrogates',
  '<|endoftext|> in the <|im_end|><|im_end|>middle<|endoftext|>',
  'e\u0301 combining a\u0308',
  'ᄀ각힣 \u1100\u1161',
  '\u0000\u0001\u007f\u0080',
];

const ids = async (tokenizer: Tokenizer, texts: readonly string[], addSpecialTokens: boolean): Promise<number[][]> =>
  (await tokenizer.encodeIds(texts, { addSpecialTokens })).map((list) => Array.from(list));
const reference = async (
  tokenizer: Tokenizer,
  texts: readonly string[],
  addSpecialTokens: boolean,
): Promise<number[][]> => (await tokenizer.encodeBatch(texts, { addSpecialTokens })).map((text) => text.ids);

async function expectSame(tokenizer: Tokenizer): Promise<void> {
  for (const addSpecialTokens of [true, false])
    expect(await ids(tokenizer, TEXTS, addSpecialTokens)).toEqual(await reference(tokenizer, TEXTS, addSpecialTokens));
  const added = tokenizer.addedTokens.map(({ content }) => content).slice(0, 8);
  const piece = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 12 }),
    fc.string({ maxLength: 20 }),
    fc.constantFrom(' ', '  ', '\n', "'s", "'LL", '12', 'é', ...added),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.array(piece, { maxLength: 12 }).map((parts) => parts.join('')),
        { minLength: 1, maxLength: 6 },
      ),
      async (texts) => {
        expect(await ids(tokenizer, texts, true)).toEqual(await reference(tokenizer, texts, true));
      },
    ),
    { numRuns: 300 },
  );
}

/** Whether ids come from the addon. */
const isNative = (tokenizer: Tokenizer): boolean =>
  IdEncoder.of(JSON.parse(tokenizer.toJson()) as TokenizerJson) !== null;

/** A tokenizer with parts of its tokenizer.json replaced. */
function changed(folder: string, change: (json: TokenizerJson) => void): Tokenizer {
  const json = JSON.parse(readFileSync(join(folder, 'tokenizer.json'), 'utf8')) as TokenizerJson;
  change(json);
  return new Tokenizer({
    origin: 'test',
    tokenizerJson: JSON.stringify(json),
    config: {},
    chatTemplates: new Map(),
    originals: new Map(),
  });
}

const BASE = join(ROOT, 'data/base-model');

describe('equals the library', () => {
  test.each(['data/base-model', 'test/golden/tokenizers/tiny-bpe', 'test/golden/tokenizers/tiny-wordpiece'])(
    '%s',
    async (folder) => {
      const tokenizer = AutoTokenizer.fromPretrained(join(ROOT, folder));
      expect(isNative(tokenizer)).toBe(!folder.endsWith('wordpiece'));
      await expectSame(tokenizer);
    },
    120_000,
  );

  test.each(['gpt2', 'llama3', 'qwen3', 'smollm2'])(
    '%s',
    async (name) => {
      const folder = realTokenizer(name);
      if (folder) await expectSame(AutoTokenizer.fromPretrained(folder));
    },
    120_000,
  );

  test('the pre-tokenizers of four families', async () => {
    const split = (regex: string) => ({
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    });
    for (const pre of [
      split(PATTERNS.llama3),
      split(PATTERNS.qwen2),
      {
        type: 'Sequence',
        pretokenizers: [
          { type: 'Digits', individual_digits: true },
          { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
        ],
      },
    ]) {
      const tokenizer = changed(BASE, (json) => (json.pre_tokenizer = pre));
      expect(isNative(tokenizer)).toBe(true);
      await expectSame(tokenizer);
    }
  }, 120_000);

  test('tokens around a text, and texts that NFC may change', async () => {
    const tokenizer = changed(BASE, (json) => {
      json.normalizer = { type: 'NFC' };
      json.post_processor = {
        type: 'Sequence',
        processors: [
          { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true },
          {
            type: 'TemplateProcessing',
            single: [
              { SpecialToken: { id: '<|endoftext|>', type_id: 0 } },
              { Sequence: { id: 'A', type_id: 0 } },
              { SpecialToken: { id: '<|im_end|>', type_id: 0 } },
            ],
            pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
            special_tokens: {
              '<|endoftext|>': { id: '<|endoftext|>', ids: [0], tokens: ['<|endoftext|>'] },
              '<|im_end|>': { id: '<|im_end|>', ids: [3], tokens: ['<|im_end|>'] },
            },
          },
        ],
      };
    });
    expect(isNative(tokenizer)).toBe(true);
    await expectSame(tokenizer);
  }, 120_000);

  test('tokens added later, one the beginning of another, normalised ones last', async () => {
    const tokenizer = AutoTokenizer.fromPretrained(BASE);
    await tokenizer.encodeIds(['before']);
    tokenizer.addTokens([
      '<x>',
      '<x>>',
      { content: 'x>', normalized: false },
      { content: 'import ', normalized: true },
    ]);
    const texts = ['a<x>>b<x>c', '<x>><x', 'x>x>', 'import x>import y'];
    expect(await ids(tokenizer, texts, true)).toEqual(await reference(tokenizer, texts, true));
    expect(isNative(tokenizer)).toBe(true);
  });
});

test.each<[string, (json: TokenizerJson) => void]>([
  ['a normalizer', (json) => (json.normalizer = { type: 'Lowercase' })],
  ['dropout', (json) => (json.model.dropout = 0.1)],
  ['whole words first', (json) => (json.model.ignore_merges = true)],
  [
    'a blank put in front',
    (json) => (json.pre_tokenizer = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true }),
  ],
  ['a token that takes blanks along', (json) => (json.added_tokens![0].lstrip = true)],
])('%s is left to the library', async (_name, change) => {
  const tokenizer = changed(BASE, change);
  expect(isNative(tokenizer)).toBe(false);
  const texts = ['Some text', ' <|endoftext|> x'];
  if (!/dropout/.test(_name))
    expect(await ids(tokenizer, texts, true)).toEqual(await reference(tokenizer, texts, true));
});

test('many calls of a tokenizer at once', async () => {
  const tokenizer = AutoTokenizer.fromPretrained(BASE);
  const texts = Array.from({ length: 30 }, (_, i) => [`text ${i} `.repeat(i + 1), 'x']);
  const all = await Promise.all(texts.map((batch) => ids(tokenizer, batch, true)));
  for (const [i, batch] of texts.entries()) expect(all[i]).toEqual(await reference(tokenizer, batch, true));
});

test('several calls at once, and what is refused', async () => {
  const options = {
    preTokenizer: 'gpt2' as const,
    byteIds: Int32Array.from(BYTE_ALPHABET, (_, i) => i),
    merges: Int32Array.of(97, 98, 256, 256, 99, 257),
  };
  const encoder = createBpeEncoder(options)!;
  const text = Buffer.from('abc abab');
  const results = await Promise.all(Array.from({ length: 20 }, () => encoder.encode(text, Uint32Array.of(3, 5))));
  for (const { ids, counts } of results)
    expect([Array.from(ids), Array.from(counts)]).toEqual([
      [257, 32, 256, 256],
      [1, 3],
    ]);
  const refused =
    (change: object): (() => unknown) =>
    () =>
      loadNative().createBpeEncoder({ ...options, ...change });
  expect(refused({ byteIds: new Int32Array(3) })).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  expect(refused({ merges: Int32Array.of(1) })).toThrow(expect.objectContaining({ code: 'ERR_SHAPE' }));
  expect(refused({ merges: [1] })).toThrow(expect.objectContaining({ code: 'ERR_DTYPE' }));
  expect(refused({ preTokenizer: 'other' })).toThrow(expect.objectContaining({ code: 'ERR_CONFIG' }));
  expect(() => loadNative().createBpeEncoder(options).encode(text, Uint32Array.of(3, 9))).toThrow(
    expect.objectContaining({ code: 'ERR_SHAPE' }),
  );
});
