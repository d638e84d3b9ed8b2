/** AutoTokenizer and Tokenizer against transformers' ids, offsets, texts; special tokens; saving; broken files. */
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';
import { GOLDEN, golden, realTokenizer, temporaryFolder } from './goldens';

interface Row {
  text: string;
  ids: number[];
  offsets: [number, number][];
  bare: number[];
  decoded: string;
  skipped: string;
}
const tiny = golden<Record<string, { length: number; named: Record<string, string>; rows: Row[] }>>('tiny.json');
const open = (name: string) => AutoTokenizer.fromPretrained(join(GOLDEN, name));

/** transformers counts code points, we count UTF-16 units. */
const slices = (text: string, offsets: [number, number][]) => offsets.map(([a, b]) => text.slice(a, b));
const pythonSlices = (text: string, offsets: [number, number][]) =>
  offsets.map(([a, b]) => Array.from(text).slice(a, b).join(''));

describe.each(Object.keys(tiny))('%s equals transformers', (name) => {
  const tokenizer = open(name);
  const expected = tiny[name];

  test('size and special tokens', () => {
    expect(tokenizer.vocabSize).toBe(expected.length);
    expect(Object.fromEntries(tokenizer.specialTokensMap)).toEqual(expected.named);
  });

  test.each(expected.rows.map((row) => [row.text, row] as const))('%j', async (_text, row) => {
    expect(await tokenizer.encode(row.text)).toEqual(row.ids);
    expect(await tokenizer.encode(row.text, { addSpecialTokens: false })).toEqual(row.bare);
    expect(tokenizer.decode(row.ids)).toBe(row.decoded);
    expect(tokenizer.decode(row.ids, { skipSpecialTokens: true })).toBe(row.skipped);
    const { ids, offsets } = await tokenizer.encodeWithOffsets(row.text);
    expect(ids).toEqual(row.ids);
    expect(slices(row.text, offsets)).toEqual(pythonSlices(row.text, row.offsets));
  });

  test('a batch is the texts one by one', async () => {
    const batch = await tokenizer.encodeBatch(expected.rows.map((row) => row.text));
    expect(batch.map((entry) => entry.ids)).toEqual(expected.rows.map((row) => row.ids));
    batch.forEach((entry, i) =>
      expect(slices(expected.rows[i].text, entry.offsets)).toEqual(
        pythonSlices(expected.rows[i].text, expected.rows[i].offsets),
      ),
    );
    expect(await tokenizer.encodeBatch([])).toEqual([]);
  });

  test('streaming gives the same text, in whole characters', () => {
    for (const row of expected.rows) {
      const decoder = tokenizer.createDecoder();
      const pieces = row.ids.map((id) => decoder.push(id));
      for (const piece of pieces) if (!row.decoded.includes('\uFFFD')) expect(piece).not.toContain('\uFFFD');
      expect(pieces.join('') + decoder.flush()).toBe(tokenizer.decode(row.ids, { cleanUpTokenizationSpaces: false }));
    }
  });

  test('unchanged saves the same bytes', () => {
    const folder = temporaryFolder();
    open(name).savePretrained(folder);
    expect(readdirSync(folder).sort()).toEqual(readdirSync(join(GOLDEN, name)).sort());
    for (const file of readdirSync(folder))
      expect(readFileSync(join(folder, file)).equals(readFileSync(join(GOLDEN, name, file)))).toBe(true);
  });
});

test('an emoji split over byte tokens arrives when its last byte does', () => {
  const tokenizer = open('tiny-bpe');
  const bytes = Buffer.from('😀', 'utf8');
  const decoder = tokenizer.createDecoder();
  const ids = [...bytes].map((b) =>
    tokenizer.tokenToId(String.fromCodePoint(b >= 0xa1 ? b : b + 0x100 - 0x80 + 0x22))!,
  );
  expect(ids.every((id) => id !== undefined)).toBe(true);
  expect(ids.slice(0, 3).map((id) => decoder.push(id))).toEqual(['', '', '']);
  expect(decoder.push(ids[3])).toBe('😀');
  decoder.push(ids[0]);
  expect(decoder.flush()).toBe('\uFFFD');
});

describe('special tokens', () => {
  test('names and ids', () => {
    const tokenizer = open('tiny-bpe');
    expect([tokenizer.bosToken, tokenizer.bosTokenId]).toEqual(['<|endoftext|>', 0]);
    expect(tokenizer.eosTokenId).toBe(tokenizer.tokenToId('<|im_end|>'));
    expect(tokenizer.padToken).toBeUndefined();
    expect(tokenizer.idToToken(0)).toBe('<|endoftext|>');
    expect(tokenizer.idToToken(99999)).toBeUndefined();
    expect(tokenizer.tokenToId('no such token')).toBeUndefined();
    expect(tokenizer.allSpecialTokens.sort()).toEqual(['<|endoftext|>', '<|im_end|>', '<|im_start|>']);
    expect(tokenizer.modelMaxLength).toBe(512);
  });

  test('padToken must exist', () => {
    const tokenizer = open('tiny-bpe');
    expect(() => (tokenizer.padToken = '<|im_ends|>')).toThrow(/pad_token.*did you mean '<\|im_end\|>'/);
    tokenizer.padToken = '<|im_end|>';
    expect(tokenizer.padTokenId).toBe(tokenizer.eosTokenId);
  });

  test('adding appends ids and never moves them', async () => {
    const tokenizer = open('tiny-bpe');
    const before = tokenizer.vocabSize;
    const ids = await tokenizer.encode('the old cat');
    expect(
      tokenizer.addSpecialTokens({ padToken: '<pad>', extraSpecialTokens: ['<tool>', '<|im_end|>', '<tool>'] }),
    ).toBe(2);
    expect(tokenizer.addSpecialTokens({ pad_token: '<pad>', additional_special_tokens: ['<tool>'] })).toBe(0);
    expect(tokenizer.vocabSize).toBe(before + 2);
    expect([tokenizer.padTokenId, tokenizer.tokenToId('<tool>')]).toEqual([before, before + 1]);
    expect(await tokenizer.encode('the old cat')).toEqual(ids);
    expect(await tokenizer.encode('<tool>the old cat<pad>')).toEqual([before + 1, ...ids, before]);
    expect(tokenizer.decode([before + 1, ...ids, before], { skipSpecialTokens: true })).toBe('the old cat');
    expect(tokenizer.addTokens(['<a>', 'zzz'])).toBe(2);
    expect(await tokenizer.encode('<a>')).toEqual([before + 2]);
  });

  test('refuses what it does not know', () => {
    const tokenizer = open('tiny-bpe');
    expect(() => tokenizer.addSpecialTokens({ padtoken: '<pad>' })).toThrow(/did you mean padToken/);
    expect(() => tokenizer.addSpecialTokens({ padToken: '' })).toThrow(/non-empty/);
  });
});

describe('saving after a change', () => {
  test('writes the current format, which loads to the same ids', async () => {
    const folder = temporaryFolder();
    const tokenizer = open('tiny-bpe');
    tokenizer.addSpecialTokens({ padToken: '<pad>', extraSpecialTokens: ['<tool>'] });
    tokenizer.savePretrained(folder);
    expect(readdirSync(folder).sort()).toEqual(['chat_template.jinja', 'tokenizer.json', 'tokenizer_config.json']);
    const config = JSON.parse(readFileSync(join(folder, 'tokenizer_config.json'), 'utf8')) as Record<string, unknown>;
    expect(config).toMatchObject({
      pad_token: '<pad>',
      extra_special_tokens: ['<|im_start|>', '<|im_end|>', '<tool>'],
      model_max_length: 512,
    });
    expect(config).not.toHaveProperty('added_tokens_decoder');
    expect(config).not.toHaveProperty('chat_template');
    const again = AutoTokenizer.fromPretrained(folder);
    for (const { text } of tiny['tiny-bpe'].rows)
      expect(await again.encode(`${text}<tool>`)).toEqual(await tokenizer.encode(`${text}<tool>`));
    expect(again.chatTemplate).toBe(tokenizer.chatTemplate);
    expect([again.padTokenId, again.vocabSize]).toEqual([tokenizer.padTokenId, tokenizer.vocabSize]);
    const second = temporaryFolder();
    again.savePretrained(second);
    expect(readFileSync(join(second, 'tokenizer.json'))).toEqual(readFileSync(join(folder, 'tokenizer.json')));
  });

  test('templates become files', () => {
    const folder = temporaryFolder();
    const tokenizer = open('tiny-bpe');
    tokenizer.chatTemplate = 'A {{ messages[0].content }}';
    (tokenizer.chatTemplates as Map<string, string>).set('tool_use', 'T {{ messages[0].content }}');
    tokenizer.savePretrained(folder);
    expect(existsSync(join(folder, 'additional_chat_templates/tool_use.jinja'))).toBe(true);
    const again = AutoTokenizer.fromPretrained(folder);
    expect(again.applyChatTemplate([{ role: 'user', content: 'x' }])).toBe('A x');
    expect(again.applyChatTemplate([{ role: 'user', content: 'x' }], { tools: [{}] })).toBe('T x');
    expect(again.applyChatTemplate([{ role: 'user', content: 'x' }], { chatTemplate: 'tool_use' })).toBe('T x');
    expect(() => again.applyChatTemplate([{ role: 'user', content: 'x' }], { chatTemplate: 'tool-use' })).toThrow(
      /did you mean 'tool_use'/,
    );
  });
});

describe('legacy files', () => {
  test('special_tokens_map.json and added_tokens.json fill what the config lacks', async () => {
    const folder = temporaryFolder();
    cpSync(join(GOLDEN, 'tiny-bpe/tokenizer.json'), join(folder, 'tokenizer.json'));
    const size = open('tiny-bpe').vocabSize;
    writeFileSync(
      join(folder, 'special_tokens_map.json'),
      JSON.stringify({ pad_token: { content: '<p>', lstrip: true }, eos_token: '<|im_end|>' }),
    );
    writeFileSync(join(folder, 'added_tokens.json'), JSON.stringify({ '<two>': size + 1, '<one>': size }));
    const tokenizer = AutoTokenizer.fromPretrained(folder);
    expect(await tokenizer.encode('<one><two> <p>')).toEqual([size, size + 1, size + 2]);
    expect([tokenizer.padTokenId, tokenizer.eosToken]).toEqual([size + 2, '<|im_end|>']);
  });
});

describe('files that are no tokenizer', () => {
  const refuse = (name: string, content: string | undefined, message: RegExp) =>
    test(name, () => {
      const folder = temporaryFolder();
      if (content !== undefined) writeFileSync(join(folder, 'tokenizer.json'), content);
      expect(() => AutoTokenizer.fromPretrained(folder)).toThrow(message);
      expect(() => AutoTokenizer.fromPretrained(folder)).toThrow(
        expect.objectContaining({
          code: 'ERR_FORMAT',
          remedy: expect.any(String),
          at: expect.stringContaining(folder),
        }),
      );
    });
  const whole = readFileSync(join(GOLDEN, 'tiny-bpe/tokenizer.json'), 'utf8');
  refuse('missing', undefined, /expected a file tokenizer.json, received none/);
  refuse('empty', '', /empty file.*fetch the file again/);
  refuse('truncated', whole.slice(0, whole.length / 2), /truncated download.*fetch the file again/s);
  refuse(
    'a Git LFS pointer',
    'version https://git-lfs.github.com/spec/v1\noid sha256:0\n',
    /Git LFS pointer.*git lfs pull/,
  );
  refuse('another JSON', '{"hello": 1}', /'model.vocab', received keys \[hello\]/);
  refuse('a list', '[]', /model.vocab/);
  refuse('an unknown model', '{"model": {"type": "Nope", "vocab": {}}}', /refused tokenizer.json/);

  test('a folder with only a vocabulary names the way out', () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, 'merges.txt'), '');
    expect(() => AutoTokenizer.fromPretrained(folder)).toThrow(/only merges.txt is here: convert once/);
  });

  test('no folder', () => {
    expect(() => AutoTokenizer.fromPretrained('/no/such/folder')).toThrow(/no folder/);
  });

  test('a broken config', () => {
    const folder = temporaryFolder();
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'tokenizer.json'), whole);
    writeFileSync(join(folder, 'tokenizer_config.json'), '{"a": ');
    expect(() => AutoTokenizer.fromPretrained(folder)).toThrow(/tokenizer_config.json/);
  });

  test('not a text', async () => {
    const tokenizer = open('tiny-bpe');
    await expect(tokenizer.encode(undefined as never)).rejects.toThrow(/expected a text, received undefined/);
    await expect(tokenizer.encodeBatch(['a', null as never])).rejects.toThrow(/texts\[1\]/);
  });
});

describe('real tokenizers', () => {
  const real = golden<Record<string, { length: number; rows: { text: string; ids: number[] }[] }>>('real-ids.json');
  for (const [name, { length, rows }] of Object.entries(real)) {
    const folder = realTokenizer(name);
    (folder ? test : test.skip)(`${name} (needs LATHE_TOKENIZERS)`, async () => {
      const tokenizer = AutoTokenizer.fromPretrained(folder!);
      expect(tokenizer.vocabSize).toBe(length);
      for (const row of rows) {
        expect(await tokenizer.encode(row.text)).toEqual(row.ids);
        const decoder = tokenizer.createDecoder();
        expect(row.ids.map((id) => decoder.push(id)).join('') + decoder.flush()).toBe(tokenizer.decode(row.ids));
      }
    });
  }
});
