/** Safetensors: the Python library's bytes in both directions, and every way a header can be wrong. */
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import * as fsPromises from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { encodeFloats, readTensorFloats } from '../../../src/io/float-codec';
import {
  SAFETENSORS_DTYPES,
  openSafetensors,
  parseSafetensorsHeader,
  writeSafetensors,
  type SafetensorsDType,
  type TensorToWrite,
} from '../../../src/io/safetensors';
import { readTensorBytes, storageBytes } from '../../../src/io/tensor-source';
import { GOLDEN, errorOf, useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();
const MIXED = join(GOLDEN, 'mixed.safetensors');

function fileOf(header: string | Buffer, data = 0): Buffer {
  const json = Buffer.from(header);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([prefix, json, Buffer.alloc(data)]);
}

function writeTemporary(bytes: Uint8Array, name = 'x.safetensors'): string {
  const path = join(folder(), name);
  writeFileSync(path, bytes);
  return path;
}

describe('reading what the Python library wrote', () => {
  test('all entries, in file order, with absolute offsets', async () => {
    const file = await openSafetensors(MIXED);
    expect(file.metadata).toEqual({ format: 'pt' });
    expect(file.tensors.size).toBe(24);
    const dtypes = [...file.tensors.values()].map(({ dtype }) => SAFETENSORS_DTYPES.indexOf(dtype as SafetensorsDType));
    expect(dtypes).toEqual(dtypes.toSorted((a, b) => b - a));
    expect(file.unsupported.map(({ dtype }) => dtype).sort()).toEqual([
      'C64',
      'F8_E4M3',
      'F8_E4M3FNUZ',
      'F8_E5M2',
      'F8_E5M2FNUZ',
      'F8_E8M0',
    ]);
    const last = [...file.tensors.values()].at(-1)!;
    expect(last.offset + last.byteLength).toBe(readFileSync(MIXED).length);
  });

  test('values of the float types agree', async () => {
    const { tensors } = await openSafetensors(MIXED);
    const f32 = await readTensorFloats(tensors.get('z.f32')!);
    expect(f32).toHaveLength(15);
    expect(await readTensorFloats(tensors.get('f64')!)).toEqual(f32);
    for (const name of ['f16', 'bf16'] as const) {
      // torch's own rounding is in the file: encoding the f32 values must give its bytes.
      expect(encodeFloats(name === 'f16' ? 'F16' : 'BF16', f32)).toEqual(await readTensorBytes(tensors.get(name)!));
    }
    expect([...(await readTensorBytes(tensors.get('i8')!))]).toEqual([0, 1, 2, 3, 4, 5]);
    expect([...(await readTensorFloats(tensors.get('scalar')!))]).toEqual([2.5]);
    expect(await readTensorFloats(tensors.get('empty')!)).toHaveLength(0);
    expect((await errorOf(() => readTensorFloats(tensors.get('e4m3')!))).code).toBe('ERR_UNSUPPORTED');
    expect((await errorOf(() => readTensorFloats(tensors.get('i64')!))).message).toContain('received I64');
  });

  test('writing the same tensors in any order gives the same bytes', async () => {
    const { tensors } = await openSafetensors(MIXED);
    const list: TensorToWrite[] = [...tensors.values()].reverse().map((source, i) => ({
      name: source.name,
      dtype: source.dtype as SafetensorsDType,
      shape: source.shape,
      data:
        i % 2 === 0
          ? () => readTensorBytes(source)
          : readFileSync(MIXED).subarray(source.offset, source.offset + source.byteLength),
    }));
    const path = join(folder(), 'new/folder/copy.safetensors');
    const written = await writeSafetensors(path, list);
    expect(readFileSync(path).equals(readFileSync(MIXED))).toBe(true);
    expect(written).toMatchObject({ path, fileBytes: readFileSync(MIXED).length, tensorBytes: 577 });
    expect(readdirSync(join(folder(), 'new/folder'))).toEqual(['copy.safetensors']);
  });
});

describe('headers that must be refused', () => {
  const ok =
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}}';
  const cases: [string, Buffer, RegExp][] = [
    ['an empty file', Buffer.alloc(0), /at least 8 bytes, received a file of 0/],
    ['seven bytes', Buffer.alloc(7), /at least 8 bytes/],
    [
      'a header longer than the limit',
      Buffer.from([1, 0xe1, 0xf5, 5, 0, 0, 0, 0, 0x7b]),
      /at most 100000000 bytes, received a length of 100000001/,
    ],
    ['a length of 2^64-1', Buffer.alloc(9, 0xff), /received a length of 18446744073709551615/],
    [
      'a header longer than the file',
      Buffer.from([9, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d]),
      /header of 9 bytes, received a file of 10/,
    ],
    ['an empty header', fileOf(''), /start with '\{', received an empty header/],
    ['leading space', fileOf(' {}'), /start with '\{', received byte 32/],
    ['invalid UTF-8', fileOf(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), /UTF-8 JSON/],
    ['invalid JSON', fileOf('{"a":}'), /UTF-8 JSON/],
    ['bytes after the JSON', fileOf('{}x'), /UTF-8 JSON/],
    [
      'a duplicate tensor',
      fileOf(
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      ),
      /'a' twice/,
    ],
    [
      'a duplicate field',
      fileOf('{"a":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
      /'dtype' twice/,
    ],
    ['metadata that is no text', fileOf('{"__metadata__":{"a":1}}'), /map strings to strings/],
    ['metadata that is a list', fileOf('{"__metadata__":["a"]}'), /map strings to strings/],
    ['an entry that is null', fileOf('{"a":null}'), /dtype of .*received none/],
    [
      'an unknown dtype',
      fileOf('{"a":{"dtype":"BF17","shape":[0],"data_offsets":[0,0]}}'),
      /received "BF17".*did the writer mean BF16\?/,
    ],
    ['a dtype of ggml', fileOf('{"a":{"dtype":"Q4_0","shape":[0],"data_offsets":[0,0]}}'), /received "Q4_0"/],
    [
      'a negative dimension',
      fileOf('{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}'),
      /non-negative integers, received \[-1\]/,
    ],
    [
      'a fractional dimension',
      fileOf('{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,0]}}'),
      /non-negative integers/,
    ],
    ['no shape', fileOf('{"a":{"dtype":"U8","data_offsets":[0,0]}}'), /received none/],
    [
      'an overflowing shape',
      fileOf('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
      /53-bit/,
    ],
    ['half a byte', fileOf('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', 2), /whole bytes/],
    ['three offsets', fileOf('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}'), /data_offsets/],
    ['reversed offsets', fileOf('{"a":{"dtype":"U8","shape":[0],"data_offsets":[1,0]}}', 1), /begin <= end/],
    [
      'a length that does not fit',
      fileOf('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}}', 7),
      /8 bytes for F32\[2\], received data_offsets \[0, 7\] \(7 bytes\)/,
    ],
    [
      'a hole',
      fileOf('{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}', 2),
      /offset 0, received 1 \(a hole of 1 bytes\)/,
    ],
    [
      'an overlap',
      fileOf(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        3,
      ),
      /offset 2, received 1 \(an overlap of 1 bytes\)/,
    ],
    ['a cut buffer', fileOf(ok, 8), /cut short/],
    ['a byte too many', fileOf(ok, 10), /bytes that no tensor owns/],
  ];
  test.each(cases)('%s', async (_name, bytes, message) => {
    const path = writeTemporary(bytes);
    const error = await errorOf(() => openSafetensors(path));
    expect(error.code).toBe('ERR_FORMAT');
    expect(error.message).toMatch(message);
    expect(error.message).toContain(path);
  });

  test('the pattern of these cases is accepted when nothing is wrong', async () => {
    const names = async (bytes: Buffer): Promise<string[]> => [
      ...(await openSafetensors(writeTemporary(bytes))).tensors.keys(),
    ];
    expect(await names(fileOf(ok, 9))).toHaveLength(2);
    expect(await names(fileOf('{}'))).toEqual([]);
    expect(await names(fileOf('{}      '))).toEqual([]);
    expect(await names(fileOf('{"__proto__":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}', 2))).toEqual([
      '__proto__',
    ]);
  });

  test('a missing file and a folder', async () => {
    expect((await errorOf(() => openSafetensors(join(folder(), 'no')))).message).toMatch(/ENOENT \(no such file/);
    expect((await errorOf(() => openSafetensors(folder()))).code).toBe('ERR_FORMAT');
  });
});

describe('fuzzing', () => {
  const base = readFileSync(MIXED);

  test('mutated files parse validly or throw a LatheError', () => {
    const edits = fc.array(fc.tuple(fc.nat(base.length - 1), fc.integer({ min: 0, max: 255 })), {
      minLength: 1,
      maxLength: 6,
    });
    const cut = fc.option(fc.nat(base.length), { freq: 4, nil: undefined });
    fc.assert(
      fc.property(edits, cut, (changes, length) => {
        const bytes = Buffer.from(base);
        for (const [at, value] of changes) bytes[at] = value;
        checkParse(bytes.subarray(0, length ?? bytes.length));
      }),
      { numRuns: 2000 },
    );
  });

  test('header text with numbers, keys and brackets replaced', () => {
    const text =
      '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}}';
    const token = fc.constantFrom(
      '1e400',
      '-0',
      '9007199254740993',
      '[',
      '{',
      '"a"',
      '"b"',
      ',',
      '}',
      '"dtype":',
      'null',
      '0.5',
      '"\\ud800"',
      '',
    );
    fc.assert(
      fc.property(fc.nat(text.length), fc.nat(8), token, (at, drop, insert) => {
        checkParse(fileOf(text.slice(0, at) + insert + text.slice(at + drop), 9));
      }),
      { numRuns: 2000 },
    );
  });

  test('deep nesting and arbitrary JSON', () => {
    checkParse(fileOf(`{"a":${'['.repeat(200000)}${']'.repeat(200000)}}`));
    fc.assert(fc.property(fc.json(), (json) => checkParse(fileOf(`{"x":${json}}`))));
  });

  /** The invariants of a file that was accepted. */
  function checkParse(bytes: Buffer): void {
    try {
      const length = bytes.length < 8 ? 0n : bytes.readBigUInt64LE();
      if (bytes.length < 8 || length > BigInt(bytes.length - 8)) return;
      const file = parseSafetensorsHeader(bytes.subarray(8, 8 + Number(length)), bytes.length, 'fuzz');
      let end = 8 + Number(length);
      for (const source of file.tensors.values()) {
        if (source.offset !== end || source.byteLength !== storageBytes(source.dtype, source.shape))
          throw new Error(`accepted ${source.name} out of place`);
        end += source.byteLength;
      }
      expect(end).toBe(bytes.length);
    } catch (error) {
      if ((error as Error).name !== 'LatheError') throw error;
      expect((error as { code: string }).code).toBe('ERR_FORMAT');
    }
  }
});

describe('writing', () => {
  const bytes = (n: number): Uint8Array => new Uint8Array(n).fill(7);

  test('any list of tensors reads back as it was', async () => {
    const dtype = fc.constantFrom<SafetensorsDType>('F64', 'F32', 'BF16', 'U8', 'I64', 'BOOL', 'F8_E4M3');
    const tensor = fc.record({
      name: fc.string({ unit: 'grapheme', maxLength: 8 }).filter((name) => name !== '__metadata__'),
      dtype,
      shape: fc.array(fc.nat(4), { maxLength: 3 }),
    });
    const list = fc.uniqueArray(tensor, { selector: ({ name }) => name, maxLength: 8 });
    const path = join(folder(), 'any.safetensors');
    await fc.assert(
      fc.asyncProperty(list, fc.dictionary(fc.string(), fc.string()), async (tensors, metadata) => {
        const data = tensors.map((t, i) => ({
          ...t,
          data: new Uint8Array(storageBytes(t.dtype, t.shape)!).fill(i + 1),
        }));
        await writeSafetensors(path, data, metadata);
        const file = await openSafetensors(path);
        expect(file.metadata).toEqual({ ...metadata });
        expect(file.tensors.size).toBe(data.length);
        // Both the header and the first tensor start at a multiple of 8.
        const first = [...file.tensors.values()][0];
        if (first) expect(first.offset % 8).toBe(0);
        for (const t of data) {
          const source = file.tensors.get(t.name)!;
          expect({ dtype: source.dtype, shape: source.shape }).toEqual({ dtype: t.dtype, shape: t.shape });
          expect(await readTensorBytes(source)).toEqual(t.data);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('streams: functions are called one after the other, in file order', async () => {
    const events: string[] = [];
    const make = (name: string, dtype: SafetensorsDType): TensorToWrite => ({
      name,
      dtype,
      shape: [2],
      data: async () => {
        events.push(`start ${name}`);
        await Promise.resolve();
        events.push(`end ${name}`);
        return bytes(storageBytes(dtype, [2])!);
      },
    });
    async function* source(): AsyncGenerator<TensorToWrite> {
      yield make('b', 'F32');
      yield make('c', 'F64');
      yield make('a', 'F32');
    }
    await writeSafetensors(join(folder(), 's.safetensors'), source());
    expect(events).toEqual(['start c', 'end c', 'start a', 'end a', 'start b', 'end b']);
  });

  test.each([
    [
      'two tensors of one name',
      [
        { name: 'a', dtype: 'U8', shape: [1], data: bytes(1) },
        { name: 'a', dtype: 'U8', shape: [1], data: bytes(1) },
      ],
      /'a' twice/,
    ],
    ['a reserved name', [{ name: '__metadata__', dtype: 'U8', shape: [1], data: bytes(1) }], /other than __metadata__/],
    [
      'too few bytes',
      [{ name: 'a', dtype: 'F32', shape: [2, 3], data: bytes(23) }],
      /24 bytes for F32\[2, 3\], received 23 .*tensor 'a'/,
    ],
    [
      'a bad shape',
      [{ name: 'a', dtype: 'F32', shape: [0.5], data: bytes(2) }],
      /non-negative integers, received \[0.5\]/,
    ],
    ['an unknown type', [{ name: 'a', dtype: 'Q4_0', shape: [32], data: bytes(18) }], /received Q4_0/],
  ] as unknown as [string, TensorToWrite[], RegExp][])(
    'refuses %s and leaves no file',
    async (_name, tensors, message) => {
      const error = await errorOf(() => writeSafetensors(join(folder(), 'bad.safetensors'), tensors));
      expect(error.message).toMatch(message);
      expect(readdirSync(folder())).toEqual([]);
    },
  );

  test('a full disk leaves the old file and no temporary', async () => {
    const path = join(folder(), 'model.safetensors');
    writeFileSync(path, 'old');
    const probe = await fsPromises.open(path, 'r');
    const prototype = Object.getPrototypeOf(probe) as { write: unknown };
    await probe.close();
    const spy = jest
      .spyOn(prototype as { write: () => Promise<unknown> }, 'write')
      .mockRejectedValueOnce(Object.assign(new Error('write'), { code: 'ENOSPC', syscall: 'write' }));
    const error = await errorOf(() => writeSafetensors(path, [{ name: 'a', dtype: 'U8', shape: [1], data: bytes(1) }]));
    expect(spy).toHaveBeenCalled();
    spy.mockRestore();
    expect(error.code).toBe('ERR_CHECKPOINT');
    expect(error.message).toMatch(/ENOSPC \(no space left on the device\).*free some space/);
    expect(readdirSync(folder())).toEqual(['model.safetensors']);
    expect(readFileSync(path, 'utf8')).toBe('old');
  });
});
