/** Event files, decoded here with a reader written from the .proto files, independent of the writer. */
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { crc32c } from '../../../src/io/crc';
import { EventWriter, frameRecord, maskedCrc, scalarTag, tensorboardDir } from '../../../src/io/tensorboard';
import { errorOf, useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();

type Field = { field: number; wire: number; value: bigint | Buffer };

/** Any protobuf message as a flat list of fields. */
function decode(bytes: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    const wire = key & 7;
    if (wire === 0) {
      fields.push({ field: key >> 3, wire, value: varint() });
      continue;
    }
    const length = wire === 2 ? Number(varint()) : wire === 1 ? 8 : 4;
    expect(at + length).toBeLessThanOrEqual(bytes.length);
    fields.push({ field: key >> 3, wire, value: bytes.subarray(at, at + length) });
    at += length;
  }
  return fields;
}

function get(bytes: Buffer, ...path: number[]): Buffer {
  return path.reduce((inner, field) => decode(inner).find((f) => f.field === field)!.value as Buffer, bytes);
}

function all(bytes: Buffer, field: number): Buffer[] {
  return decode(bytes)
    .filter((f) => f.field === field)
    .map((f) => f.value as Buffer);
}

function readRecords(path: string): Buffer[] {
  const bytes = readFileSync(path);
  const records: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc(data));
    records.push(data);
    at += 16 + length;
  }
  return records;
}

test('check values of CRC-32C, and a record made by TensorFlow', () => {
  const digits = Buffer.from('123456789');
  expect(crc32c(digits)).toBe(0xe3069283);
  // RFC 3720, B.4: 32 bytes of zeros, of ones, and 0..31.
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  // The header and crc that every TensorFlow event file's 24-byte version event starts with.
  expect(
    Buffer.from(frameRecord(new Uint8Array(24)))
      .subarray(0, 12)
      .toString('hex'),
  ).toBe('1800000000000000a37f4b22');
});

test('the file: name, version, scalars, text', () => {
  const writer = new EventWriter({ dir: join(folder(), 'runs/a'), host: 'box', pid: 77, now: () => 1717750000500 });
  writer.writeScalar('train/loss', 0.1, 3);
  expect(writer.writeLog({ loss: 2.5, eval_loss: NaN, epoch: 1e300, note: 'x', flag: true }, 300)).toEqual([
    'note',
    'flag',
  ]);
  writer.writeText('args', '{"é": 1}');
  writer.close();
  writer.close();
  const [name] = readdirSync(join(folder(), 'runs/a'));
  expect(name).toMatch(/^events\.out\.tfevents\.1717750000\.box\.77\.\d+$/);
  const [version, scalar, log, text, ...rest] = readRecords(join(folder(), 'runs/a', name));
  expect(rest).toEqual([]);

  expect(get(version, 1).readDoubleLE()).toBe(1717750000.5);
  expect(get(version, 3).toString()).toBe('brain.Event:2');
  expect(get(version, 10, 1).toString()).toBe('lathe');

  expect(decode(scalar).map(({ field, wire }) => [field, wire])).toEqual([
    [1, 1],
    [2, 0],
    [5, 2],
  ]);
  expect(decode(scalar)[1].value).toBe(3n);
  expect(get(scalar, 5, 1, 1).toString()).toBe('train/loss');
  expect(get(scalar, 5, 1, 2).readFloatLE()).toBe(Math.fround(0.1));

  expect(decode(log)[1].value).toBe(300n);
  const values = all(get(log, 5), 1).map((value) => [get(value, 1).toString(), get(value, 2).readFloatLE()]);
  expect(values).toEqual([
    ['train/loss', 2.5],
    ['eval/loss', NaN],
    ['train/epoch', Infinity],
  ]);

  expect(get(text, 5, 1, 1).toString()).toBe('args/text_summary');
  expect(get(text, 5, 1, 9, 1, 1).toString()).toBe('text');
  const tensor = get(text, 5, 1, 8);
  expect(decode(tensor).find(({ field }) => field === 1)!.value).toBe(7n);
  expect(decode(get(tensor, 2, 2))[0].value).toBe(1n);
  expect(get(tensor, 8).toString()).toBe('{"é": 1}');
});

test('a resumed run voids later events of the earlier one', () => {
  const writer = new EventWriter({ dir: folder(), purgeStep: 1000 });
  writer.close();
  const purge = readRecords(writer.path)[1];
  expect(decode(purge)[1].value).toBe(1000n);
  expect(decode(get(purge, 7))).toEqual([{ field: 1, wire: 0, value: 1n }]);
});

test('two writers in one second get two files', () => {
  const now = (): number => 5000;
  const paths = [0, 1].map(() => new EventWriter({ dir: folder(), now }).path);
  expect(new Set(paths).size).toBe(2);
  expect(paths[0]).toContain('tfevents.0000000005.');
});

test('errors', async () => {
  const writer = new EventWriter({ dir: folder() });
  expect((await errorOf(() => writer.writeScalar('a', 1, -1))).message).toMatch(/non-negative integer, received -1/);
  expect((await errorOf(() => writer.writeScalar('a', 1, 0.5))).code).toBe('ERR_CONFIG');
  writer.close();
  expect((await errorOf(() => writer.writeScalar('a', 1, 1))).message).toMatch(/received a closed one/);
  expect((await errorOf(() => new EventWriter({ dir: join(writer.path, 'under-a-file') }))).code).toBe(
    'ERR_CHECKPOINT',
  );
});

test('folder and tag names follow transformers', () => {
  const now = new Date(2024, 5, 7, 9, 5, 3);
  expect(tensorboardDir('out', { now, host: 'h', env: {} })).toBe('out/runs/Jun07_09-05-03_h');
  expect(tensorboardDir('out', { now, host: 'h', env: { TENSORBOARD_LOGGING_DIR: '/logs' } })).toBe('/logs');
  expect(['loss', 'eval_loss', 'test_f1', 'rewards/chosen'].map(scalarTag)).toEqual([
    'train/loss',
    'eval/loss',
    'test/f1',
    'train/rewards/chosen',
  ]);
});
