/** WordPiece and Unigram tokenizers (BERT, T5, CamemBERT, byte fallback) and the sparse files of old repositories, against transformers. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import { temporaryFolder } from './goldens';

const GOLDEN = join(__dirname, '../../golden/tokenizer-families');

interface Row {
  text: string;
  ids: number[];
  offsets: [number, number][];
  bare: number[];
  decoded: string;
  skipped: string;
}
const families = JSON.parse(readFileSync(join(GOLDEN, 'families.json'), 'utf8')) as Record<
  string,
  { length: number; named: Record<string, string>; special: string[]; rows: Row[] }
>;
const MODELS: Record<string, string> = {
  bert: 'WordPiece',
  'bert-cased': 'WordPiece',
  t5: 'Unigram',
  camembert: 'Unigram',
  'unigram-bytes': 'Unigram',
  'hub-bert': 'WordPiece',
  'hub-camembert': 'Unigram',
  'hub-gpt2': 'BPE',
};

test('every folder is tested', () => {
  expect(Object.keys(families).sort()).toEqual(Object.keys(MODELS).sort());
});

describe.each(Object.keys(families))('%s', (name) => {
  const expected = families[name];
  const tokenizer = AutoTokenizer.fromPretrained(join(GOLDEN, name));

  test('model, size, special tokens', () => {
    expect(tokenizer.modelType).toBe(MODELS[name]);
    expect(tokenizer.vocabSize).toBe(expected.length);
    expect(Object.fromEntries(tokenizer.specialTokensMap)).toEqual(expected.named);
    // Tokens that tokenizer.json marks as special are special here, named or not.
    expect(tokenizer.allSpecialTokens).toEqual(expect.arrayContaining(expected.special));
    const { bos_token: bos, pad_token: pad, mask_token: mask } = expected.named;
    expect(tokenizer.bosTokenId === undefined ? undefined : tokenizer.idToToken(tokenizer.bosTokenId)).toBe(bos);
    expect(tokenizer.padToken).toBe(pad);
    expect(tokenizer.maskTokenId).toBe(mask && tokenizer.tokenToId(mask));
  });

  test.each(expected.rows.map((row) => [row.text, row] as const))('%j', async (_text, row) => {
    const { ids, offsets } = await tokenizer.encodeWithOffsets(row.text);
    expect(ids).toEqual(row.ids);
    expect(await tokenizer.encode(row.text, { addSpecialTokens: false })).toEqual(row.bare);
    const letters = Array.from(row.text);
    expect(offsets.map(([a, b]) => row.text.slice(a, b))).toEqual(
      row.offsets.map(([a, b]) => letters.slice(a, b).join('')),
    );
    expect(tokenizer.decode(ids)).toBe(row.decoded);
    expect(tokenizer.decode(ids, { skipSpecialTokens: true })).toBe(row.skipped);
  });

  test('streamed pieces are the text', () => {
    for (const row of expected.rows) {
      const decoder = tokenizer.createDecoder();
      const text = row.ids.map((id) => decoder.push(id)).join('') + decoder.flush();
      expect(text).toBe(tokenizer.decode(row.ids, { cleanUpTokenizationSpaces: false }));
    }
  });

  test('saved unchanged, and after a token was added', async () => {
    const folder = temporaryFolder();
    AutoTokenizer.fromPretrained(join(GOLDEN, name)).savePretrained(folder);
    for (const file of readdirSync(folder))
      expect(readFileSync(join(folder, file)).equals(readFileSync(join(GOLDEN, name, file)))).toBe(true);
    const changed = AutoTokenizer.fromPretrained(join(GOLDEN, name));
    expect(changed.addSpecialTokens({ extraSpecialTokens: ['<|sep|>'] })).toBe(1);
    changed.savePretrained(folder);
    const again = AutoTokenizer.fromPretrained(folder);
    expect(Object.fromEntries(again.specialTokensMap)).toEqual(expected.named);
    expect(await again.encode('the old cat<|sep|>')).toEqual(await changed.encode('the old cat<|sep|>'));
  });
});
