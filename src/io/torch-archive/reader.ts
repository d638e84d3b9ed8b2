/**
 * PyTorch's checkpoint files (`pytorch_model.bin`, what torch.save writes) as sources of tensors.
 *
 * The file is a zip: `<name>/data.pkl` describes the tensors, `<name>/data/<key>` are their storages, stored as they are. So
 * a tensor is a range of the file, mapped like one of a safetensors file; nothing is unpickled but descriptions (pickle.ts).
 *
 * Invariants: each source lies in its storage's entry. Tensors may share bytes (a head tied to its embedding does). A view
 * that is not laid out row by row is refused by name: its bytes are no range.
 *
 * Source: torch/serialization.py; caffe2/serialize/inline_container.cc (names, alignment, byteorder).
 */
import { open, type FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { LatheError, formatShape } from '../../errors';
import { toIoError } from '../io-error';
import { elementCount, readFully, storageBytes, type StorageType, type TensorSource } from '../tensor-source';
import { readPickle, type PickledTensor, type PickleValue } from './pickle';
import { damaged, dataOffset, readZipDirectory, type ZipDirectory } from './zip';

const DTYPES: Readonly<Record<string, StorageType>> = {
  Float: 'F32',
  Half: 'F16',
  BFloat16: 'BF16',
  Double: 'F64',
  Long: 'I64',
  Int: 'I32',
  Short: 'I16',
  Char: 'I8',
  Byte: 'U8',
  Bool: 'BOOL',
};

export interface TorchArchive {
  readonly path: string;
  /** In the order of the state dict. */
  readonly tensors: Map<string, TensorSource>;
}

/** The pickle of a large model is about a megabyte. */
const MAX_PICKLE_BYTES = 1 << 28;

/**
 * Opens an archive; reads its directory and its descriptions, no weight.
 * @throws LatheError ERR_FORMAT (damaged, or no archive), ERR_UNSUPPORTED (more than tensors, an old format), by name
 */
export async function openTorchArchive(path: string): Promise<TorchArchive> {
  try {
    const file = await open(path, 'r');
    try {
      await checkKind(file, path);
      const directory = await readZipDirectory(file, path);
      const prefix = prefixOf(directory);
      await checkByteOrder(file, directory, prefix);
      const pickle = await entryBytes(file, directory, `${prefix}data.pkl`);
      return { path, tensors: await sourcesOf(file, directory, prefix, readPickle(pickle, `${path} data.pkl`)) };
    } finally {
      await file.close();
    }
  } catch (error) {
    throw toIoError(error, 'read', path, 'ERR_FORMAT');
  }
}

/** Tells a zip from what else carries such a name. */
async function checkKind(file: FileHandle, path: string): Promise<void> {
  const head = Buffer.alloc(32);
  const { bytesRead } = await file.read(head, 0, 32, 0);
  const text = head.toString('latin1', 0, bytesRead);
  if (text.startsWith('PK')) return;
  if (text.startsWith('version https://git-lfs'))
    throw new LatheError('ERR_FORMAT', 'expected a checkpoint, received a Git LFS pointer', {
      at: path,
      remedy: 'run `git lfs pull`, or download the file from the hub',
    });
  if (head[0] === 0x80 || text.includes('\0storages')) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      'expected the zip archive that torch.save writes since PyTorch 1.6, received a bare pickle of the older format',
      {
        at: path,
        remedy: 'with PyTorch, load it (torch.load(path, weights_only=True)) and save it again, best as safetensors',
      },
    );
  }
  throw damaged(
    path,
    bytesRead === 0
      ? 'expected a PyTorch checkpoint, received an empty file'
      : 'expected a PyTorch checkpoint (a zip archive), received something else',
  );
}

/** The folder inside of the archive, with its slash; torch names it after the file. */
function prefixOf(directory: ZipDirectory): string {
  const found = [...directory.entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (found.length !== 1) throw damaged(directory.path, `expected one data.pkl in the archive, found ${found.length}`);
  return found[0].slice(0, -'data.pkl'.length);
}

async function checkByteOrder(file: FileHandle, directory: ZipDirectory, prefix: string): Promise<void> {
  if (!directory.entries.has(`${prefix}byteorder`)) return;
  const order = Buffer.from(await entryBytes(file, directory, `${prefix}byteorder`))
    .toString('latin1')
    .trim();
  if (order !== 'little')
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected little-endian numbers, received byte order '${order.slice(0, 20)}'`,
      { at: directory.path, remedy: 'save the checkpoint on a little-endian machine' },
    );
}

/** A small entry, checked against its checksum. */
async function entryBytes(file: FileHandle, directory: ZipDirectory, name: string): Promise<Uint8Array> {
  const entry = directory.entries.get(name)!;
  if (entry.byteLength > MAX_PICKLE_BYTES)
    throw damaged(
      directory.path,
      `expected '${name}' of at most ${MAX_PICKLE_BYTES} bytes, received ${entry.byteLength}`,
    );
  const bytes = new Uint8Array(entry.byteLength);
  await readFully(file, bytes, await dataOffset(file, directory, entry), directory.path);
  if (crc32(bytes) !== entry.crc32)
    throw damaged(directory.path, `'${name}' does not have the checksum that the archive says`);
  return bytes;
}

async function sourcesOf(
  file: FileHandle,
  directory: ZipDirectory,
  prefix: string,
  value: PickleValue,
): Promise<Map<string, TensorSource>> {
  if (!(value instanceof Map)) throw notStateDict(directory.path, `received ${describe(value)}`);
  const tensors = new Map<string, TensorSource>();
  const offsets = new Map<string, number>();
  for (const [name, tensor] of value) {
    if (typeof name !== 'string') throw notStateDict(directory.path, `received a key that is ${describe(name)}`);
    if (!isTensor(tensor)) throw notStateDict(directory.path, `'${name}' is ${describe(tensor)}`);
    const { key, type, elements } = tensor.storage;
    // Every description of a storage is checked against the entry, however often it is described.
    const description = `${key}/${type}/${elements}`;
    let start = offsets.get(description);
    if (start === undefined) offsets.set(description, (start = await storageOffset(file, directory, prefix, tensor)));
    tensors.set(name, sourceOf(name, tensor, start, directory.path));
  }
  return tensors;
}

function isTensor(value: PickleValue): value is PickledTensor {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'tensor';
}

function notStateDict(path: string, what: string): LatheError {
  return new LatheError('ERR_FORMAT', `expected a dictionary of tensors by name, ${what}`, {
    at: path,
    remedy: "save the model's state_dict() itself, without anything around it",
  });
}

function describe(value: PickleValue): string {
  if (value === null) return 'None';
  if (Array.isArray(value)) return 'a list';
  if (value instanceof Map) return 'a dictionary';
  return typeof value === 'object' ? `a ${value.kind}` : `a ${typeof value}`;
}

async function storageOffset(
  file: FileHandle,
  directory: ZipDirectory,
  prefix: string,
  { storage }: PickledTensor,
): Promise<number> {
  const name = `${prefix}data/${storage.key}`;
  const entry = directory.entries.get(name);
  if (!entry) throw damaged(directory.path, `expected the entry '${name}', found none`);
  const bytes = storageBytes(DTYPES[storage.type], [storage.elements]);
  if (bytes !== entry.byteLength)
    throw damaged(
      directory.path,
      `expected ${storage.elements} elements of ${storage.type} in '${name}', received ${entry.byteLength} bytes`,
    );
  return dataOffset(file, directory, entry);
}

function sourceOf(
  name: string,
  { storage, offset, shape, strides }: PickledTensor,
  start: number,
  path: string,
): TensorSource {
  const dtype = DTYPES[storage.type];
  const at = `${path} tensor '${name}'`;
  const count = elementCount(shape);
  const byteLength = storageBytes(dtype, shape);
  if (count === undefined || byteLength === undefined)
    throw damaged(at, `expected a size below 2^53, received ${formatShape(shape)}`);
  if (count > 0 && !isRowMajor(shape, strides)) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `the tensor is a view with strides ${formatShape(strides)} of shape ${formatShape(shape)}`,
      { at, remedy: 'save it as tensor.contiguous(), or the model as safetensors' },
    );
  }
  if (offset + count > storage.elements)
    throw damaged(at, `expected elements ${offset} to ${offset + count} of a storage of ${storage.elements}`);
  return { name, dtype, shape, path, offset: start + offset * storageBytes(dtype, [1])!, byteLength };
}

/** Strides of dimensions of size 1 are never walked. */
function isRowMajor(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false;
    expected *= shape[i];
  }
  return true;
}
