/** PyTorch's archives: the same tensors as torch, everything that is more than tensors refused by name, damage told apart. */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import type { LatheError } from '../../../src/errors';
import { openCheckpoint } from '../../../src/io/checkpoint-files';
import { openSafetensors } from '../../../src/io/safetensors';
import { readTensorBytes, type TensorSource } from '../../../src/io/tensor-source';
import { readPickle } from '../../../src/io/torch-archive/pickle';
import { openTorchArchive } from '../../../src/io/torch-archive/reader';
import { errorOf, fromBase64, useTemporaryFolder } from './fixtures';

const GOLDEN = join(__dirname, '../../golden/torch-archive');
const folder = useTemporaryFolder();
const golden = JSON.parse(readFileSync(join(GOLDEN, 'mixed.json'), 'utf8')) as Record<
  string,
  { dtype: string; shape: number[]; bytes: string }
>;

/** Hexadecimal bytes of all tensors. */
async function contents(tensors: ReadonlyMap<string, TensorSource>): Promise<Record<string, string>> {
  const entries = await Promise.all(
    [...tensors].map(
      async ([name, source]) => [name, Buffer.from(await readTensorBytes(source)).toString('hex')] as const,
    ),
  );
  return Object.fromEntries(entries);
}

describe('what torch.save writes', () => {
  test('every type, scalars, empty tensors, views at an offset, shared storages', async () => {
    const { tensors } = await openTorchArchive(join(GOLDEN, 'mixed.bin'));
    expect([...tensors.keys()]).toEqual(Object.keys(golden));
    for (const [name, expected] of Object.entries(golden)) {
      const source = tensors.get(name)!;
      expect([name, source.dtype, source.shape]).toEqual([name, expected.dtype, expected.shape]);
      expect([name, Buffer.from(await readTensorBytes(source))]).toEqual([
        name,
        Buffer.from(fromBase64(expected.bytes)),
      ]);
    }
    expect(tensors.get('shared.again')!.offset).toBe(tensors.get('shared.whole')!.offset);
  });

  test('protocol 4, and parameters', async () => {
    expect(await contents((await openTorchArchive(join(GOLDEN, 'protocol4.bin'))).tensors)).toEqual({
      a: Buffer.from(Float32Array.of(0, 1, 2, 3).buffer).toString('hex'),
      b: Buffer.from(BigInt64Array.of(0n, 1n, 2n).buffer).toString('hex'),
    });
    expect([...(await openTorchArchive(join(GOLDEN, 'parameters.bin'))).tensors.keys()]).toEqual(['a', 'b']);
  });
});

test('zip64: sizes and places of more than 32 bits', async () => {
  const path = join(folder(), 'large.bin');
  writeFileSync(path, asZip64(readFileSync(join(GOLDEN, 'mixed.bin'))));
  expect(await contents((await openTorchArchive(path)).tensors)).toEqual(
    await contents((await openTorchArchive(join(GOLDEN, 'mixed.bin'))).tensors),
  );
});

/** The archive with every size and place in zip64 fields, as in a file of more than 4 GiB. */
function asZip64(archive: Buffer): Buffer {
  const end = archive.lastIndexOf('PK\x05\x06');
  const start = archive.readUInt32LE(end + 16);
  const entries: Buffer[] = [];
  for (let at = start; archive.readUInt32LE(at) === 0x02014b50;) {
    const lengths = [28, 30, 32].map((field) => archive.readUInt16LE(at + field));
    const next = at + 46 + lengths.reduce((a, b) => a + b);
    const entry = Buffer.from(archive.subarray(at, at + 46 + lengths[0]));
    const extra = Buffer.alloc(28);
    extra.writeUInt16LE(1, 0);
    extra.writeUInt16LE(24, 2);
    [24, 20, 42].forEach((field, i) => {
      extra.writeBigUInt64LE(BigInt(archive.readUInt32LE(at + field)), 4 + 8 * i);
      entry.writeUInt32LE(0xffffffff, field);
    });
    entry.writeUInt16LE(28, 30);
    entry.writeUInt16LE(0, 32);
    entries.push(entry, extra);
    at = next;
  }
  const directory = Buffer.concat(entries);
  const end64 = Buffer.alloc(56);
  end64.writeUInt32LE(0x06064b50, 0);
  end64.writeBigUInt64LE(44n, 4);
  [BigInt(entries.length / 2), BigInt(entries.length / 2), BigInt(directory.length), BigInt(start)].forEach(
    (value, i) => end64.writeBigUInt64LE(value, 24 + 8 * i),
  );
  const locator = Buffer.alloc(20);
  locator.writeUInt32LE(0x07064b50, 0);
  locator.writeBigUInt64LE(BigInt(start + directory.length), 8);
  locator.writeUInt32LE(1, 16);
  const last = Buffer.alloc(22, 0xff);
  last.writeUInt32LE(0x06054b50, 0);
  last.writeUInt32LE(0, 4);
  last.writeUInt16LE(0, 20);
  return Buffer.concat([archive.subarray(0, start), directory, end64, locator, last]);
}

describe('what is no table of tensors is refused by name', () => {
  const REASONS: Record<string, [code: string, message: RegExp]> = {
    'os-system': ['ERR_UNSUPPORTED', /asks for '(posix|nt|os)\.system', which is refused/],
    eval: ['ERR_UNSUPPORTED', /asks for '(__builtin__|builtins)\.eval'/],
    'set-attribute': ['ERR_UNSUPPORTED', /asks for '(__builtin__|builtins)\.setattr'/],
    strides: ['ERR_UNSUPPORTED', /strides \[1, 5\] of shape \[5, 3\].*tensor 'weight'.*contiguous/],
    wrapped: ['ERR_FORMAT', /'model' is a dictionary.*state_dict/],
    module: ['ERR_UNSUPPORTED', /asks for 'torch\.nn\.modules\.linear\.Linear'/],
    list: ['ERR_FORMAT', /received a list/],
    sparse: ['ERR_UNSUPPORTED', /asks for 'torch\._utils\._rebuild_sparse_tensor'/],
    float8: ['ERR_UNSUPPORTED', /asks for 'torch/],
    numpy: ['ERR_UNSUPPORTED', /asks for 'numpy/],
    dtype: ['ERR_UNSUPPORTED', /asks for 'torch\.float32'/],
    legacy: ['ERR_UNSUPPORTED', /since PyTorch 1\.6.*torch\.load\(path, weights_only=True\)/],
  };

  test('every file of the folder has its reason here', () => {
    expect(readdirSync(join(GOLDEN, 'refused')).sort()).toEqual(
      Object.keys(REASONS)
        .map((name) => `${name}.bin`)
        .sort(),
    );
  });

  test.each(Object.entries(REASONS))('%s', async (name, [code, message]) => {
    const error = await errorOf(() => openTorchArchive(join(GOLDEN, 'refused', `${name}.bin`)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.message).toContain(`${name}.bin`);
  });

  // Opcodes by hand: each would do something in Python.
  test.each([
    ['INST', '(ios\nsystem\n.', /opcode INST/],
    ['OBJ', '(o.', /opcode OBJ/],
    ['NEWOBJ', '\x80\x02)\x81.', /opcode NEWOBJ/],
    ['NEWOBJ_EX', '\x80\x04)}\x92.', /opcode NEWOBJ_EX/],
    ['EXT1', '\x80\x02\x82\x01.', /opcode EXT1/],
    ['PERSID', 'Pabc\n.', /opcode PERSID/],
    ['STACK_GLOBAL', '\x80\x04\x8c\x02os\x8c\x06system\x93.', /'os\.system'/],
    ['a name with line breaks', 'cos\nsystem\n)R.', /'os\.system'/],
    ['a storage class that is none', 'ctorch\nEvilStorage\n.', /'torch\.EvilStorage'/],
    ['OrderedDict of something', '\x80\x02ccollections\nOrderedDict\n]\x85R.', /OrderedDict' with arguments/],
    ['calling a class of storage', 'ctorch\nFloatStorage\n)R.', /a call of 'torch\.FloatStorage'/],
    ['state of a list', '\x80\x02]}b.', /setting the state/],
  ])('%s', (_name, pickle, message) => {
    expect(() => readPickle(Buffer.from(pickle, 'latin1'), 'here')).toThrow(message);
  });
});

describe('damage', () => {
  const whole = readFileSync(join(GOLDEN, 'mixed.bin'));
  const opened = (bytes: Buffer): Promise<LatheError> => {
    const path = join(folder(), 'x.bin');
    writeFileSync(path, bytes);
    return errorOf(() => openTorchArchive(path));
  };

  test('cut short anywhere: an error of ours', async () => {
    for (const length of [0, 1, 3, 30, 200, 1000, whole.length >> 1, whole.length - 30, whole.length - 1]) {
      const error = await opened(whole.subarray(0, length));
      expect([length, error.code]).toEqual([length, 'ERR_FORMAT']);
    }
  });

  test('a pointer, an empty file, text, a folder that is not there', async () => {
    expect((await opened(Buffer.from('version https://git-lfs.github.com/spec/v1\n'))).message).toMatch(
      /Git LFS pointer/,
    );
    expect((await opened(Buffer.alloc(0))).message).toMatch(/empty file/);
    expect((await opened(Buffer.from('hello'))).message).toMatch(/something else/);
    expect((await errorOf(() => openTorchArchive(join(folder(), 'none.bin')))).message).toMatch(/ENOENT/);
  });

  test('a changed pickle does not have its checksum', async () => {
    const changed = Buffer.from(whole);
    changed[changed.indexOf('shared.rows')] ^= 1;
    expect((await opened(changed)).message).toMatch(/data\.pkl' does not have the checksum/);
  });

  test('a changed byte anywhere in the frame: an error of ours, or ranges that lie in the file', async () => {
    const path = join(folder(), 'x.bin');
    const before = await openTorchArchive(join(GOLDEN, 'mixed.bin'));
    const inside = [...before.tensors.values()].flatMap((t) => [[t.offset, t.offset + t.byteLength]]);
    const frame = Array.from({ length: whole.length }, (_, i) => i).filter(
      (i) => !inside.some(([a, b]) => i >= a && i < b),
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...frame), fc.integer({ min: 1, max: 255 }), async (at, change) => {
        const bytes = Buffer.from(whole);
        bytes[at] ^= change;
        writeFileSync(path, bytes);
        try {
          for (const t of (await openTorchArchive(path)).tensors.values())
            expect(t.offset + t.byteLength).toBeLessThanOrEqual(bytes.length);
        } catch (error) {
          expect((error as Error).name).toBe('LatheError');
        }
      }),
      { seed: 11, numRuns: 400 },
    );
  });

  test('pickles of random bytes, and real ones with changes: a value or an error of ours', () => {
    const pickle = pickleOf(whole);
    const run = (bytes: Uint8Array): void => {
      try {
        readPickle(bytes, 'fuzz');
      } catch (error) {
        expect((error as Error).name).toBe('LatheError');
      }
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), run), { seed: 12, numRuns: 2000 });
    const opcodes = [...'.(N]}te u)sbRQchjqrXJKMGd']
      .map((c) => c.charCodeAt(0))
      .concat([0x80, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x93, 0x94, 0x95]);
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...opcodes, 0, 1, 2), { maxLength: 80 }), (bytes) =>
        run(Uint8Array.from(bytes)),
      ),
      { seed: 13, numRuns: 3000 },
    );
    const change = fc.tuple(fc.nat(pickle.length - 1), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
        const bytes = Uint8Array.from(pickle);
        for (const [at, value] of changes) bytes[at] = value;
        run(bytes);
      }),
      { seed: 14, numRuns: 2000 },
    );
  });

  test('a forged description does not reach out of its storage', async () => {
    // The last dimension of a 3 x 5 tensor becomes 255, with the checksum mended.
    const pickle = pickleOf(whole);
    const at = pickle.indexOf(Buffer.from([0x4b, 3, 0x4b, 5, 0x86]));
    expect(at).toBeGreaterThan(0);
    const forged = Buffer.from(whole);
    const start = whole.indexOf(pickle);
    forged[start + at + 1] = 255;
    const checksum = crc32(forged.subarray(start, start + pickle.length));
    for (let i = forged.indexOf('data.pkl'); i >= 0; i = forged.indexOf('data.pkl', i + 1)) {
      const header = forged.lastIndexOf('PK', i);
      const central = forged.readUInt32LE(header) === 0x02014b50;
      if (central) forged.writeUInt32LE(checksum, header + 16);
    }
    expect((await opened(forged)).message).toMatch(/expected elements 0 to 1275 of a storage of 15.*plain\.F32/);
  });

  function pickleOf(archive: Buffer): Buffer {
    const header = archive.indexOf('PK\x03\x04');
    const start = header + 30 + archive.readUInt16LE(header + 26) + archive.readUInt16LE(header + 28);
    const central = archive.indexOf('PK\x01\x02');
    return archive.subarray(start, start + archive.readUInt32LE(central + 24));
  }
});

describe('checkpoints', () => {
  const plain = async (path: string): Promise<Record<string, string>> => contents(await openCheckpoint(path));

  test('shards with an index are the same tensors', async () => {
    const { tensors } = await openSafetensors(join(__dirname, '../../golden/gpt2-tiny/model.safetensors'));
    expect(await plain(join(GOLDEN, 'gpt2-sharded'))).toEqual(await contents(tensors));
  });

  test('safetensors come first', async () => {
    copyFileSync(join(GOLDEN, 'gpt2/pytorch_model.bin'), join(folder(), 'pytorch_model.bin'));
    expect([...(await openCheckpoint(folder())).keys()]).toContain('h.0.attn.bias');
    copyFileSync(join(__dirname, '../../golden/gpt2-tiny/model.safetensors'), join(folder(), 'model.safetensors'));
    expect([...(await openCheckpoint(folder())).keys()]).not.toContain('h.0.attn.bias');
  });

  test('a shard that is missing or cut short', async () => {
    mkdirSync(join(folder(), 'm'));
    for (const file of readdirSync(join(GOLDEN, 'gpt2-sharded')))
      copyFileSync(join(GOLDEN, 'gpt2-sharded', file), join(folder(), 'm', file));
    truncateSync(join(folder(), 'm', 'pytorch_model-00002-of-00002.bin'), 5000);
    expect((await errorOf(() => openCheckpoint(join(folder(), 'm')))).message).toMatch(
      /pytorch_model-00002-of-00002\.bin/,
    );
  });
});
