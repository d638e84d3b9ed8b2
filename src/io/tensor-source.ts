/**
 * TensorSource: where a tensor's bytes lie on disk, and in which encoding.
 *
 * The idea: reading a checkpoint means reading headers. A source is a plain value (file, offset, length,
 * storage type) that a session hands to native code, which streams the bytes itself; only small tensors
 * are ever read here. Safetensors and GGUF share the type, so a loader does not care which one it got.
 *
 * Invariants: `shape` is row-major (outermost first, GGUF's reversed order is already undone); `offset` is
 * absolute in the file; `byteLength` equals what shape and storage type imply; the range lies in the file
 * as it was when the header was read.
 *
 * Sizes: safetensors' Dtype list; GGML_QUANT_SIZES of llama.cpp's gguf-py.
 */
import { open } from 'node:fs/promises';
import { constants } from 'node:buffer';
import { LatheError, formatBytes, formatShape } from '../errors';
import { toIoError } from './io-error';

export interface StorageTypeInfo {
  /** Elements that share one block; the innermost dimension of a tensor is a multiple of it in GGUF. */
  readonly blockElements: number;
  readonly blockBytes: number;
  /** `unsupported`: named and measured, so that a header parses, but nothing here or natively decodes it. */
  readonly kind: 'float' | 'integer' | 'quantised' | 'unsupported';
}

function scalar(blockBytes: number, kind: StorageTypeInfo['kind']): StorageTypeInfo {
  return { blockElements: 1, blockBytes, kind };
}

function block(
  blockElements: number,
  blockBytes: number,
  kind: StorageTypeInfo['kind'] = 'quantised',
): StorageTypeInfo {
  return { blockElements, blockBytes, kind };
}

export const STORAGE_TYPES = {
  // Safetensors, in that library's order of increasing alignment; the writer sorts by it.
  BOOL: scalar(1, 'integer'),
  F4: block(2, 1, 'unsupported'),
  F6_E2M3: block(4, 3, 'unsupported'),
  F6_E3M2: block(4, 3, 'unsupported'),
  U8: scalar(1, 'integer'),
  I8: scalar(1, 'integer'),
  F8_E5M2: scalar(1, 'unsupported'),
  F8_E4M3: scalar(1, 'unsupported'),
  F8_E8M0: scalar(1, 'unsupported'),
  F8_E4M3FNUZ: scalar(1, 'unsupported'),
  F8_E5M2FNUZ: scalar(1, 'unsupported'),
  I16: scalar(2, 'integer'),
  U16: scalar(2, 'integer'),
  F16: scalar(2, 'float'),
  BF16: scalar(2, 'float'),
  I32: scalar(4, 'integer'),
  U32: scalar(4, 'integer'),
  F32: scalar(4, 'float'),
  C64: scalar(8, 'unsupported'),
  F64: scalar(8, 'float'),
  I64: scalar(8, 'integer'),
  U64: scalar(8, 'integer'),
  // ggml's block formats; its plain types (F32, F16, BF16, F64, I8..I64) are the ones above.
  Q4_0: block(32, 18),
  Q4_1: block(32, 20),
  Q5_0: block(32, 22),
  Q5_1: block(32, 24),
  Q8_0: block(32, 34),
  Q2_K: block(256, 84),
  Q3_K: block(256, 110),
  Q4_K: block(256, 144),
  Q5_K: block(256, 176),
  Q6_K: block(256, 210),
  Q8_1: block(32, 40, 'unsupported'),
  Q8_K: block(256, 292, 'unsupported'),
  IQ1_S: block(256, 50, 'unsupported'),
  IQ1_M: block(256, 56, 'unsupported'),
  IQ2_XXS: block(256, 66, 'unsupported'),
  IQ2_XS: block(256, 74, 'unsupported'),
  IQ2_S: block(256, 82, 'unsupported'),
  IQ3_XXS: block(256, 98, 'unsupported'),
  IQ3_S: block(256, 110, 'unsupported'),
  IQ4_NL: block(32, 18, 'unsupported'),
  IQ4_XS: block(256, 136, 'unsupported'),
  TQ1_0: block(256, 54, 'unsupported'),
  TQ2_0: block(256, 66, 'unsupported'),
  MXFP4: block(32, 17, 'unsupported'),
  NVFP4: block(64, 36, 'unsupported'),
  Q1_0: block(128, 18, 'unsupported'),
} as const satisfies Record<string, StorageTypeInfo>;

export type StorageType = keyof typeof STORAGE_TYPES;

export interface TensorSource {
  readonly name: string;
  readonly dtype: StorageType;
  readonly shape: readonly number[];
  readonly path: string;
  /** Absolute byte offset in the file. */
  readonly offset: number;
  readonly byteLength: number;
}

/** True when this package can decode the type (as floats, integers or a block format). */
export function isReadable(dtype: StorageType): boolean {
  return STORAGE_TYPES[dtype].kind !== 'unsupported';
}

/** Product of the dimensions, or undefined when it is not an exact integer in a double. */
export function elementCount(shape: readonly number[]): number | undefined {
  // A zero anywhere makes the tensor empty, but the library still rejects an overflowing prefix: so do we.
  let count = 1;
  for (const dim of shape) {
    count *= dim;
    if (!Number.isSafeInteger(count)) return undefined;
  }
  return count;
}

/** Bytes of a tensor, or undefined when it overflows or does not fill whole blocks. */
export function storageBytes(dtype: StorageType, shape: readonly number[]): number | undefined {
  const { blockElements, blockBytes } = STORAGE_TYPES[dtype];
  const count = elementCount(shape);
  if (count === undefined || count % blockElements !== 0) return undefined;
  const bytes = (count / blockElements) * blockBytes;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `model.norm.weight BF16[576] at model.safetensors+1024` */
export function describeSource(source: TensorSource): string {
  return `${source.name} ${source.dtype}${formatShape(source.shape)} at ${source.path}+${source.offset}`;
}

/**
 * All bytes of one tensor. For small tensors and tests; weights go to native code by source.
 * @throws LatheError ERR_FORMAT when the file ends early, ERR_UNSUPPORTED when the tensor exceeds one buffer
 */
export async function readTensorBytes(source: TensorSource): Promise<Uint8Array> {
  if (source.byteLength > constants.MAX_LENGTH) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `expected a tensor of at most ${formatBytes(constants.MAX_LENGTH)} to read in one piece, received ${formatBytes(source.byteLength)}`,
      {
        at: describeSource(source),
        remedy: 'hand the source to a session, which streams it natively',
      },
    );
  }
  const bytes = new Uint8Array(source.byteLength);
  const file = await open(source.path, 'r').catch((cause: unknown) => {
    throw toIoError(cause, 'open', source.path, 'ERR_FORMAT');
  });
  try {
    await readFully(file, bytes, source.offset, describeSource(source));
  } finally {
    await file.close();
  }
  return bytes;
}

interface PositionedReader {
  read(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
}

// One read call takes at most 2 GiB - 1 on Linux.
const MAX_READ_BYTES = 1 << 30;

/** Fills `bytes` from `position`; a short file is an error that names `at`. */
export async function readFully(
  file: PositionedReader,
  bytes: Uint8Array,
  position: number,
  at: string,
): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const length = Math.min(bytes.length - done, MAX_READ_BYTES);
    const { bytesRead } = await file.read(bytes, done, length, position + done);
    if (bytesRead === 0) {
      throw new LatheError(
        'ERR_FORMAT',
        `expected ${bytes.length} bytes from offset ${position}, received ${done} before the end of the file`,
        {
          at,
          remedy: 'the file was cut short after its header was read; download or write it again',
        },
      );
    }
    done += bytesRead;
  }
}
