/** IterableDataset: the same rows as the in-memory operations, resumable anywhere, bounded memory. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { Dataset, interleave, IterableDataset, loadDataset, type Row } from '../../../src/data';

const rows = (n: number, name = 'i'): IterableDataset =>
  IterableDataset.fromDataset(Dataset.fromColumns({ [name]: Array.from({ length: n }, (_, i) => i) }));

async function collect(stream: AsyncIterable<Row>): Promise<Row[]> {
  const all: Row[] = [];
  for await (const row of stream) all.push(row);
  return all;
}

const pipelines: Record<string, (n: number) => IterableDataset> = {
  source: (n) => rows(n),
  map: (n) => rows(n).map((row, i) => ({ twice: (row.i as number) * 2, i })),
  mapBatches: (n) => rows(n).mapBatches((batch) => batch.flatMap((row) => [row, row]), { batchSize: 3 }),
  filter: (n) => rows(n).filter((row) => (row.i as number) % 3 !== 0),
  'shuffle, map': (n) =>
    rows(n)
      .shuffle({ seed: 5, bufferSize: 7 })
      .map((row) => ({ j: row.i })),
  'skip, take': (n) => rows(n).skip(2).take(11),
  columns: (n) =>
    rows(n)
      .map(() => ({ b: 1 }))
      .renameColumn('i', 'j')
      .removeColumns('b'),
  concatenate: (n) => rows(n).concatenate(rows(4)),
  'interleave by turns': (n) => interleave([rows(n), rows(9)]),
  'interleave by weights': (n) =>
    interleave([rows(n), rows(2 * n), rows(30)], { probabilities: [0.5, 0.2, 0.3], seed: 9 }),
  'interleave until all have ended': (n) =>
    interleave([rows(n), rows(5)], { probabilities: [0.3, 0.7], seed: 9, stoppingStrategy: 'all_exhausted' }),
  'interleave, shuffle, filter': (n) =>
    interleave([rows(n), rows(n)], { seed: 2 })
      .shuffle({ bufferSize: 4 })
      .filter((row) => row.i !== 3),
};

test.each(Object.entries(pipelines))(
  '%s: stopped after any k rows and resumed from JSON, nothing changes',
  async (_, make) => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 25 }), fc.nat(40), async (n, k) => {
        const whole = await collect(make(n));
        const first = make(n);
        const seen: Row[] = [];
        if (k > 0) {
          for await (const row of first) {
            seen.push(row);
            if (seen.length === k) break;
          }
        }
        const second = make(n);
        second.seek(JSON.parse(JSON.stringify(first.state())) as { position: number });
        seen.push(...(await collect(second)));
        expect(seen).toEqual(whole);
      }),
      { numRuns: 40 },
    );
  },
);

test('a new iteration starts over; seek is for one', async () => {
  const stream = rows(3);
  expect((await collect(stream)).length).toBe(3);
  expect((await collect(stream)).length).toBe(3);
  stream.seek({ position: 2 });
  expect(await collect(stream)).toEqual([{ i: 2 }]);
  expect((await collect(stream)).length).toBe(3);
  expect(() => stream.seek({ position: -1 })).toThrow(expect.objectContaining({ code: 'ERR_CHECKPOINT' }));
});

test('skipped rows do not reach a map', async () => {
  let calls = 0;
  const stream = rows(10).map((row) => {
    calls++;
    return row;
  });
  stream.seek({ position: 8 });
  expect((await collect(stream)).length).toBe(2);
  expect(calls).toBe(2);
});

test('shuffle keeps every row and reads no further ahead than its buffer', async () => {
  let read = 0;
  const source = IterableDataset.fromSource(async function* (skip) {
    for (let i = skip; i < 1000; i++) {
      read++;
      yield { i };
    }
  });
  const order: number[] = [];
  for await (const row of source.shuffle({ bufferSize: 50 })) {
    order.push(row.i as number);
    expect(read - order.length).toBeLessThanOrEqual(50);
  }
  expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
  expect(order).not.toEqual([...order].sort((a, b) => a - b));
});

test('weights are kept to', async () => {
  const mixed = interleave([rows(100000, 'a'), rows(100000, 'b')], { probabilities: [0.9, 0.1] }).take(10000);
  const fromA = (await collect(mixed)).filter((row) => 'a' in row).length;
  // Standard deviation 30.
  expect(Math.abs(fromA - 9000)).toBeLessThan(120);
  expect(() => interleave([rows(1)], { probabilities: [0.5] })).toThrow(/sum to 1/);
});

describe('files', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'lathe-stream-'));
    for (const part of [0, 1]) {
      writeFileSync(
        join(folder, `train-0000${part}-of-00002.jsonl`),
        Array.from({ length: 50 }, (_, i) => `{"i": ${part * 50 + i}, "s": "x"}\n`).join(''),
      );
    }
    writeFileSync(join(folder, 'table.csv'), 'a,b\n' + Array.from({ length: 1500 }, (_, i) => `${i},w\n`).join(''));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  test.each([0, 1, 49, 50, 51, 99, 100])('shards resume at %i', async (position) => {
    const stream = await loadDataset(folder, {
      split: 'train',
      streaming: true,
      columns: ['i'],
      dataFiles: 'train-*.jsonl',
    });
    stream.seek({ position });
    expect(await collect(stream)).toEqual(Array.from({ length: 100 - position }, (_, k) => ({ i: position + k })));
  });

  test('a broken line further on is met only when reached', async () => {
    writeFileSync(join(folder, 'bad.jsonl'), '{"i": 1}\n{"i": 2}\n{"i"\n');
    const stream = await loadDataset(join(folder, 'bad.jsonl'), { split: 'train', streaming: true });
    expect(await collect(stream.take(2))).toEqual([{ i: 1 }, { i: 2 }]);
    await expect(collect(stream)).rejects.toThrow(/bad\.jsonl:3/);
  });

  test('CSV types come from the first rows; a later stranger is an error with its line', async () => {
    const open = (): Promise<IterableDataset> =>
      loadDataset(join(folder, 'table.csv'), { split: 'train', streaming: true });
    expect((await collect(await open())).length).toBe(1500);
    writeFileSync(
      join(folder, 'table.csv'),
      'a,b\n' + Array.from({ length: 1500 }, (_, i) => `${i === 1200 ? 'word' : i},w\n`).join(''),
    );
    await expect(collect(await open())).rejects.toThrow(/column "a": expected a number.*table\.csv:1202/);
  });

  test('a JSON document cannot be streamed', async () => {
    writeFileSync(join(folder, 'a.json'), '[{"i": 1}]');
    await expect(loadDataset(join(folder, 'a.json'), { streaming: true })).rejects.toMatchObject({
      code: 'ERR_UNSUPPORTED',
    });
  });
});
