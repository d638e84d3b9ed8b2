/**
 * GGUF v2 and v3: metadata and tensor sources, without reading tensor data.
 *
 * The idea: a cursor over a byte source that checks every length against what is left of the file before it
 * allocates, so a hostile header costs an error and never memory or time.
 *
 * Invariants of a file that passes: keys and tensor names are unique, every tensor lies inside the file, aligned,
 * overlapping no other, and at most padding follows the last one.
 *
 * Source: ggml docs/gguf.md, gguf.cpp.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { LatheError, formatShape } from '../../errors';
import { toIoError } from '../io-error';
import { isReadable, storageBytes, type TensorSource } from '../tensor-source';
import { Cursor, memoryBytes, type ByteSource } from './cursor';
import { GGML_TYPES, ValueType, type GgufValue, type NumberArray } from './types';

export interface GgufFile {
  path: string;
  version: 2 | 3;
  metadata: Map<string, GgufValue>;
  /** In file order; shapes are row-major, as in safetensors. */
  tensors: Map<string, TensorSource>;
  /** Bytes; a power of two. */
  alignment: number;
  /** Absolute offset of the tensor data. */
  dataOffset: number;
  /** Tensors of types that are known by name only (IQ*, TQ*, MXFP4, ...). */
  unsupported: TensorSource[];
}

const MAGIC = 0x46554747; // "GGUF", little-endian
const DEFAULT_ALIGNMENT = 32;
const MAX_DIMS = 4;
// ggml holds names in 64 bytes with a terminator.
const MAX_NAME_BYTES = 63;
const MAX_KEY_BYTES = 65535;
// Arrays in arrays are legal and unused; a bound keeps recursion shallow.
const MAX_ARRAY_DEPTH = 4;

/** Reads the header of a file. @throws LatheError ERR_FORMAT, ERR_UNSUPPORTED for GGUF v1 and big-endian files */
export function readGguf(path: string): GgufFile {
  let file: number | undefined;
  try {
    file = openSync(path, 'r');
    const descriptor = file;
    const { size } = fstatSync(descriptor);
    return parseGguf({ size, read: (into, position) => readSync(descriptor, into, 0, into.length, position) }, path);
  } catch (error) {
    throw toIoError(error, 'read', path, 'ERR_FORMAT');
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** `readGguf` as a promise, like `openSafetensors`; headers are megabytes, so the reads themselves are synchronous. */
export async function openGguf(path: string): Promise<GgufFile> {
  return readGguf(path);
}

/** Parses a file given as bytes (tests, fuzzing). */
export function parseGgufBytes(bytes: Uint8Array, path: string): GgufFile {
  return parseGguf(memoryBytes(bytes), path);
}

function parseGguf(source: ByteSource, path: string): GgufFile {
  const cursor = new Cursor(source, path);
  const version = readVersion(cursor);
  // The smallest tensor info takes 25 bytes, the smallest key-value pair 13.
  const tensorCount = cursor.count('tensors', 24);
  const kvCount = cursor.count('metadata entries', 13);
  const metadata = readMetadata(cursor, kvCount);
  const alignment = readAlignment(metadata, path);
  const infos: TensorInfo[] = [];
  for (let i = 0; i < tensorCount; i++) infos.push(readTensorInfo(cursor));
  const dataOffset = Math.ceil(cursor.position / alignment) * alignment;
  const sources = infos.map((info) => toSource(info, dataOffset, alignment, source.size, path));
  checkLayout(sources, dataOffset, alignment, source.size, path);
  const tensors = new Map<string, TensorSource>();
  for (const tensor of sources) {
    if (tensors.has(tensor.name)) throw cursor.error(`expected unique tensor names, received '${tensor.name}' twice`);
    tensors.set(tensor.name, tensor);
  }
  return {
    path,
    version,
    metadata,
    tensors,
    alignment,
    dataOffset,
    unsupported: sources.filter(({ dtype }) => !isReadable(dtype)),
  };
}

function readVersion(cursor: Cursor): 2 | 3 {
  const magic = cursor.u32();
  if (magic !== MAGIC) throw cursor.error(`expected the magic 'GGUF', received 0x${magic.toString(16)}`);
  const version = cursor.u32();
  if (version === 2 || version === 3) return version;
  if (version === 1)
    throw new LatheError('ERR_UNSUPPORTED', 'expected GGUF version 2 or 3, received 1', {
      at: cursor.path,
      remedy: 'convert the model again with a current llama.cpp',
    });
  if ((version & 0xffff) === 0)
    throw new LatheError('ERR_UNSUPPORTED', 'expected a little-endian GGUF file, received a big-endian one', {
      at: cursor.path,
      remedy: 'convert it with gguf_convert_endian.py',
    });
  throw new LatheError('ERR_UNSUPPORTED', `expected GGUF version 2 or 3, received ${version}`, {
    at: cursor.path,
    remedy: 'update lathe, or convert the model with an older llama.cpp',
  });
}

function readMetadata(cursor: Cursor, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.string('a metadata key', MAX_KEY_BYTES);
    if (metadata.has(key)) throw cursor.error(`expected unique metadata keys, received '${key}' twice`);
    metadata.set(key, readValue(cursor, cursor.u32(), key, 0));
  }
  return metadata;
}

function readValue(cursor: Cursor, type: number, key: string, depth: number): GgufValue {
  switch (type) {
    case ValueType.u8:
      return cursor.u8();
    case ValueType.i8:
      return (cursor.u8() << 24) >> 24;
    case ValueType.u16:
      return cursor.u16();
    case ValueType.i16:
      return (cursor.u16() << 16) >> 16;
    case ValueType.u32:
      return cursor.u32();
    case ValueType.i32:
      return cursor.u32() | 0;
    case ValueType.f32:
      return cursor.f32();
    case ValueType.bool:
      return readBool(cursor, key);
    case ValueType.string:
      return cursor.string(`the value of '${key}'`);
    case ValueType.array:
      return readArray(cursor, key, depth);
    case ValueType.u64:
      return narrow(cursor.u64());
    case ValueType.i64:
      return narrow(BigInt.asIntN(64, cursor.u64()));
    case ValueType.f64:
      return cursor.f64();
    default:
      throw cursor.error(`expected a value type from 0 to 12 for '${key}', received ${type}`);
  }
}

function readBool(cursor: Cursor, key: string): boolean {
  const byte = cursor.u8();
  if (byte > 1) throw cursor.error(`expected 0 or 1 for the boolean '${key}', received ${byte}`);
  return byte === 1;
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

const ELEMENT_ARRAYS = new Map<number, { bytes: number; make: (buffer: ArrayBuffer) => NumberArray }>([
  [ValueType.u8, { bytes: 1, make: (b) => new Uint8Array(b) }],
  [ValueType.bool, { bytes: 1, make: (b) => new Uint8Array(b) }],
  [ValueType.i8, { bytes: 1, make: (b) => new Int8Array(b) }],
  [ValueType.u16, { bytes: 2, make: (b) => new Uint16Array(b) }],
  [ValueType.i16, { bytes: 2, make: (b) => new Int16Array(b) }],
  [ValueType.u32, { bytes: 4, make: (b) => new Uint32Array(b) }],
  [ValueType.i32, { bytes: 4, make: (b) => new Int32Array(b) }],
  [ValueType.f32, { bytes: 4, make: (b) => new Float32Array(b) }],
  [ValueType.u64, { bytes: 8, make: (b) => new BigUint64Array(b) }],
  [ValueType.i64, { bytes: 8, make: (b) => new BigInt64Array(b) }],
  [ValueType.f64, { bytes: 8, make: (b) => new Float64Array(b) }],
]);

function readArray(cursor: Cursor, key: string, depth: number): GgufValue {
  if (depth >= MAX_ARRAY_DEPTH)
    throw cursor.error(`expected arrays nested at most ${MAX_ARRAY_DEPTH} deep for '${key}', received more`);
  const type = cursor.u32();
  const numeric = ELEMENT_ARRAYS.get(type);
  if (numeric) {
    const count = cursor.count(`elements of '${key}'`, numeric.bytes);
    // A fresh copy: the cursor's window moves on, and typed arrays need aligned bytes.
    return numeric.make(cursor.copy(count * numeric.bytes));
  }
  if (type !== ValueType.string && type !== ValueType.array)
    throw cursor.error(`expected an element type from 0 to 12 for '${key}', received ${type}`);
  const count = cursor.count(`elements of '${key}'`, type === ValueType.string ? 8 : 12);
  const values: GgufValue[] = [];
  for (let i = 0; i < count; i++) {
    values.push(
      type === ValueType.string ? cursor.string(`element ${i} of '${key}'`) : readArray(cursor, key, depth + 1),
    );
  }
  return values;
}

function readAlignment(metadata: ReadonlyMap<string, GgufValue>, path: string): number {
  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT;
  if (
    typeof alignment !== 'number' ||
    !Number.isInteger(alignment) ||
    alignment < 1 ||
    alignment > 1 << 30 ||
    (alignment & (alignment - 1)) !== 0
  ) {
    throw new LatheError(
      'ERR_FORMAT',
      `expected general.alignment to be a power of two, received ${String(alignment)}`,
      { at: path, remedy: 'the file is damaged; download or convert it again' },
    );
  }
  return alignment;
}

interface TensorInfo {
  name: string;
  /** ggml order, innermost first. */
  dims: number[];
  type: number;
  offset: number;
}

function readTensorInfo(cursor: Cursor): TensorInfo {
  const name = cursor.string('a tensor name', MAX_NAME_BYTES);
  const dimCount = cursor.u32();
  if (dimCount > MAX_DIMS)
    throw cursor.error(`expected at most ${MAX_DIMS} dimensions for '${name}', received ${dimCount}`);
  const dims: number[] = [];
  for (let i = 0; i < dimCount; i++) dims.push(cursor.size(`dimension ${i} of '${name}'`));
  return { name, dims, type: cursor.u32(), offset: cursor.size(`the offset of '${name}'`) };
}

function toSource(
  info: TensorInfo,
  dataOffset: number,
  alignment: number,
  fileBytes: number,
  path: string,
): TensorSource {
  const fail = (message: string): LatheError =>
    new LatheError('ERR_FORMAT', message, {
      at: `${path} tensor '${info.name}'`,
      remedy: 'the file is damaged or cut short; download or convert it again',
    });
  const dtype = GGML_TYPES.get(info.type);
  if (!dtype) throw fail(`expected a known ggml type, received id ${info.type}`);
  const shape = info.dims.toReversed();
  const byteLength = storageBytes(dtype, shape);
  // Blocks run along a row: each row must hold whole blocks, not just the tensor.
  if (byteLength === undefined || storageBytes(dtype, [shape.at(-1) ?? 1]) === undefined) {
    throw fail(`expected rows of whole ${dtype} blocks and a size below 2^53, received ${formatShape(shape)}`);
  }
  if (info.offset % alignment !== 0)
    throw fail(`expected an offset that is a multiple of ${alignment}, received ${info.offset}`);
  if (info.offset > fileBytes || dataOffset + info.offset + byteLength > fileBytes) {
    throw fail(
      `expected ${byteLength} bytes at offset ${dataOffset + info.offset}, received a file of ${fileBytes} bytes`,
    );
  }
  return { name: info.name, dtype, shape, path, offset: dataOffset + info.offset, byteLength };
}

function checkLayout(
  sources: readonly TensorSource[],
  dataOffset: number,
  alignment: number,
  fileBytes: number,
  path: string,
): void {
  let end = dataOffset;
  let previous = '';
  for (const source of [...sources].sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)) {
    if (source.offset < end) {
      throw new LatheError(
        'ERR_FORMAT',
        `expected tensors that do not overlap, received '${source.name}' at ${source.offset} inside '${previous}', which ends at ${end}`,
        { at: path, remedy: 'the file is damaged; download or convert it again' },
      );
    }
    end = source.offset + source.byteLength;
    previous = source.name;
  }
  // With no tensors (a vocabulary file) the padding before the data may be missing altogether.
  if (fileBytes > Math.ceil(end / alignment) * alignment) {
    throw new LatheError(
      'ERR_FORMAT',
      `expected the file to end at ${end} (plus padding to ${alignment}), received ${fileBytes} bytes`,
      { at: path, remedy: 'the file is damaged or two files were joined; download or convert it again' },
    );
  }
}
