/** GGUF: gguf-py's own file and block values, the mapping to HF names, and hostile headers. */
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { dequantizeGgml, isDequantizable } from '../../../src/io/gguf/dequantize';
import { mapGgufModel, readGgufTensor, unpermuteHeads } from '../../../src/io/gguf/llama';
import { openGguf, parseGgufBytes, readGguf, type GgufFile } from '../../../src/io/gguf/reader';
import { GGML_TYPES } from '../../../src/io/gguf/types';
import { STORAGE_TYPES, readTensorBytes, type StorageType } from '../../../src/io/tensor-source';
import { GOLDEN, asUint32, errorOf, fromBase64, useTemporaryFolder } from './fixtures';

const folder = useTemporaryFolder();
const TINY = join(GOLDEN, 'tiny-llama.gguf');

interface BlockGolden {
  bytes: string;
  values: string;
}
const blocks = JSON.parse(readFileSync(join(GOLDEN, 'ggml-blocks.json'), 'utf8')) as Record<string, BlockGolden> & {
  sizes: Record<string, [number, number]>;
  ids: Record<string, number>;
};
interface TinyGolden {
  metadata: Record<string, unknown>;
  tensors: Record<string, { dtype: string; shape: number[]; offset: number; bytes: number }>;
  hf: Record<string, { shape: number[]; sum: number; first: number[]; weighted: number }>;
}
const tiny = JSON.parse(readFileSync(join(GOLDEN, 'tiny-llama.json'), 'utf8')) as TinyGolden;

describe('ggml formats', () => {
  test('ids, block sizes and byte sizes equal gguf-py for every type', () => {
    const table = Object.fromEntries([...GGML_TYPES].map(([id, name]) => [name, id]));
    expect(table).toEqual(blocks.ids);
    for (const [name, size] of Object.entries(blocks.sizes)) {
      const { blockElements, blockBytes } = STORAGE_TYPES[name as StorageType];
      expect([name, blockElements, blockBytes]).toEqual([name, ...size]);
    }
  });

  test.each([
    'F32',
    'F16',
    'BF16',
    'Q4_0',
    'Q4_1',
    'Q5_0',
    'Q5_1',
    'Q8_0',
    'Q2_K',
    'Q3_K',
    'Q4_K',
    'Q5_K',
    'Q6_K',
  ] as const)('%s equals gguf-py bit for bit', (dtype) => {
    const golden = blocks[dtype];
    const values = dequantizeGgml(dtype, fromBase64(golden.bytes));
    expect(values.length).toBeGreaterThanOrEqual(64);
    expect(new Uint32Array(values.buffer)).toEqual(asUint32(fromBase64(golden.values)));
  });

  test('bytes at an odd address, partial blocks and types without a decoder', async () => {
    const bytes = fromBase64(blocks.Q4_1.bytes);
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    expect(dequantizeGgml('Q4_1', shifted.subarray(1))).toEqual(dequantizeGgml('Q4_1', bytes));
    expect(dequantizeGgml('F32', new Uint8Array([9, 0, 0, 128, 63]).subarray(1))).toEqual(new Float32Array([1]));
    expect((await errorOf(() => dequantizeGgml('Q6_K', new Uint8Array(209)))).message).toMatch(/multiple of 210 bytes/);
    expect((await errorOf(() => dequantizeGgml('IQ2_XS', new Uint8Array(74)))).code).toBe('ERR_UNSUPPORTED');
    expect(Object.keys(STORAGE_TYPES).filter((name) => isDequantizable(name as StorageType))).toHaveLength(13);
  });
});

describe('reading what gguf-py wrote', () => {
  const file = readGguf(TINY);

  test('every metadata value', async () => {
    const plain = (value: unknown): unknown =>
      ArrayBuffer.isView(value) ? [...(value as Float32Array)] : typeof value === 'bigint' ? String(value) : value;
    const seen = Object.fromEntries(
      [...file.metadata].filter(([key]) => !key.includes('nested')).map(([key, value]) => [key, plain(value)]),
    );
    const expected: Record<string, unknown> = { ...tiny.metadata, 'test.array_bool': [1, 0] };
    expect(seen).toEqual(expected);
    expect(file.metadata.get('test.uint64')).toBe(2n ** 60n + 1n);
    expect(file.metadata.get('test.array_nested')).toEqual([new Int32Array([1, 2]), new Int32Array([3])]);
    expect(file.metadata.get('test.bool')).toBe(true);
    expect({ version: file.version, alignment: file.alignment }).toEqual({ version: 3, alignment: 32 });
    expect(await openGguf(TINY)).toEqual(file);
  });

  test('every tensor, at its absolute offset', () => {
    const seen = Object.fromEntries(
      [...file.tensors].map(([name, t]) => [
        name,
        { dtype: t.dtype, shape: [...t.shape], offset: t.offset, bytes: t.byteLength },
      ]),
    );
    expect(seen).toEqual(tiny.tensors);
    expect(file.unsupported).toEqual([]);
  });
});

describe('the HF view of a llama file', () => {
  test('config.json', async () => {
    const { config } = await mapGgufModel(readGguf(TINY));
    expect(config).toEqual({
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      vocab_size: 40,
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 8,
      hidden_act: 'silu',
      max_position_embeddings: 128,
      rms_norm_eps: 1e-5,
      rope_theta: 500000,
      rope_scaling: {
        rope_type: 'llama3',
        factor: 32,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 8192,
      },
      tie_word_embeddings: true,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: null,
      attention_bias: false,
      mlp_bias: false,
    });
  });

  test('tensors have HF names, order and values', async () => {
    const { tensors } = await mapGgufModel(readGguf(TINY));
    expect([...tensors.keys()].sort()).toEqual(Object.keys(tiny.hf).sort());
    expect(tensors.get('model.layers.1.self_attn.q_proj.weight')!.permuteHeads).toBe(4);
    expect(tensors.get('model.layers.1.self_attn.k_proj.weight')!.permuteHeads).toBe(2);
    expect(tensors.get('model.layers.1.self_attn.v_proj.weight')!.permuteHeads).toBeUndefined();
    for (const [name, golden] of Object.entries(tiny.hf)) {
      const tensor = tensors.get(name)!;
      const values = await readGgufTensor(tensor);
      expect([...tensor.source.shape]).toEqual(golden.shape);
      expect([...values.subarray(0, 4)]).toEqual(golden.first);
      // The weighted sum depends on the order of all elements.
      expect(values.reduce((sum, value) => sum + value, 0)).toBeCloseTo(golden.sum, 8);
      expect(values.reduce((sum, value, i) => sum + value * i, 0)).toBeCloseTo(golden.weighted, 6);
    }
  });

  test('un-permuting packed rows gives what un-permuting values gives', async () => {
    const { tensors } = await mapGgufModel(readGguf(TINY));
    const { source, permuteHeads } = tensors.get('model.layers.0.self_attn.q_proj.weight')!;
    const packed = await readTensorBytes(source);
    const values = unpermuteHeads(dequantizeGgml(source.dtype, packed), source.shape[0], permuteHeads!);
    expect(dequantizeGgml(source.dtype, unpermuteHeads(packed, source.shape[0], permuteHeads!))).toEqual(values);
    expect((await errorOf(() => unpermuteHeads(new Float32Array(6), 6, 2))).code).toBe('ERR_SHAPE');
  });

  /** The tiny file with one metadata string or key replaced by another of the same length. */
  function patched(from: string, to: string): GgufFile {
    const bytes = readFileSync(TINY);
    const at = bytes.indexOf(from);
    expect(at).toBeGreaterThan(0);
    expect(Buffer.byteLength(to)).toBe(Buffer.byteLength(from));
    bytes.write(to, at);
    return parseGgufBytes(bytes, TINY);
  }

  test('what it cannot map is refused by name', async () => {
    expect((await errorOf(() => mapGgufModel(patched('llama', 'bloom')))).message).toMatch(
      /one of llama, qwen2.*received bloom/,
    );
    expect((await errorOf(() => mapGgufModel(patched('llama.block_count', 'llama.block_xxxxx')))).message).toMatch(
      /key 'llama.block_count', found none/,
    );
    expect((await errorOf(() => mapGgufModel(patched('blk.1.attn_q', 'blk.1.attn_z')))).message).toMatch(
      /1 others: blk.1.attn_z/,
    );
    expect((await errorOf(() => mapGgufModel(patched('blk.1.attn_q', 'blk.9.attn_q')))).code).toBe('ERR_UNSUPPORTED');
    expect(
      (await errorOf(() => mapGgufModel(patched('llama.attention.head_count_kv', 'llama.attention.head_count_xx'))))
        .message,
    ).toMatch(/'blk.0.attn_k.weight' of shape \[32, 32\], received \[16, 32\]/);
    expect(
      (await errorOf(() => mapGgufModel(patched('llama.rope.freq_base', 'llama.rope.freq_bass')))).message,
    ).toMatch(/llama3's table/);
    expect(
      (await errorOf(() => mapGgufModel(patched('llama.context_length', 'llama.context_lengtx')))).message,
    ).toMatch(/'llama.context_length', found none/);
  });

  test('gemma: always tied, norms shifted, nothing permuted', async () => {
    const bytes = readFileSync(TINY);
    // "llama" and "gemma" have the same length: rename architecture and keys alike, and drop the llama3 table's name.
    let text = bytes.toString('latin1').replaceAll('llama', 'gemma');
    text = text.replace('rope_freqs.weight', 'blk.1.ffn_up.bias');
    const { config, tensors } = await mapGgufModel(writeAndRead(Buffer.from(text, 'latin1')));
    expect(config).toMatchObject({
      model_type: 'gemma',
      hidden_activation: 'gelu_pytorch_tanh',
      tie_word_embeddings: true,
      rope_scaling: null,
    });
    const norm = tensors.get('model.norm.weight')!;
    expect(norm.subtractOne).toBe(true);
    expect((await readGgufTensor(norm))[0]).toBe(Math.fround(tiny.hf['model.norm.weight'].first[0] - 1));
    expect(tensors.get('model.layers.0.self_attn.q_proj.weight')!.permuteHeads).toBeUndefined();
  });

  function writeAndRead(bytes: Uint8Array): GgufFile {
    const path = join(folder(), 'x.gguf');
    writeFileSync(path, bytes);
    return readGguf(path);
  }
});

describe('files that must be refused', () => {
  const good = readFileSync(TINY);
  const edit = (change: (bytes: Buffer) => void): Buffer => {
    const bytes = Buffer.from(good);
    change(bytes);
    return bytes;
  };
  /** Position after the name of a tensor: n_dims, dims, type, offset follow. */
  const infoOf = (name: string): number => good.indexOf(name) + name.length;
  const q = infoOf('blk.0.attn_q.weight');

  const cases: [string, () => Buffer, RegExp][] = [
    ['an empty file', () => Buffer.alloc(0), /received a file with 0 bytes left/],
    ['another magic', () => edit((b) => b.write('GGML')), /magic 'GGUF', received 0x4c4d4747/],
    ['version 1', () => edit((b) => b.writeUInt32LE(1, 4)), /version 2 or 3, received 1/],
    ['big endian', () => edit((b) => b.writeUInt32BE(3, 4)), /little-endian/],
    ['version 9', () => edit((b) => b.writeUInt32LE(9, 4)), /received 9/],
    ['2^63 tensors', () => edit((b) => b.writeBigUInt64LE(1n << 63n, 8)), /number of tensors below 2\^53/],
    [
      'more tensors than the file can hold',
      () => edit((b) => b.writeBigUInt64LE(5000n, 8)),
      /5000 tensors, received a file with/,
    ],
    [
      'more entries than the file can hold',
      () => edit((b) => b.writeBigUInt64LE(1n << 40n, 16)),
      /1099511627776 metadata entries/,
    ],
    ['a string beyond the end', () => edit((b) => b.writeBigUInt64LE(60000n, 24)), /metadata key of 60000 bytes/],
    [
      'a value type of 13',
      () => edit((b) => b.writeUInt32LE(13, 24 + 8 + 'general.architecture'.length)),
      /type from 0 to 12 for 'general.architecture', received 13/,
    ],
    [
      'a boolean of 2',
      () => edit((b) => b.writeUInt8(2, b.indexOf('test.bool') + 13)),
      /0 or 1 for the boolean 'test.bool', received 2/,
    ],
    ['a duplicate key', () => edit((b) => b.write('test.uint32', b.indexOf('test.uint16'))), /'test.uint32' twice/],
    [
      'five dimensions',
      () => edit((b) => b.writeUInt32LE(5, q)),
      /at most 4 dimensions for 'blk.0.attn_q.weight', received 5/,
    ],
    ['an unknown tensor type', () => edit((b) => b.writeUInt32LE(4, q + 20)), /ggml type, received id 4/],
    [
      'a row of half a block',
      () => edit((b) => (b.writeBigUInt64LE(16n, q + 4), b.writeBigUInt64LE(64n, q + 12))),
      /rows of whole Q4_1 blocks/,
    ],
    ['a misaligned offset', () => edit((b) => b.writeBigUInt64LE(8n, q + 24)), /multiple of 32, received 8/],
    ['an offset beyond the end', () => edit((b) => b.writeBigUInt64LE(1n << 40n, q + 24)), /received a file of/],
    ['an overlap', () => edit((b) => b.writeBigUInt64LE(0n, q + 24)), /do not overlap/],
    [
      'a duplicate tensor',
      () => edit((b) => b.write('blk.1.attn_q.weight', b.indexOf('blk.0.attn_q.weight'))),
      /'blk.1.attn_q.weight' twice/,
    ],
    ['a cut file', () => good.subarray(0, good.length - 64), /received a file of/],
    ['trailing bytes', () => Buffer.concat([good, Buffer.alloc(33)]), /expected the file to end at/],
  ];
  test.each(cases)('%s', async (_name, make, message) => {
    const path = join(folder(), 'bad.gguf');
    writeFileSync(path, make());
    const error = await errorOf(() => readGguf(path));
    expect(error.message).toMatch(message);
    expect(error.message).toContain(path);
    expect(['ERR_FORMAT', 'ERR_UNSUPPORTED']).toContain(error.code);
  });

  test('an alignment that is no power of two; a missing file', async () => {
    const bytes = edit((b) => b.write('general.alignment', b.indexOf('llama.block_count')));
    expect((await errorOf(() => parseGgufBytes(bytes, 'x'))).name).toBe('LatheError');
    const three = edit((b) => b.write('general.alignment', b.indexOf('llama.block_count')));
    three.writeUInt32LE(48, three.indexOf('general.alignment') + 21);
    expect((await errorOf(() => parseGgufBytes(three, 'x'))).message).toMatch(/power of two, received 48/);
    expect((await errorOf(() => readGguf(join(folder(), 'no.gguf')))).message).toMatch(/ENOENT/);
  });

  test('version 2 reads like version 3', () => {
    const path = join(folder(), 'v2.gguf');
    copyFileSync(TINY, path);
    const bytes = edit((b) => b.writeUInt32LE(2, 4));
    expect(parseGgufBytes(bytes, TINY).tensors).toEqual(readGguf(TINY).tensors);
  });
});

describe('fuzzing', () => {
  const good = readFileSync(TINY);
  const { dataOffset } = readGguf(TINY);

  function check(bytes: Uint8Array): void {
    try {
      for (const source of parseGgufBytes(bytes, 'fuzz').tensors.values()) {
        // Plain comparisons: a hundred thousand expect() calls would take most of the time.
        if (!(source.offset >= 0 && source.offset + source.byteLength <= bytes.length))
          throw new Error(`accepted ${source.name} out of bounds`);
      }
    } catch (error) {
      if ((error as Error).name !== 'LatheError') throw error;
    }
  }

  test('mutated headers', () => {
    const edits = fc.array(fc.tuple(fc.nat(dataOffset - 1), fc.integer({ min: 0, max: 255 })), {
      minLength: 1,
      maxLength: 5,
    });
    fc.assert(
      fc.property(edits, (changes) => {
        const bytes = Buffer.from(good);
        for (const [at, value] of changes) bytes[at] = value;
        check(bytes);
      }),
      { numRuns: 2000 },
    );
  });

  test('mutated counts and lengths', () => {
    const value = fc.oneof(
      fc.bigInt(0n, 300n),
      fc.constantFrom(2n ** 32n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n),
      fc.bigInt(0n, 2n ** 64n - 1n),
    );
    fc.assert(
      fc.property(fc.nat(dataOffset - 9), value, (at, word) => {
        const bytes = Buffer.from(good);
        bytes.writeBigUInt64LE(word, at);
        check(bytes);
      }),
      { numRuns: 2000 },
    );
  });

  test('cut at every byte of the header, and arbitrary bytes', () => {
    for (let length = 0; length < dataOffset; length++) check(good.subarray(0, length));
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (tail) => check(Buffer.concat([good.subarray(0, 8), tail]))),
      { numRuns: 1000 },
    );
  });
});
