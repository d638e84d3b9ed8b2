/**
 * Decompressing zstd: fzstd decodes the blocks, this file finds the frames and verifies what they promise.
 *
 * The idea: fzstd skips checksums, and Node's own zlib (from 22.15 on) stops after the first frame without a word. The length of
 * every block is in front of it, so the frames can be walked without decoding anything; each gets a decoder of its own, and at
 * its end the content must have the size and the checksum (the low half of XXH64) that the frame gives, where it gives them.
 *
 * Invariants: constant memory, a block and the window at a time; one behaviour on every version of Node. Content is handed out
 * before the end of its frame is seen, so a damaged frame is an error after its rows, as with gzip.
 *
 * Source: RFC 8878, section 3.1.
 */
import { Decompress } from 'fzstd';
import { XxHash64 } from './xxhash64';

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const LARGEST_BLOCK = 128 * 1024;

/** The content of all frames. @throws Error (no LatheError: it does not know the file) for a stream that is cut short or damaged */
export async function* decodeZstd(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  const bytes = new ByteQueue(chunks);
  while (await bytes.hasMore()) {
    const magic = await bytes.take(4);
    const value = viewOf(magic).getUint32(0, true);
    if ((value & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC)
      await bytes.skip(viewOf(await bytes.take(4)).getUint32(0, true));
    else if (value === FRAME_MAGIC) yield* decodeFrame(magic, bytes);
    else throw new Error('bytes that begin no frame');
  }
}

async function* decodeFrame(magic: Uint8Array, bytes: ByteQueue): AsyncGenerator<Uint8Array> {
  const header = await readHeader(magic, bytes);
  const hash = header.hasChecksum ? new XxHash64() : null;
  let size = 0;
  let pending: Uint8Array[] = [];
  const decoder = new Decompress((part) => {
    const content = part.slice();
    size += content.length;
    hash?.update(content);
    if (content.length > 0) pending.push(content);
  });
  let checksum: number | null = null;
  for (let input = [header.bytes]; ; input = []) {
    const blockHeader = await bytes.take(3);
    const fields = blockHeader[0] | (blockHeader[1] << 8) | (blockHeader[2] << 16);
    const isLast = (fields & 1) === 1;
    const isRun = ((fields >> 1) & 3) === 1;
    const blockBytes = isRun ? 1 : fields >> 3;
    if (blockBytes > LARGEST_BLOCK) throw new Error(`a block of ${blockBytes} bytes`);
    input.push(blockHeader, await bytes.take(blockBytes));
    if (isLast && hash) {
      const stored = await bytes.take(4);
      checksum = viewOf(stored).getUint32(0, true);
      input.push(stored);
    }
    decoder.push(Buffer.concat(input), isLast);
    if (isLast) break; // what the last block holds is handed out after the checks
    yield* pending;
    pending = [];
  }
  if (header.contentSize !== null && header.contentSize !== size)
    throw new Error(`a frame of ${size} bytes that says it has ${header.contentSize}`);
  const computed = hash ? Number(BigInt.asUintN(32, hash.digest())) : null;
  if (computed !== checksum)
    throw new Error(`a frame with the checksum ${hex(computed!)} that says it has ${hex(checksum!)}`);
  yield* pending;
}

interface FrameHeader {
  /** From the magic number on. */
  readonly bytes: Uint8Array;
  readonly hasChecksum: boolean;
  /** Null where the frame does not say. */
  readonly contentSize: number | null;
}

async function readHeader(magic: Uint8Array, bytes: ByteQueue): Promise<FrameHeader> {
  const descriptor = await bytes.take(1);
  const [flags] = descriptor;
  const isSingleSegment = (flags & 32) !== 0;
  const window = await bytes.take(isSingleSegment ? 0 : 1);
  const dictionary = await bytes.take([0, 1, 2, 4][flags & 3]);
  if (dictionary.some((byte) => byte !== 0)) throw new Error('a frame that needs a dictionary, which is not supported');
  const size = await bytes.take(flags >> 6 ? 1 << (flags >> 6) : Number(isSingleSegment));
  return {
    bytes: Buffer.concat([magic, descriptor, window, dictionary, size]),
    hasChecksum: (flags & 4) !== 0,
    contentSize: sizeOf(size),
  };
}

function sizeOf(field: Uint8Array): number | null {
  if (field.length === 0) return null;
  if (field.length === 1) return field[0];
  // Two bytes begin where one ends.
  if (field.length === 2) return viewOf(field).getUint16(0, true) + 256;
  return field.length === 4 ? viewOf(field).getUint32(0, true) : Number(viewOf(field).getBigUint64(0, true));
}

const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const hex = (value: number): string => value.toString(16).padStart(8, '0');

/** Exact numbers of bytes out of chunks of any size. */
class ByteQueue {
  private readonly chunks: AsyncIterator<Uint8Array>;
  private current: Uint8Array = new Uint8Array(0);

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.chunks = chunks[Symbol.asyncIterator]();
  }

  /** Whether there is another byte. */
  async hasMore(): Promise<boolean> {
    while (this.current.length === 0) {
      const next = await this.chunks.next();
      if (next.done) return false;
      this.current = next.value;
    }
    return true;
  }

  async take(count: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    await this.pass(count, (part) => parts.push(part));
    return parts.length === 1 ? parts[0] : Buffer.concat(parts);
  }

  async skip(count: number): Promise<void> {
    await this.pass(count, () => undefined);
  }

  private async pass(count: number, visit: (part: Uint8Array) => void): Promise<void> {
    for (let left = count; left > 0;) {
      if (!(await this.hasMore())) throw new Error('the end of the file');
      const part = this.current.subarray(0, left);
      visit(part);
      this.current = this.current.subarray(part.length);
      left -= part.length;
    }
  }
}
