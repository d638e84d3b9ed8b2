/** Streams over files: every format resumes where it stopped without reading what came before; bad rows and shards that change. */
import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { gzipSync } from 'node:zlib';
import type { LatheError } from '../../../src/errors';
import {
  interleave,
  loadDataset,
  type IterableDataset,
  type LoadOptions,
  type Row,
  type StreamState,
} from '../../../src/data';

const folder = mkdtempSync(join(tmpdir(), 'lathe-stream-files-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const open = (path: string, options: LoadOptions = {}): Promise<IterableDataset> =>
  loadDataset(join(folder, path), { ...options, split: 'train', streaming: true });

async function collect(stream: IterableDataset, limit = Infinity): Promise<Row[]> {
  const rows: Row[] = [];
  if (limit > 0) {
    for await (const row of stream) {
      rows.push(row);
      if (rows.length >= limit) break;
    }
  }
  return rows;
}

const json = (state: StreamState): StreamState => JSON.parse(JSON.stringify(state)) as StreamState;

const lines = (n: number, line: (i: number) => string): string =>
  Array.from({ length: n }, (_, i) => `${line(i)}\n`).join('');

beforeAll(async () => {
  const { parquetWriteBuffer } = await import('hyparquet-writer');
  for (const [part, from] of [
    [0, 0],
    [1, 7000],
    [2, 14000],
  ]) {
    writeFileSync(
      join(folder, `a-${part}.jsonl`),
      lines(7000, (i) => JSON.stringify({ i: from + i, text: 'é'.repeat(i % 40) })),
    );
    writeFileSync(join(folder, `g-${part}.jsonl.gz`), gzipSync(lines(7000, (i) => JSON.stringify({ i: from + i }))));
  }
  writeFileSync(
    join(folder, 'b.csv'),
    `\ufeffi,text\r\n${lines(6000, (i) => `${i},${i % 7 ? 'word' : '"two\nlines, and ""quotes"""'}\r`)}`,
  );
  writeFileSync(
    join(folder, 'c.txt'),
    lines(9000, (i) => `line ${i} ${'x'.repeat(i % 90)}`),
  );
  const data = Array.from({ length: 3000 }, (_, i) => i);
  writeFileSync(
    join(folder, 'd.parquet'),
    Buffer.from(parquetWriteBuffer({ columnData: [{ name: 'i', data, type: 'INT32' }], rowGroupSize: 700 })),
  );
});

test.each<[string, LoadOptions]>([
  ['a-*.jsonl', {}],
  ['g-*.jsonl.gz', {}],
  ['b.csv', {}],
  ['c.txt', {}],
  ['c.txt', { sampleBy: 'paragraph' }],
  ['d.parquet', {}],
])('%s %j goes on from any position, with a shuffle above it too', async (path, options) => {
  for (const shuffled of [false, true]) {
    const make = async (): Promise<IterableDataset> =>
      shuffled ? (await open(path, options)).shuffle({ seed: 2, bufferSize: 30 }) : open(path, options);
    const whole = await collect(await make());
    for (const k of [0, 1, 699, 700, 1001, 5999, whole.length - 1, whole.length].filter(
      (n) => n >= 0 && n <= whole.length,
    )) {
      const first = await make();
      const seen = await collect(first, k);
      const second = await make();
      second.seek(json(first.state()));
      expect(await collect(second, 50)).toEqual(whole.slice(seen.length, seen.length + 50));
    }
  }
});

test('what came before the position is not read again', async () => {
  const stream = await open('a-*.jsonl');
  await collect(stream, 13000);
  const state = json(stream.state());
  const cursor = state.cursor as { shard: number; anchor: { offset: number } };
  expect([cursor.shard, cursor.anchor.offset > 100_000]).toEqual([1, true]);
  // Its beginning may be anything by now, as long as the size is the same.
  const path = join(folder, 'a-1.jsonl');
  const bytes = readFileSync(path);
  writeFileSync(path, Buffer.concat([Buffer.alloc(cursor.anchor.offset, 'x'), bytes.subarray(cursor.anchor.offset)]));
  renameSync(join(folder, 'a-0.jsonl'), join(folder, 'aside'));
  writeFileSync(join(folder, 'a-0.jsonl'), Buffer.alloc(readFileSync(join(folder, 'aside')).length, 'x'));
  const second = await open('a-*.jsonl');
  second.seek(state);
  const rest = await collect(second);
  expect([rest.length, rest[0].i, rest[rest.length - 1].i]).toEqual([8000, 13000, 20999]);
  writeFileSync(path, bytes);
  renameSync(join(folder, 'aside'), join(folder, 'a-0.jsonl'));
});

test('below a shuffle the files come in another order in each epoch, below take they do not', async () => {
  const stream = (await open('a-*.jsonl')).selectColumns('i').shuffle({ seed: 1, bufferSize: 1 });
  const firsts = new Set<unknown>();
  for (let epoch = 0; epoch < 12; epoch++) {
    stream.setEpoch(epoch);
    firsts.add((await collect(stream, 1))[0].i);
  }
  expect([...firsts].sort()).toEqual([0, 14000, 7000]);
  stream.setEpoch(3);
  expect(new Set((await collect(stream)).map(({ i }) => i)).size).toBe(21000);
  const held = (await open('a-*.jsonl')).take(10).shuffle({ seed: 1 });
  held.setEpoch(5);
  expect((await collect(held)).map(({ i }) => i).sort()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const mixed = interleave([await open('a-0.jsonl'), await open('a-1.jsonl')], { probabilities: [0.9, 0.1], seed: 4 });
  const drawn = async (epoch: number): Promise<unknown[]> => {
    mixed.setEpoch(epoch);
    return (await collect(mixed, 40)).map(({ i }) => i);
  };
  expect(await drawn(0)).not.toEqual(await drawn(1));
});

describe('rows that cannot be read', () => {
  const cases: [string, string | Buffer, RegExp, number][] = [
    ['bad.jsonl', '{"i": 1}\n{"i"\n[1]\n{"i": 2}\n', /bad\.jsonl:2/, 2],
    ['bad.csv', 'i,t\n1,a\n2\n3,b,c\n4,"d\n', /bad\.csv/, 1],
    ['typed.csv', `i\n${lines(1100, (i) => (i === 1050 ? 'word' : String(i)))}`, /typed\.csv:1052/, 1099],
    [
      'bad.txt',
      Buffer.concat([Buffer.from('one\n'), Buffer.from([0xff, 0xfe, 10]), Buffer.from('two\n')]),
      /bad\.txt:2/,
      2,
    ],
  ];
  test.each(cases)('%s: an error with its place, or left out and named', async (name, content, place, kept) => {
    writeFileSync(join(folder, name), content);
    await expect(open(name).then((stream) => collect(stream))).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(place) as string,
    });
    if (name === 'bad.csv') return; // a quote that is never closed takes the rest of the file with it: not a row
    const warnings: string[] = [];
    const options = { onBadRow: 'skip' as const, warn: (message: string) => warnings.push(message) };
    const rows = await collect(await open(name, options));
    expect([rows.length, warnings[0]]).toEqual([kept, expect.stringMatching(place)]);
    const table = await loadDataset(join(folder, name), { split: 'train', ...options });
    // In memory a column with a word in it is a column of words.
    expect(table.length).toBe(name === 'typed.csv' ? 1100 : kept);
  });

  test('a resumed stream leaves out the same rows', async () => {
    writeFileSync(
      join(folder, 'many.jsonl'),
      lines(400, (i) => (i % 9 === 4 ? '{' : JSON.stringify({ i }))),
    );
    const make = (): Promise<IterableDataset> => open('many.jsonl', { onBadRow: 'skip', warn: () => undefined });
    const whole = await collect(await make());
    const first = await make();
    const seen = await collect(first, 123);
    const second = await make();
    second.seek(json(first.state()));
    expect([...seen, ...(await collect(second))]).toEqual(whole);
    const skipped = (await make()).skip(123);
    expect(await collect(skipped)).toEqual(whole.slice(123));
  });
});

test('a shard that is gone or has changed is an error that names it', async () => {
  const stream = await open('g-*.jsonl.gz');
  const path = join(folder, 'g-1.jsonl.gz');
  const bytes = readFileSync(path);
  writeFileSync(path, bytes.subarray(0, 100));
  await expect(collect(stream)).rejects.toThrow(/g-1\.jsonl\.gz/);
  rmSync(path);
  await expect(collect(stream)).rejects.toMatchObject({
    code: 'ERR_DATA',
    message: expect.stringMatching(/g-1\.jsonl\.gz.*put the file back/s) as string,
  });
  writeFileSync(path, bytes);
  expect((await collect(stream)).length).toBe(21000);
});

describe('zstd', () => {
  const golden = join(__dirname, '../../golden/data-files');
  const rowOf = (i: number): Row => ({
    i,
    text: `${Array.from({ length: 25 }, (_, k) => (i * 37 + k * k * 31) % 211).join(' ')} é`,
  });
  const stream = (path: string): Promise<IterableDataset> => loadDataset(path, { split: 'train', streaming: true });
  const whole = JSON.stringify(Array.from({ length: 7000 }, (_, i) => rowOf(i)));

  // One frame of several jobs; many frames with skippable ones between; two files one after the other (scripts/golden/zstd-streams.sh).
  test.each(['threads', 'pzstd', 'joined'])('%s: every row, and from any position on', async (name) => {
    const path = join(golden, `${name}-stream.jsonl.zst`);
    const whole = await collect(await stream(path));
    expect(whole).toEqual(Array.from({ length: 7000 }, (_, i) => rowOf(i)));
    for (const k of [1, 2999, 6990]) {
      const first = (await stream(path)).shuffle({ seed: 4, bufferSize: 20 });
      await collect(first, k);
      const rest = await collect(await resumed(path, json(first.state())), 30);
      const all = await collect((await stream(path)).shuffle({ seed: 4, bufferSize: 20 }), k + 30);
      expect(rest).toEqual(all.slice(k));
    }
  });

  async function resumed(path: string, state: StreamState): Promise<IterableDataset> {
    const again = (await stream(path)).shuffle({ seed: 4, bufferSize: 20 });
    again.seek(state);
    return again;
  }

  test.each(['threads', 'pzstd', 'joined'])(
    '%s cut short anywhere: the rows before it, then an error that names the file',
    async (name) => {
      const bytes = readFileSync(join(golden, `${name}-stream.jsonl.zst`));
      for (const keep of [
        bytes.length - 1,
        bytes.length - 5,
        Math.floor(bytes.length * 0.7),
        Math.floor(bytes.length / 2),
      ]) {
        const path = join(folder, `cut-${name}-${keep}.jsonl.zst`);
        writeFileSync(path, bytes.subarray(0, keep));
        const seen: Row[] = [];
        const read = async (): Promise<void> => {
          for await (const row of await stream(path)) seen.push(row);
        };
        await expect(read()).rejects.toMatchObject({
          code: 'ERR_DATA',
          message: expect.stringMatching(/complete zstd stream.*cut-/) as string,
        });
        expect(seen).toEqual(Array.from({ length: seen.length }, (_, i) => rowOf(i)));
      }
    },
  );

  test.each(['threads', 'joined'])('%s with a bit flipped anywhere: never another text', async (name) => {
    const bytes = readFileSync(join(golden, `${name}-stream.jsonl.zst`));
    const path = join(folder, `flipped-${name}.jsonl.zst`);
    const outcomes = new Map<string, number>();
    const places = [
      ...Array(14).keys(),
      ...Array.from({ length: 8 }, (_, k) => Math.floor((bytes.length * (k + 0.5)) / 8)),
      bytes.length - 1,
    ];
    for (const at of places) {
      const damaged = Buffer.from(bytes);
      damaged[at] ^= 1 << (at % 8);
      writeFileSync(path, damaged);
      const outcome = await stream(path)
        .then(collect)
        .then(
          (rows) => (JSON.stringify(rows) === whole ? 'the same' : `another text at ${at}`),
          (error: LatheError) => (error.code === 'ERR_DATA' && error.at?.startsWith(path) ? 'error' : String(error)),
        );
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    // Only the size of the window may be another one.
    expect([...outcomes.keys()].sort()).toEqual(expect.arrayContaining(['error']));
    expect([...outcomes.keys()].filter((o) => o !== 'error' && o !== 'the same')).toEqual([]);
    expect(outcomes.get('the same') ?? 0).toBeLessThan(3);
  });

  test('a checksum, a size and the beginning of a frame are read', async () => {
    const bytes = readFileSync(join(golden, 'threads-stream.jsonl.zst'));
    const written = async (content: Buffer): Promise<Row[]> => {
      const path = join(folder, 'promise.jsonl.zst');
      writeFileSync(path, content);
      return collect(await stream(path));
    };
    const checksum = Buffer.from(bytes);
    checksum[bytes.length - 1] ^= 1;
    await expect(written(checksum)).rejects.toMatchObject({
      code: 'ERR_DATA',
      message: expect.stringMatching(
        /a frame with the checksum [0-9a-f]{8} that says it has [0-9a-f]{8} \(at .*promise\.jsonl\.zst\)/,
      ) as string,
    });
    await expect(written(Buffer.concat([bytes, Buffer.from('{"i": 1}')]))).rejects.toThrow(/begin no frame/);
    const frame = (flags: number, ...rest: number[]): Buffer => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, flags, ...rest]);
    const line = Buffer.from('{"i": 1}\n');
    const raw = [1 | (line.length << 3), 0, 0, ...line];
    expect(await written(frame(0x20, line.length, ...raw))).toEqual([{ i: 1 }]);
    expect(await written(frame(0x00, 0x48, ...raw))).toEqual([{ i: 1 }]);
    // A run of one byte, four times.
    expect(await written(frame(0x00, 0x48, ...raw.with(0, raw[0] & ~1), 3 | (4 << 3), 0, 0, 10))).toEqual([{ i: 1 }]);
    await expect(written(frame(0x20, line.length + 1, ...raw))).rejects.toThrow(
      /a frame of 9 bytes that says it has 10/,
    );
    await expect(written(frame(0x21, 7, line.length, ...raw))).rejects.toThrow(/needs a dictionary/);
  });

  test('what is held does not grow with the file', async () => {
    // 60 times the same frame: 46 MB of rows, whose reader may hold a window and a chunk.
    const frame = readFileSync(join(golden, 'threads-stream.jsonl.zst'));
    const path = join(folder, 'long.jsonl.zst');
    writeFileSync(path, Buffer.concat(Array.from({ length: 60 }, () => frame)));
    let rows = 0;
    const held: number[] = [];
    setFlagsFromString('--expose-gc');
    const collectGarbage = runInNewContext('gc') as () => void;
    for await (const row of await stream(path)) {
      if (row.i !== rows % 7000) throw new Error(`row ${rows} is ${JSON.stringify(row)}`);
      if (++rows % 7000 > 0) continue;
      collectGarbage();
      held.push(process.memoryUsage().arrayBuffers);
    }
    expect(rows).toBe(420_000);
    // The least of each half: what a sample meets beside the window (a chunk that is being read) comes and goes.
    expect(Math.min(...held.slice(30)) - Math.min(...held.slice(0, 30))).toBeLessThan(3e6);
  }, 120_000);
});
