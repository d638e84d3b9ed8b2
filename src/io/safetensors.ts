/**
 * Safetensors: headers in, whole files out.
 *
 * The idea: a file is `u64 header length, JSON header, byte buffer`; everything a loader needs stands in the
 * header, so reading never touches the buffer. The reader is as strict as the format: a header that passes
 * describes every byte of the file exactly once. The writer streams one tensor at a time into a temporary file
 * and produces the same bytes as the Python library would for the same tensors.
 *
 * Source: safetensors README ("Format") and safetensors/src/tensor.rs.
 */
import { open } from 'node:fs/promises';
import { LatheError, formatBytes, formatShape, nearest } from '../errors';
import { withAtomicFile } from './atomic-file';
import { toIoError } from './io-error';
import { findDuplicateKey } from './json-keys';
import {
  elementCount,
  isReadable,
  readFully,
  storageBytes,
  type StorageType,
  type TensorSource,
} from './tensor-source';

const MAX_HEADER_BYTES = 100_000_000;

/** Types the format knows, in increasing order of alignment: the writer's sort key, ties broken by this order. */
// prettier-ignore
export const SAFETENSORS_DTYPES = [
  'BOOL', 'F4', 'F6_E2M3', 'F6_E3M2', 'U8', 'I8', 'F8_E5M2', 'F8_E4M3', 'F8_E8M0', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ',
  'I16', 'U16', 'F16', 'BF16', 'I32', 'U32', 'F32', 'C64', 'F64', 'I64', 'U64',
] as const satisfies readonly StorageType[];

export type SafetensorsDType = (typeof SAFETENSORS_DTYPES)[number];

const DTYPE_RANK = new Map<string, number>(SAFETENSORS_DTYPES.map((dtype, rank) => [dtype, rank]));

export interface SafetensorsFile {
  path: string;
  /** In file order. */
  tensors: Map<string, TensorSource>;
  /** `__metadata__`, string to string; `{}` when absent. */
  metadata: Record<string, string>;
  /** Tensors whose type is known to the format but can't be decoded here (F8, F6, F4, C64). */
  unsupported: TensorSource[];
}

function formatError(
  path: string,
  message: string,
  remedy = 'the file is damaged or no safetensors file; download or write it again',
): LatheError {
  return new LatheError('ERR_FORMAT', message, { at: path, remedy });
}

// ---------------------------------------------------------------------------------------------- reading

/** Length of the header, checked against the limit and the file. @param prefix the first 8 bytes (fewer if the file is shorter) */
function headerLength(prefix: Uint8Array, fileBytes: number, path: string): number {
  if (prefix.length < 8) throw formatError(path, `expected at least 8 bytes, received a file of ${prefix.length}`);
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES))
    throw formatError(path, `expected a header of at most ${MAX_HEADER_BYTES} bytes, received a length of ${length}`);
  if (8 + Number(length) > fileBytes)
    throw formatError(
      path,
      `expected a header of ${length} bytes, received a file of ${fileBytes}`,
      'the file is cut short; download or write it again',
    );
  return Number(length);
}

/**
 * Parses and validates a header.
 * @param header exactly the header's bytes, padding included
 * @param fileBytes size of the whole file
 * @throws LatheError ERR_FORMAT
 */
export function parseSafetensorsHeader(header: Uint8Array, fileBytes: number, path: string): SafetensorsFile {
  const json = parseJson(header, path);
  const bufferStart = 8 + header.length;
  const file: SafetensorsFile = { path, tensors: new Map(), metadata: {}, unsupported: [] };
  const sources: TensorSource[] = [];
  for (const [name, entry] of Object.entries(json)) {
    if (name === '__metadata__') file.metadata = parseMetadata(entry, path);
    else sources.push(parseEntry(name, entry, bufferStart, path));
  }
  sources.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  checkTiling(sources, bufferStart, fileBytes, path);
  for (const source of sources) {
    file.tensors.set(source.name, source);
    if (!isReadable(source.dtype)) file.unsupported.push(source);
  }
  return file;
}

function parseJson(header: Uint8Array, path: string): Record<string, unknown> {
  if (header[0] !== 0x7b)
    throw formatError(
      path,
      `expected the header to start with '{', received ${header.length === 0 ? 'an empty header' : `byte ${header[0]}`}`,
    );
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(header);
    value = JSON.parse(text);
  } catch (cause) {
    throw formatError(path, `expected the header to be UTF-8 JSON, received: ${(cause as Error).message}`);
  }
  const duplicate = findDuplicateKey(text);
  if (duplicate !== undefined) throw formatError(path, `expected every key once, received '${duplicate}' twice`);
  return value as Record<string, unknown>;
}

function parseMetadata(value: unknown, path: string): Record<string, string> {
  const isMap = typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isMap || !Object.values(value).every((text) => typeof text === 'string')) {
    throw formatError(
      path,
      'expected __metadata__ to map strings to strings, received something else',
      'write every metadata value as a string',
    );
  }
  return value as Record<string, string>;
}

function isIndex(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function parseEntry(name: string, value: unknown, bufferStart: number, path: string): TensorSource {
  const at = `${path} tensor '${name}'`;
  const {
    dtype,
    shape,
    data_offsets: offsets,
  } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  if (typeof dtype !== 'string' || !DTYPE_RANK.has(dtype)) {
    const guess = typeof dtype === 'string' ? nearest(dtype, SAFETENSORS_DTYPES) : undefined;
    throw formatError(
      at,
      `expected a dtype of ${SAFETENSORS_DTYPES.join(', ')}, received ${JSON.stringify(dtype) ?? 'none'}`,
      guess ? `did the writer mean ${guess}?` : undefined,
    );
  }
  if (!Array.isArray(shape) || !shape.every(isIndex))
    throw formatError(at, `expected a shape of non-negative integers, received ${describe(shape)}`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isIndex) || offsets[1] < offsets[0]) {
    throw formatError(at, `expected data_offsets [begin, end] with begin <= end, received ${describe(offsets)}`);
  }
  const [begin, end] = offsets as [number, number];
  const bytes = storageBytes(dtype as SafetensorsDType, shape);
  if (bytes === undefined)
    throw formatError(
      at,
      `expected a size that fits whole bytes and a 53-bit integer, received ${dtype}${formatShape(shape)}`,
    );
  if (end - begin !== bytes)
    throw formatError(
      at,
      `expected ${bytes} bytes for ${dtype}${formatShape(shape)}, received data_offsets [${begin}, ${end}] (${end - begin} bytes)`,
    );
  return { name, dtype: dtype as SafetensorsDType, shape, path, offset: bufferStart + begin, byteLength: bytes };
}

function describe(value: unknown): string {
  const text = JSON.stringify(value) ?? 'none';
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** Every byte of the buffer belongs to exactly one tensor. @param sources sorted by offset */
function checkTiling(sources: readonly TensorSource[], bufferStart: number, fileBytes: number, path: string): void {
  let next = bufferStart;
  for (const source of sources) {
    if (source.offset !== next) {
      const kind = source.offset > next ? 'a hole of' : 'an overlap of';
      throw formatError(
        `${path} tensor '${source.name}'`,
        `expected its data at offset ${next - bufferStart}, received ${source.offset - bufferStart} (${kind} ${Math.abs(source.offset - next)} bytes)`,
      );
    }
    next += source.byteLength;
  }
  if (next !== fileBytes) {
    const cut = next > fileBytes;
    throw formatError(
      path,
      `expected a file of ${next} bytes (${formatBytes(next)}), received ${fileBytes}`,
      cut
        ? 'the file is cut short; download or write it again'
        : 'the file has bytes that no tensor owns; write it again',
    );
  }
}

/** Reads and validates the header of a file; no tensor byte is read. @throws LatheError ERR_FORMAT */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      const prefix = new Uint8Array(8);
      const { bytesRead } = await file.read(prefix, 0, 8, 0);
      const header = new Uint8Array(headerLength(prefix.subarray(0, bytesRead), size, path));
      await readFully(file, header, 8, path);
      return parseSafetensorsHeader(header, size, path);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw toIoError(error, 'read', path, 'ERR_FORMAT');
  }
}

// ---------------------------------------------------------------------------------------------- writing

export interface TensorToWrite {
  name: string;
  dtype: SafetensorsDType;
  shape: readonly number[];
  /** Little-endian, row-major bytes. A function is called when its turn comes, and its result dropped after the write. */
  data: Uint8Array | (() => Uint8Array | Promise<Uint8Array>);
}

export type TensorList = Iterable<TensorToWrite> | AsyncIterable<TensorToWrite>;

interface SizedTensor extends TensorToWrite {
  byteLength: number;
}

/** Checks names, types and sizes; the data stay where they are. */
export async function collectTensors(tensors: TensorList, at: string): Promise<SizedTensor[]> {
  const sized: SizedTensor[] = [];
  const names = new Set<string>();
  for await (const tensor of tensors) {
    const { name, dtype, shape } = tensor;
    const where = `${at} tensor '${name}'`;
    if (names.has(name) || name === '__metadata__') {
      throw new LatheError(
        'ERR_FORMAT',
        `expected unique names other than __metadata__, received '${name}'${names.has(name) ? ' twice' : ''}`,
        { at, remedy: 'rename the tensor, or write a shared tensor once' },
      );
    }
    names.add(name);
    if (!DTYPE_RANK.has(dtype))
      throw new LatheError('ERR_DTYPE', `expected one of ${SAFETENSORS_DTYPES.join(', ')}, received ${String(dtype)}`, {
        at: where,
      });
    if (!shape.every(isIndex))
      throw new LatheError('ERR_SHAPE', `expected non-negative integers, received ${formatShape(shape)}`, {
        at: where,
      });
    const byteLength = storageBytes(dtype, shape);
    if (byteLength === undefined)
      throw new LatheError(
        'ERR_SHAPE',
        `expected a size of whole bytes below 2^53, received ${dtype}${formatShape(shape)}`,
        { at: where },
      );
    sized.push({ name, dtype, shape, data: tensor.data, byteLength });
  }
  return sized;
}

/** The library's order: alignment descending, then the name's UTF-8 bytes. */
function compareTensors(a: SizedTensor, b: SizedTensor): number {
  return (
    DTYPE_RANK.get(b.dtype)! - DTYPE_RANK.get(a.dtype)! || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name))
  );
}

/** Length prefix and padded JSON header. @param tensors in file order */
function encodeHeader(tensors: readonly SizedTensor[], metadata: Record<string, string>): Uint8Array {
  const parts: string[] = [];
  if (Object.keys(metadata).length > 0) parts.push(`"__metadata__":${JSON.stringify(metadata)}`);
  let offset = 0;
  for (const { name, dtype, shape, byteLength } of tensors) {
    const entry = { dtype, shape, data_offsets: [offset, offset + byteLength] };
    parts.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    offset += byteLength;
  }
  const json = Buffer.from(`{${parts.join(',')}}`, 'utf8');
  const padded = Math.ceil(json.length / 8) * 8;
  const header = Buffer.alloc(8 + padded, ' ');
  header.writeBigUInt64LE(BigInt(padded), 0);
  json.copy(header, 8);
  return header;
}

async function bytesOf(tensor: SizedTensor, at: string): Promise<Uint8Array> {
  const bytes = typeof tensor.data === 'function' ? await tensor.data() : tensor.data;
  if (bytes.length !== tensor.byteLength) {
    throw new LatheError(
      'ERR_SHAPE',
      `expected ${tensor.byteLength} bytes for ${tensor.dtype}${formatShape(tensor.shape)}, received ${bytes.length}`,
      {
        at: `${at} tensor '${tensor.name}'`,
        remedy: 'give the bytes of the whole tensor, contiguous and row-major',
      },
    );
  }
  return bytes;
}

export interface SafetensorsWritten {
  path: string;
  fileBytes: number;
  tensorBytes: number;
  parameters: number;
}

/**
 * Writes one file, atomically. At any time at most one tensor given as a function is in memory.
 * @param metadata string to string; other tools refuse files without `format`
 * @throws LatheError ERR_FORMAT/ERR_SHAPE/ERR_DTYPE for bad tensors, ERR_CHECKPOINT for the disk; no file is left then
 */
export async function writeSafetensors(
  path: string,
  tensors: TensorList,
  metadata: Record<string, string> = { format: 'pt' },
): Promise<SafetensorsWritten> {
  const sorted = (await collectTensors(tensors, path)).sort(compareTensors);
  parseMetadata(metadata, path);
  const header = encodeHeader(sorted, metadata);
  if (header.length - 8 > MAX_HEADER_BYTES)
    throw formatError(
      path,
      `expected a header of at most ${MAX_HEADER_BYTES} bytes, received ${header.length - 8}`,
      'write the tensors to several shards',
    );
  return withAtomicFile(path, async (file) => {
    await file.write(header);
    for (const tensor of sorted) await file.write(await bytesOf(tensor, path));
    const parameters = sorted.reduce((sum, { shape }) => sum + elementCount(shape)!, 0);
    return { path, fileBytes: file.bytesWritten, tensorBytes: file.bytesWritten - header.length, parameters };
  });
}
