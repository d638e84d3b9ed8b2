/** tokenizer.json out of GGUF metadata: SentencePiece BPE against the sentencepiece library, byte-level BPE against the folder it came from. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import { KNOWN_GGUF_PRE_TOKENIZERS } from '../../../src/tokenizers/gguf-pre-tokenizers';
import { ggufTokenizerFiles, tokenizerFromGguf } from '../../../src/tokenizers/gguf-tokenizer';
import type { TokenizerJson } from '../../../src/tokenizers/tokenizer-files';
import { GOLDEN, golden, realTokenizer, temporaryFolder } from './goldens';

describe('llama (SentencePiece BPE)', () => {
  const { metadata, rows } = golden<{
    metadata: Record<string, unknown>;
    rows: { text: string; ids: number[]; decoded: string }[];
  }>('sentencepiece.json');
  const tokenizer = tokenizerFromGguf({ ...metadata, 'tokenizer.ggml.add_bos_token': false });

  test.each(rows.map((row) => [row.text, row] as const))('%j', async (_text, row) => {
    expect(await tokenizer.encode(row.text)).toEqual(row.ids);
    // The library drops the blank it added in front; of a text that is only that, nothing is left.
    expect(tokenizer.decode(row.ids)).toBe(row.decoded);
    const decoder = tokenizer.createDecoder();
    expect(row.ids.map((id) => decoder.push(id)).join('') + decoder.flush()).toBe(row.decoded);
  });

  test('adds BOS by default, and EOS when asked', async () => {
    const [bos, eos] = [metadata['tokenizer.ggml.bos_token_id'], metadata['tokenizer.ggml.eos_token_id']];
    const ids = await tokenizer.encode('the cat');
    expect(await tokenizerFromGguf(metadata).encode('the cat')).toEqual([bos, ...ids]);
    expect(
      await tokenizerFromGguf(new Map(Object.entries({ ...metadata, 'tokenizer.ggml.add_eos_token': true }))).encode(
        'the cat',
      ),
    ).toEqual([bos, ...ids, eos]);
    expect([tokenizer.bosToken, tokenizer.eosToken, tokenizer.unkToken]).toEqual(['<s>', '</s>', '<unk>']);
  });
});

describe('gpt2 (byte-level BPE)', () => {
  const json = JSON.parse(readFileSync(join(GOLDEN, 'tiny-bpe/tokenizer.json'), 'utf8')) as TokenizerJson & {
    model: { vocab: Record<string, number>; merges: string[][] };
  };
  const vocab: Record<string, number> = { ...json.model.vocab };
  for (const token of json.added_tokens!) vocab[token.content] = token.id!;
  const special = new Map(json.added_tokens!.map((token) => [token.content, token.special ? 3 : 4]));
  const tokens = Object.entries(vocab)
    .sort((a, b) => a[1] - b[1])
    .map(([token]) => token);
  const metadata: Record<string, unknown> = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'gpt-2',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': tokens.map((token) => special.get(token) ?? 1),
    'tokenizer.ggml.merges': json.model.merges.map((pair) => pair.join(' ')),
    'tokenizer.ggml.bos_token_id': 0,
    'tokenizer.ggml.eos_token_id': vocab['<|im_end|>'],
    'tokenizer.ggml.eot_token_id': 0,
    'tokenizer.chat_template': '{{ messages[0].content }}',
  };
  const texts = ['the old cat 2024', "I'll  see\n\n12 (x)", 'naïve 😀 日本', '<|im_start|>a<think>b<|im_end|>'];

  test('gives the ids of the folder', async () => {
    const folder = AutoTokenizer.fromPretrained(join(GOLDEN, 'tiny-bpe'));
    const tokenizer = tokenizerFromGguf(metadata);
    for (const text of texts) expect(await tokenizer.encode(text)).toEqual(await folder.encode(text));
    expect([tokenizer.vocabSize, tokenizer.bosTokenId, tokenizer.eosToken]).toEqual([
      folder.vocabSize,
      0,
      '<|im_end|>',
    ]);
    expect(tokenizer.allSpecialTokens).not.toContain('<think>');
    expect(tokenizer.applyChatTemplate([{ role: 'user', content: 'hi' }])).toBe('hi');
    expect(ggufTokenizerFiles(metadata).stopTokenIds).toEqual([vocab['<|im_end|>'], 0]);
  });

  test('survives saving', async () => {
    const folder = temporaryFolder();
    const tokenizer = tokenizerFromGguf(metadata);
    tokenizer.savePretrained(folder);
    const again = AutoTokenizer.fromPretrained(folder);
    for (const text of texts) expect(await again.encode(text)).toEqual(await tokenizer.encode(text));
    expect(again.chatTemplate).toBe('{{ messages[0].content }}');
  });

  test('cuts as its pre-tokenizer says', async () => {
    const words = async (pre: string) => {
      const tokenizer = tokenizerFromGguf({ ...metadata, 'tokenizer.ggml.pre': pre, 'tokenizer.ggml.merges': [] });
      return JSON.stringify((JSON.parse(tokenizer.toJson()) as TokenizerJson).pre_tokenizer);
    };
    expect(await words('smollm')).toContain('"individual_digits":true');
    expect(await words('llama-bpe')).toContain('{1,3}');
    expect(await words('default')).toContain('\\\\p{P}');
    for (const pre of KNOWN_GGUF_PRE_TOKENIZERS)
      expect(
        await tokenizerFromGguf({ ...metadata, 'tokenizer.ggml.pre': pre }).encode('a1', { addSpecialTokens: false }),
      ).toHaveLength(2);
  });

  test('llama-bpe adds BOS unless told otherwise', async () => {
    expect((await tokenizerFromGguf({ ...metadata, 'tokenizer.ggml.pre': 'llama-bpe' }).encode('a'))[0]).toBe(0);
    expect(
      await tokenizerFromGguf({
        ...metadata,
        'tokenizer.ggml.pre': 'llama-bpe',
        'tokenizer.ggml.add_bos_token': false,
      }).encode('a'),
    ).toHaveLength(1);
  });

  test.each<[string, Record<string, unknown>, RegExp, string]>([
    [
      'an unknown pre-tokenizer',
      { 'tokenizer.ggml.pre': 'brand-new' },
      /known tokenizer.ggml.pre.*received 'brand-new'/,
      'ERR_UNSUPPORTED',
    ],
    ['another algorithm', { 'tokenizer.ggml.model': 't5' }, /received "t5"/, 'ERR_UNSUPPORTED'],
    ['no tokens', { 'tokenizer.ggml.tokens': [] }, /tokens, received none/, 'ERR_FORMAT'],
    ['no merges', { 'tokenizer.ggml.merges': undefined }, /needs tokenizer.ggml.merges/, 'ERR_FORMAT'],
    [
      'types of another length',
      { 'tokenizer.ggml.token_type': [1] },
      /values of tokenizer.ggml.token_type, received 1/,
      'ERR_FORMAT',
    ],
    [
      'a token twice',
      { 'tokenizer.ggml.tokens': tokens.map((t, i) => (i === 300 ? tokens[301] : t)) },
      /stands twice/,
      'ERR_FORMAT',
    ],
    ['an id outside', { 'tokenizer.ggml.bos_token_id': 1e6 }, /bos_token_id below/, 'ERR_FORMAT'],
    ['a broken merge', { 'tokenizer.ggml.merges': ['abc'] }, /expected a merge/, 'ERR_FORMAT'],
  ])('refuses %s', (_name, change, message, code) => {
    expect(() => tokenizerFromGguf({ ...metadata, ...change }, 'x.gguf')).toThrow(message);
    expect(() => tokenizerFromGguf({ ...metadata, ...change }, 'x.gguf')).toThrow(expect.objectContaining({ code }));
  });

  const folder = realTokenizer('smollm2');
  (folder ? test : test.skip)('SmolLM2 knows its greeting (needs LATHE_TOKENIZERS)', async () => {
    expect(await AutoTokenizer.fromPretrained(folder!).encode('Hello world')).toEqual([19556, 905]);
  });
});
