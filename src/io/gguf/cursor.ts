/**
 * A forward-only little-endian cursor with a moving window: reads megabytes of header from a file of any size
 * in few system calls, and checks every count against the bytes that are left before anything is allocated.
 */
import { LatheError } from '../../errors';

export interface ByteSource {
  readonly size: number;
  /** Fills as much of `into` as it can from `position`; returns the bytes read, 0 at the end. */
  read(into: Uint8Array, position: number): number;
}

export function memoryBytes(bytes: Uint8Array): ByteSource {
  return {
    size: bytes.length,
    read(into, position) {
      const part = bytes.subarray(position, position + into.length);
      into.set(part);
      return part.length;
    },
  };
}

const WINDOW_BYTES = 1 << 18;
// Tokenizers take a few MB; no real header comes near this, and it bounds what a hostile one can make us hold.
const MAX_HEADER_BYTES = 256 << 20;

export class Cursor {
  readonly path: string;
  #source: ByteSource;
  #window = new Uint8Array(0);
  #view = new DataView(this.#window.buffer);
  /** File position of the window's first byte. */
  #base = 0;
  /** Position within the window. */
  #at = 0;
  #text = new TextDecoder('utf-8');

  constructor(source: ByteSource, path: string) {
    this.#source = source;
    this.path = path;
  }

  get position(): number {
    return this.#base + this.#at;
  }

  error(message: string): LatheError {
    return new LatheError('ERR_FORMAT', message, {
      at: `${this.path}+${this.position}`,
      remedy: 'the file is damaged or no GGUF file; download or convert it again',
    });
  }

  u8(): number {
    return this.#take(1).getUint8(this.#at - 1);
  }

  u16(): number {
    return this.#take(2).getUint16(this.#at - 2, true);
  }

  u32(): number {
    return this.#take(4).getUint32(this.#at - 4, true);
  }

  u64(): bigint {
    return this.#take(8).getBigUint64(this.#at - 8, true);
  }

  f32(): number {
    return this.#take(4).getFloat32(this.#at - 4, true);
  }

  f64(): number {
    return this.#take(8).getFloat64(this.#at - 8, true);
  }

  /** A u64 that must be exact as a number. */
  size(what: string): number {
    const value = Number(this.u64());
    if (!Number.isSafeInteger(value)) throw this.error(`expected ${what} below 2^53, received ${value}`);
    return value;
  }

  /** A u64 count of things that take at least `minBytes` each. */
  count(what: string, minBytes: number): number {
    const value = this.size(`the number of ${what}`);
    this.#require(value * minBytes, () => `${value} ${what}`);
    return value;
  }

  string(what: string, maxBytes = Infinity): string {
    const length = this.size(`the length of ${what}`);
    if (length > maxBytes) throw this.error(`expected ${what} of at most ${maxBytes} bytes, received ${length}`);
    this.#require(length, () => `${what} of ${length} bytes`);
    this.#take(length);
    return this.#text.decode(this.#window.subarray(this.#at - length, this.#at));
  }

  /** A fresh copy of the next bytes. */
  copy(length: number): ArrayBuffer {
    this.#require(length, () => `${length} bytes`);
    this.#take(length);
    return this.#window.slice(this.#at - length, this.#at).buffer;
  }

  #require(length: number, what: () => string): void {
    const left = this.#source.size - this.position;
    if (length > left) throw this.error(`expected ${what()}, received a file with ${left} bytes left`);
    if (this.position + length > MAX_HEADER_BYTES)
      throw this.error(`expected a header of at most ${MAX_HEADER_BYTES} bytes, received more`);
  }

  /** Steps over `length` bytes that now lie in the window, before `#at`; returns the view, which may be a new one. */
  #take(length: number): DataView {
    if (this.#at + length > this.#window.length) this.#refill(length);
    this.#at += length;
    return this.#view;
  }

  #refill(length: number): void {
    this.#require(length, () => `${length} more bytes`);
    const position = this.position;
    const window = new Uint8Array(Math.min(Math.max(length, WINDOW_BYTES), this.#source.size - position));
    let filled = 0;
    while (filled < window.length) {
      const count = this.#source.read(window.subarray(filled), position + filled);
      if (count === 0)
        throw this.error(`expected ${window.length} bytes, received ${filled} before the end of the file`);
      filled += count;
    }
    this.#window = window;
    this.#view = new DataView(window.buffer);
    this.#base = position;
    this.#at = 0;
  }
}
