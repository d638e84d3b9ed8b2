/** Texts out of files of any kind, and the tokenizer commands on them as a user runs them. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { locateTextFiles, readTexts, type TextOptions } from '../../../src/cli/text-files';
import { tokenizerStatsCommand, tokenizerTrainCommand, type TrainFlags } from '../../../src/cli/tokenizer';
import { AutoTokenizer } from '../../../src/tokenizers/auto-tokenizer';

const root = mkdtempSync(join(tmpdir(), 'lathe-texts-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const write = (name: string, data: string | Buffer): string => {
  const path = join(root, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, data);
  return path;
};

async function textsOf(patterns: string[], options: TextOptions = {}): Promise<string[]> {
  const all: string[] = [];
  for await (const batch of readTexts(await locateTextFiles(patterns), options)) all.push(...batch);
  return all;
}

const source = 'def f():\n    return 1\n';
write('code/b.py', 'b = 2\r\n');
write('code/a.py', source);
write('code/__init__.py', '# package\n');
write('code/deep/c.py', '\ufeffc = 3\n');
write('code/deep/d.js', 'let d;');
write('code/.hidden/e.py', 'hidden');
write('code/__pycache__/f.py', 'cache');
write('code/empty.py', '');
symlinkSync(join(root, 'code'), join(root, 'code', 'loop'));

describe('which files', () => {
  const names = async (patterns: string[]) =>
    (await locateTextFiles(patterns)).map(({ path }) => path.slice(root.length + 1));

  test('patterns, folders and paths, in sorted order, each file once', async () => {
    expect(await names([join(root, 'code/**/*.py')])).toEqual([
      'code/__init__.py',
      'code/a.py',
      'code/b.py',
      'code/deep/c.py',
      'code/empty.py',
    ]);
    expect(await names([join(root, 'code/*.py'), join(root, 'code/a.py')])).toHaveLength(4);
    expect(await names([join(root, 'code/deep')])).toEqual(['code/deep/c.py', 'code/deep/d.js']);
    expect(await names([join(root, 'code/deep/?.[jp]*')])).toEqual(['code/deep/c.py', 'code/deep/d.js']);
  });

  test('a pattern that matches nothing is an error', async () => {
    await expect(locateTextFiles([join(root, 'code/*.rs')])).rejects.toThrow(
      /expected files at '.*\*\.rs', found none/,
    );
    await expect(locateTextFiles([join(root, 'nowhere')])).rejects.toThrow(
      expect.objectContaining({ code: 'ERR_DATA' }),
    );
  });
});

describe('texts', () => {
  test('source files are one text each, byte for byte but for the mark at the beginning', async () => {
    expect(await textsOf([join(root, 'code/**/*.py')])).toEqual(['# package\n', source, 'b = 2\r\n', 'c = 3\n']);
  });

  test('tables give a column', async () => {
    const rows = [
      { id: 1, content: 'x = 1\n' },
      { id: 2, content: 'naïve' },
    ]
      .map((row) => JSON.stringify(row))
      .join('\n');
    const [plain, packed] = [write('rows.jsonl', rows), write('rows2.jsonl.gz', gzipSync(rows))];
    expect(await textsOf([plain, packed])).toEqual(['x = 1\n', 'naïve', 'x = 1\n', 'naïve']);
    expect(await textsOf([write('rows.json', JSON.stringify([{ body: 'z' }]))], { field: 'body' })).toEqual(['z']);
    expect(await textsOf([write('rows.csv', 'text,n\nhello,1\n')])).toEqual(['hello']);
    expect(await textsOf([plain], { asText: true })).toEqual([rows]);
    await expect(textsOf([plain], { field: 'body' })).rejects.toThrow(
      /row 1: expected text in column 'body', found columns id, content/,
    );
    await expect(textsOf([write('ids.jsonl', '{"id": 1}')])).rejects.toThrow(/text or content or code/);
  });

  test('compressed source, also without the name', async () => {
    expect(await textsOf([write('a.py.gz', gzipSync(source))])).toEqual([source]);
    expect(await textsOf([write('unnamed', gzipSync(source))])).toEqual([source]);
  });

  test('bytes that are not UTF-8: an error, or left out and counted', async () => {
    const bad = write('bad/latin1.py', Buffer.from('# caf\xe9\n', 'latin1'));
    const good = write('bad/ok.py', 'fine');
    await expect(textsOf([bad])).rejects.toThrow(/latin1\.py.*--on-bad-file skip/);
    const skipped: string[] = [];
    expect(await textsOf([bad, good], { onBadFile: 'skip', onSkip: (path) => skipped.push(path) })).toEqual(['fine']);
    expect(skipped).toEqual([bad]);
  });

  test('a large file comes in parts that end before an unindented line', async () => {
    const block = 'def g():\n    return "é"\n\n\n';
    const text = block.repeat(Math.ceil((18 << 20) / Buffer.byteLength(block)));
    const parts = await textsOf([write('large.py', text)]);
    expect(parts.length).toBeGreaterThan(1);
    expect(parts.join('')).toBe(text);
    for (const part of parts) expect(part.startsWith('def g')).toBe(true);
  });
});

describe('lathe tokenizer', () => {
  const files = ['src/tokenizers/*.ts'];
  const said = async (run: () => Promise<void>): Promise<string> => {
    const write = jest.spyOn(process.stdout, 'write').mockReturnValue(true);
    try {
      await run();
      return write.mock.calls.map(([text]) => String(text)).join('');
    } finally {
      write.mockRestore();
    }
  };
  const flags = { files, onBadFile: 'error' };
  const [first, second] = [join(root, 'first'), join(root, 'second')];

  test('train, as a command', () => {
    const args = [
      'src/cli/main.ts',
      'tokenizer',
      'train',
      '--files',
      ...files,
      '--vocab-size',
      '600',
      '--output',
      first,
    ];
    const { status, stdout, stderr } = spawnSync(process.execPath, ['-r', 'ts-node/register/transpile-only', ...args], {
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(/^600 tokens from \d+ files, 0\.\d MB of text/);
  });

  test('train from another one; stats of both', async () => {
    await said(() =>
      tokenizerTrainCommand({ ...flags, vocabSize: '400', from: first, specialTokens: ['<a>', '<b>'], output: second }),
    );
    expect(await AutoTokenizer.fromPretrained(second).encode('<b>')).toEqual([2]);
    const json = await said(() =>
      tokenizerStatsCommand([first, second], { ...flags, keywords: 'javascript', json: true }),
    );
    const [one, two] = JSON.parse(json) as {
      tokenizer: string;
      fertility: number;
      unknown: number;
      reserved: { missing: string[] };
    }[];
    expect([one.tokenizer, two.tokenizer]).toEqual([first, second]);
    expect(two.fertility).toBeGreaterThan(one.fertility);
    expect(one.unknown).toBe(0);
    expect(two.reserved.missing.length).toBeGreaterThan(one.reserved.missing.length);
    const table = await said(() => tokenizerStatsCommand([first, second], { ...flags, keywords: 'javascript' }));
    expect(table).toMatch(/pieces per word \(fertility\) +\d+\.\d{3} +\d+\.\d{3}/);
    expect(table).toMatch(/javascript words not one token +\d+ of 38 +\d+ of 38/);
    expect(table).toMatch(/longest tokens +"/);
  });

  test.each<[Partial<TrainFlags>, RegExp]>([
    [{ vocabSize: 'many' }, /--vocab-size expected a whole number/],
    [{ memoryCap: 'lots' }, /--memory-cap expected a size, received 'lots'.*2GiB/],
    [{ preTokenizer: 'bert' }, /--pre-tokenizer expected one of gpt2/],
    [{ files: ['nothing/*.ts'] }, /expected files at 'nothing/],
    [{ onBadFile: 'ignore' }, /--on-bad-file expected error or skip/],
    [{ vocabSize: '100' }, /expected vocabSize above 257/],
  ])('%j is refused', async (change, message) => {
    await expect(
      tokenizerTrainCommand({ ...flags, vocabSize: '300', output: join(root, 'never'), ...change }),
    ).rejects.toThrow(message);
  });
});
