/** loadDataset: every format, folders as `datasets` reads them, and damaged files. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { loadDataset, type Dataset } from '../../../src/data';

const kFiles = join(__dirname, '../../golden/data-files');
let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'lathe-data-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
  return path;
}

const train = (path: string, options = {}): Promise<Dataset> => loadDataset(path, { split: 'train', ...options });

describe('JSON Lines', () => {
  test('columns are the union of keys, missing values null, blank lines and CRLF allowed', async () => {
    const path = write('a.jsonl', '\ufeff{"a": 1}\r\n\n{"b": "é", "a": null}\n{"c": [1, {"d": 2}]}');
    const dataset = await train(path);
    expect(dataset.columnNames).toEqual(['a', 'b', 'c']);
    expect([...dataset]).toEqual([
      { a: 1, b: null, c: null },
      { a: null, b: 'é', c: null },
      { a: null, b: null, c: [1, { d: 2 }] },
    ]);
    expect([0, 1, 2].map((i) => dataset.describeRow(i))).toEqual([`${path}:1`, `${path}:3`, `${path}:4`]);
  });

  test('a bad line is named', async () => {
    const path = write('a.jsonl', '{"a": 1}\n{"a": \n');
    await expect(train(path)).rejects.toMatchObject({ code: 'ERR_DATA', at: `${path}:2` });
    await expect(train(write('b.jsonl', '{"a": 1}\n[1]\n'))).rejects.toThrow(
      /expected a JSON object in the line, received an array/,
    );
    await expect(train(write('c.jsonl', Buffer.from([0x7b, 0xff, 0x7d, 10])))).rejects.toThrow(/UTF-8.*c\.jsonl:1/);
  });

  test('lines longer than a read chunk', async () => {
    const long = 'ü'.repeat(400_000);
    const dataset = await train(write('a.jsonl', `{"a":"${long}"}\n{"a":"b"}\n`));
    expect(dataset.column('a')).toEqual([long, 'b']);
  });

  test('gzip, whole, in members and cut', async () => {
    const bytes = gzipSync(
      Buffer.from(Array.from({ length: 3000 }, (_, i) => `{"i": ${i}, "r": ${Math.sin(i)}}\n`).join('')),
    );
    expect((await train(write('a.jsonl.gz', bytes))).length).toBe(3000);
    const members = Buffer.concat([gzipSync('{"i": 1}\n{"i"'), gzipSync(': 2}\n')]);
    expect((await train(write('b.jsonl.gz', members))).column('i')).toEqual([1, 2]);
    for (const keep of [bytes.length - 1, bytes.length - 9, bytes.length >> 1, 12]) {
      const path = write('cut.jsonl.gz', bytes.subarray(0, keep));
      await expect(train(path)).rejects.toMatchObject({ code: 'ERR_DATA', at: path });
    }
    // Stored, not compressed: only the checksum knows.
    const stored = gzipSync('{"i": 1}\n', { level: 0 });
    stored[stored.indexOf('1')] = '7'.charCodeAt(0);
    await expect(train(write('flipped.jsonl.gz', stored))).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(/incorrect data check.*flipped\.jsonl\.gz/) as string,
    });
    await expect(train(write('not.jsonl.gz', '{"a": 1}\n'))).rejects.toThrow(/expected gzip data by its name/);
  });

  test('zstd as zstd wrote it, in frames and cut anywhere', async () => {
    const many = await train(join(kFiles, 'many.jsonl.zst'));
    expect(many.length).toBe(5000);
    expect(many.get(4999)).toEqual({ id: 4999, text: `row 4999 of many, é ${'x'.repeat(49)}` });
    expect((await train(join(kFiles, 'frames.jsonl.zst'))).column('id')).toEqual([1, 2, 3]);
    const bytes = readFileSync(join(kFiles, 'many.jsonl.zst'));
    for (const keep of [bytes.length - 1, bytes.length - 5, bytes.length >> 1, 20, 5]) {
      const path = write('cut.jsonl.zst', bytes.subarray(0, keep));
      await expect(train(path)).rejects.toMatchObject({ code: 'ERR_DATA', at: path });
    }
  });
});

describe('JSON documents', () => {
  test('an array, "data", a named field, and JSON Lines under the name .json', async () => {
    expect((await train(write('a.json', '[{"x": 1}, {"x": 2}]'))).column('x')).toEqual([1, 2]);
    expect((await train(write('b.json', '{"version": 1, "data": [{"x": 1}]}'))).column('x')).toEqual([1]);
    expect((await train(write('c.json', '{\n "rows": [{"x": 3}]}'), { field: 'rows' })).column('x')).toEqual([3]);
    expect((await train(write('d.json', '{"x": 1}\n{"x": 2}\n'))).column('x')).toEqual([1, 2]);
  });

  test('errors say where', async () => {
    await expect(train(write('a.json', '[\n{"x": 1},\n{"x": }\n]'))).rejects.toThrow(/a\.json:3/);
    await expect(train(write('b.json', '[{"x": 1},\n{"x": 2'))).rejects.toThrow(/b\.json:2.*cut short/);
    await expect(train(write('c.json', '{"rows": [1]}'))).rejects.toThrow(
      /under "data", received an object with keys rows/,
    );
    await expect(train(write('d.json', '[{"x": 1}, 7]'))).rejects.toThrow(/element 1/);
  });
});

describe('CSV', () => {
  test('types as datasets reads them', async () => {
    const golden = JSON.parse(readFileSync(join(kFiles, 'hf-csv.json'), 'utf8')) as { csv: string; rows: unknown[] };
    const path = write('a.csv', golden.csv);
    const dataset = await train(path);
    expect([...dataset]).toEqual(golden.rows);
    expect([0, 1, 2].map((i) => dataset.describeRow(i))).toEqual([`${path}:2`, `${path}:3`, `${path}:4`]);
  });

  test('what we do otherwise: leading zeros, "NA" and big integers stay text', async () => {
    const dataset = await train(write('a.csv', 'zip,na,big\n007,NA,9007199254740993\n010,NA,1\n'));
    expect(dataset.get(0)).toEqual({ zip: '007', na: 'NA', big: '9007199254740993' });
  });

  test('delimiters, headers, given types, no rows', async () => {
    expect([...(await train(write('a.tsv', 'a\tb\n1\tx,y\n')))]).toEqual([{ a: 1, b: 'x,y' }]);
    expect([
      ...(await train(write('b.csv', '1;2\n'), { delimiter: ';', header: ['p', 'q'], columnTypes: { p: 'string' } })),
    ]).toEqual([{ p: '1', q: 2 }]);
    const empty = await train(write('c.csv', 'a,b\n'));
    expect([empty.length, empty.columnNames]).toEqual([0, ['a', 'b']]);
  });

  test('ragged rows and open quotes are named', async () => {
    await expect(train(write('a.csv', 'a,b\n1,2\n3\n'))).rejects.toThrow(/a\.csv:3/);
    await expect(train(write('b.csv', 'a,b\n1,"x\n'))).rejects.toMatchObject({ code: 'ERR_DATA' });
    await expect(train(write('c.csv', 'a,a\n1,2\n'))).rejects.toThrow(/"a" twice/);
    await expect(train(write('d.csv', ''))).rejects.toThrow(/header line/);
  });
});

describe('Parquet', () => {
  const rows = (JSON.parse(readFileSync(join(kFiles, 'chat.json'), 'utf8')) as { big: string }[]).map((row) => ({
    ...row,
    big: BigInt(row.big),
  }));

  test.each(['snappy', 'zstd', 'gzip', 'none'])('%s, nested lists, row groups, exact integers', async (codec) => {
    const dataset = await train(join(kFiles, `chat-${codec}.parquet`));
    expect([...dataset]).toEqual(rows);
    expect(dataset.describeRow(20)).toMatch(/parquet row 20$/);
  });

  test('only the columns asked for', async () => {
    const dataset = await train(join(kFiles, 'chat-zstd.parquet'), { columns: ['id'] });
    expect(dataset.columnNames).toEqual(['id']);
    expect(dataset.get(39)).toEqual({ id: 39 });
  });

  test('cut files fail', async () => {
    const bytes = readFileSync(join(kFiles, 'chat-snappy.parquet'));
    for (const keep of [bytes.length - 1, bytes.length >> 1, 10]) {
      const path = write('cut.parquet', bytes.subarray(0, keep));
      await expect(train(path)).rejects.toMatchObject({ code: 'ERR_DATA', at: path });
    }
  });
});

describe('text', () => {
  test('a row per line, paragraph or file', async () => {
    const path = write('a.txt', 'one\n\ntwo\nthree\n');
    expect((await train(path)).column('text')).toEqual(['one', '', 'two', 'three']);
    expect((await train(path, { sampleBy: 'paragraph' })).column('text')).toEqual(['one', 'two\nthree']);
    expect((await train(path, { sampleBy: 'document' })).column('text')).toEqual(['one\n\ntwo\nthree\n']);
  });
});

describe('folders', () => {
  const splitsOf = async (options = {}): Promise<Record<string, number>> => {
    const splits = await loadDataset(folder, options);
    return Object.fromEntries(Object.entries(splits).map(([name, dataset]) => [name, dataset.length]));
  };

  test('split words in file names, in order train, validation, test', async () => {
    write('test.csv', 'a\n1\n');
    write('my_dev.csv', 'a\n1\n2\n');
    write('train.csv', 'a\n1\n2\n3\n');
    expect(Object.entries(await splitsOf())).toEqual([
      ['train', 3],
      ['validation', 2],
      ['test', 1],
    ]);
  });

  test('shards, sorted; other splits by their names', async () => {
    write('data/train-00001-of-00002.jsonl', '{"a": 2}\n');
    write('data/train-00000-of-00002.jsonl', '{"a": 1}\n');
    write('data/holdout-00000-of-00001.jsonl', '{"a": 3}\n');
    const splits = await loadDataset(folder);
    expect(Object.keys(splits)).toEqual(['train', 'holdout']);
    expect(splits.train.column('a')).toEqual([1, 2]);
  });

  test('split folders, and files without any word', async () => {
    write('train/a.jsonl', '{"a": 1}\n');
    write('test/b.jsonl', '{"a": 1}\n{"a": 2}\n');
    expect(await splitsOf()).toEqual({ train: 1, test: 2 });
    rmSync(join(folder, 'train'), { recursive: true });
    rmSync(join(folder, 'test'), { recursive: true });
    write('part1.jsonl', '{"a": 1}\n');
    write('constraints.jsonl', '{"a": 1}\n'); // holds "train", but not as a word
    expect(await splitsOf()).toEqual({ train: 2 });
  });

  test('configurations of README.md', async () => {
    write(
      'README.md',
      '---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: s/*.jsonl\n- config_name: big\n  data_files: b/x.jsonl\n---\n# card\n',
    );
    write('s/one.jsonl', '{"a": 1}\n');
    write('b/x.jsonl', '{"a": 1}\n{"a": 2}\n');
    expect(await splitsOf({ name: 'small' })).toEqual({ train: 1 });
    expect(await splitsOf({ name: 'big' })).toEqual({ train: 2 });
    await expect(splitsOf()).rejects.toThrow(/one of small, big/);
    await expect(splitsOf({ name: 'smal' })).rejects.toThrow(/did you mean "small"/);
  });

  test('explicit files, slices of splits', async () => {
    write('x/one.jsonl', '{"a": 1}\n{"a": 2}\n');
    write('x/two.jsonl', '{"a": 3}\n{"a": 4}\n');
    const splits = await loadDataset('json', {
      dataFiles: { train: join(folder, 'x/*.jsonl'), test: join(folder, 'x/two.jsonl') },
      format: undefined,
    });
    expect([splits.train.length, splits.test.length]).toEqual([4, 2]);
    const column = async (split: string): Promise<unknown[]> =>
      (await loadDataset(join(folder, 'x'), { split })).column('a');
    expect(await column('train[:50%]')).toEqual([1, 2]);
    expect(await column('train[1:3]')).toEqual([2, 3]);
    expect(await column('train[-1:]')).toEqual([4]);
    await expect(column('tran')).rejects.toThrow(/did you mean "train"/);
  });

  test('nothing there', async () => {
    await expect(loadDataset(folder)).rejects.toThrow(/expected data files/);
    await expect(loadDataset(join(folder, 'missing.jsonl'))).rejects.toMatchObject({ code: 'ERR_DATA' });
    await expect(loadDataset(write('x.bin', 'x'))).rejects.toThrow(/format/);
  });
});
