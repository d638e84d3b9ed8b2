/**
 * Tokenised rows in a file, read as they are needed: what a table of examples is when it need not fit in memory.
 *
 * The idea: ids of all rows lie end to end, so a row is a range of tokens, a piece of a row is a shorter range, and a block cut
 * across rows is a longer one. Examples are these ranges; their ids are copied out of a mapping of the file when they are asked
 * for, so memory holds what the system keeps in its page cache. Without a mapping, positional reads do the same, more slowly.
 *
 * Layout, little endian: "LTHTOKS1", ids of 2 or 4 bytes, padding to 8; u32 lengths [examples], u32 rows [examples], u32 begin and
 * end of each run of tokens that is not trained [2 runs]; header (JSON), u32 its length, "LTHTOKS1".
 * Invariants: labels are the id or -100; rows keep their order; a file that was cut short is recognised when it is opened. A
 * mapped file must not be cut short in place afterwards: files of tokens are written under another name and only ever replaced.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { LatheError } from '../errors';
import type { RowKind } from './format';
import type { TruncationReport } from './truncate';
import { IGNORE_INDEX, type ExampleNote, type TokenizedExample } from './types';

const MAGIC = 'LTHTOKS1';
const END_BYTES = 4 + MAGIC.length;
const MOST_TOKENS = 2 ** 32;

export interface TokenFileHeader {
  /** Of everything that the content depends on. */
  key: string;
  examples: number;
  tokens: number;
  /** Runs of tokens that are not trained. */
  runs: number;
  /** Rows read, left out ones included. */
  rows: number;
  kind: RowKind;
  idBytes: 2 | 4;
  truncation: TruncationReport;
  /** By example index: what the doctor wants to know. */
  notes: [number, ExampleNote][];
  hasAnswer: boolean;
}

/** Takes examples one by one and gives the bytes of the file, in order. */
export class TokenFileWriter {
  tokens = 0;
  private readonly lengths: number[] = [];
  private readonly rows: number[] = [];
  private readonly runs: number[] = [];
  private readonly notes: [number, ExampleNote][] = [];
  private hasAnswer = false;
  private readonly idBytes: 2 | 4;

  constructor(vocabSize: number) {
    this.idBytes = vocabSize <= 65536 ? 2 : 4;
  }

  begin(): Uint8Array {
    return Buffer.from(MAGIC, 'latin1');
  }

  /** @throws LatheError ERR_UNSUPPORTED beyond 2^32 tokens, or for labels that are not the row's own ids */
  add(example: TokenizedExample): Uint8Array {
    const { inputIds, labels, row } = example;
    if (this.tokens + inputIds.length > MOST_TOKENS)
      throw new LatheError('ERR_UNSUPPORTED', 'token cache: expected at most 2^32 tokens, received more', {
        remedy: 'use dataset_streaming: true',
      });
    let open = -1;
    for (let i = 0; i <= inputIds.length; i++) {
      const isMasked = i < inputIds.length && labels[i] === IGNORE_INDEX;
      if (i < inputIds.length && !isMasked && labels[i] !== inputIds[i])
        throw new LatheError(
          'ERR_UNSUPPORTED',
          `token cache: expected labels that are the ids or -100, received ${labels[i]} for id ${inputIds[i]} in row ${row}`,
          { remedy: 'leave out token_cache' },
        );
      if (isMasked && open < 0) open = i;
      else if (!isMasked && open >= 0) {
        this.runs.push(this.tokens + open, this.tokens + i);
        open = -1;
      }
    }
    if (example.note) this.notes.push([this.lengths.length, example.note]);
    this.hasAnswer ||= example.hasAnswer === true;
    this.lengths.push(inputIds.length);
    this.rows.push(row);
    this.tokens += inputIds.length;
    const ids = this.idBytes === 2 ? Uint16Array.from(inputIds) : inputIds;
    return new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength);
  }

  end(rest: Pick<TokenFileHeader, 'key' | 'rows' | 'kind' | 'truncation'>): Uint8Array {
    const { tokens, idBytes, notes, hasAnswer } = this;
    const header: TokenFileHeader = {
      ...rest,
      examples: this.lengths.length,
      tokens,
      runs: this.runs.length / 2,
      idBytes,
      notes,
      hasAnswer,
    };
    const padding = Buffer.alloc(idsEnd(header) - (MAGIC.length + idBytes * tokens));
    const words = [this.lengths, this.rows, this.runs].map((list) => Buffer.from(Uint32Array.from(list).buffer));
    const json = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(json.length);
    return Buffer.concat([padding, ...words, json, length, Buffer.from(MAGIC, 'latin1')]);
  }
}

const idsEnd = ({ idBytes, tokens }: TokenFileHeader): number => Math.ceil((MAGIC.length + idBytes * tokens) / 8) * 8;

/** A file's bytes without reading them, or null where that cannot be had. */
export type MapFile = (path: string, bytes: number) => ArrayBuffer | null;

let mapFile: MapFile | null = null;

/** Mapping needs the addon, which may not be known here: a layer above provides it (src/train/token-cache.ts). */
export function provideFileMapping(map: MapFile): void {
  mapFile = map;
}

/** An open file of tokens; closed when nothing refers to it any more. */
export class TokenFile {
  readonly header: TokenFileHeader;
  readonly examples: readonly TokenizedExample[];
  private readonly file: number;
  /** Begins and ends of what is not trained. */
  private readonly runs: Uint32Array;
  /** Never handed out: what is read from it is copied. */
  private readonly mapping: ArrayBuffer | null;

  /** @throws LatheError ERR_FORMAT for a file that is none, or is cut short */
  constructor(readonly path: string) {
    this.file = openSync(path, 'r');
    openFiles.register(this, this.file);
    const { size } = statSync(path);
    if (size < MAGIC.length + END_BYTES) throw this.damaged('it is too short');
    const tail = this.bytes(size - END_BYTES, END_BYTES);
    if (tail.toString('latin1', 4) !== MAGIC) throw this.damaged('it does not end as one');
    const headerBytes = tail.readUInt32LE(0);
    this.header = JSON.parse(
      this.bytes(size - END_BYTES - headerBytes, headerBytes).toString('utf8'),
    ) as TokenFileHeader;
    const { examples, runs } = this.header;
    const end = idsEnd(this.header) + 8 * examples + 8 * runs + headerBytes + END_BYTES;
    if (end !== size) throw this.damaged(`it should have ${end} bytes and has ${size}`);
    this.runs = this.words(idsEnd(this.header) + 8 * examples, 2 * runs);
    this.examples = this.makeExamples();
    this.mapping = mapFile?.(path, size) ?? null;
  }

  get isMapped(): boolean {
    return this.mapping !== null;
  }

  private makeExamples(): FileExample[] {
    const { examples, notes, hasAnswer } = this.header;
    const lengths = this.words(idsEnd(this.header), examples);
    const rows = this.words(idsEnd(this.header) + 4 * examples, examples);
    const noteOf = new Map(notes);
    const list: FileExample[] = [];
    for (let i = 0, start = 0; i < examples; start += lengths[i++]) {
      list.push(
        new FileExample(this, start, start + lengths[i], rows[i], {
          ...(hasAnswer ? { hasAnswer } : {}),
          ...(noteOf.has(i) ? { note: noteOf.get(i) } : {}),
        }),
      );
    }
    return list;
  }

  /** Ids of the tokens from `start` to `end` (exclusive), counted over the whole file. */
  ids(start: number, end: number): Int32Array {
    const { idBytes } = this.header;
    const at = MAGIC.length + start * idBytes;
    if (this.mapping)
      return new Int32Array(
        idBytes === 4 ? new Int32Array(this.mapping, at, end - start) : new Uint16Array(this.mapping, at, end - start),
      );
    const bytes = this.bytes(at, (end - start) * idBytes);
    if (idBytes === 4) return new Int32Array(bytes.buffer, bytes.byteOffset, end - start);
    return Int32Array.from(new Uint16Array(bytes.buffer, bytes.byteOffset, end - start));
  }

  labels(start: number, end: number): Int32Array {
    const labels = this.ids(start, end);
    const { runs } = this;
    for (let i = 2 * this.firstRunAfter(start); i < runs.length && runs[i] < end; i += 2)
      labels.fill(IGNORE_INDEX, Math.max(runs[i] - start, 0), Math.min(runs[i + 1], end) - start);
    return labels;
  }

  get allTrained(): boolean {
    return this.runs.length === 0;
  }

  /** The first run that ends beyond `token`. */
  private firstRunAfter(token: number): number {
    let low = 0;
    let high = this.runs.length / 2;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.runs[2 * middle + 1] > token) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  private words(at: number, count: number): Uint32Array {
    const bytes = this.bytes(at, 4 * count);
    return new Uint32Array(bytes.buffer, bytes.byteOffset, count);
  }

  /** A buffer of its own, so that it is aligned. */
  private bytes(at: number, length: number): Buffer {
    const buffer = Buffer.from(new ArrayBuffer(length));
    let done = 0;
    while (done < length) {
      const read = readSync(this.file, buffer, done, length - done, at + done);
      if (read === 0) throw this.damaged('it ends too soon');
      done += read;
    }
    return buffer;
  }

  private damaged(why: string): LatheError {
    return new LatheError('ERR_FORMAT', `expected a file of tokens, but ${why}`, {
      at: this.path,
      remedy: 'delete it: it is built again',
    });
  }
}

const openFiles = new FinalizationRegistry((file: number) => closeSync(file));

/** Ranges of a file's tokens, one after the other; mostly one. Ids are read anew each time they are asked for. */
export class FileExample implements TokenizedExample {
  readonly hasAnswer?: boolean;
  readonly note?: ExampleNote;

  constructor(
    readonly file: TokenFile,
    private readonly start: number,
    private readonly end: number,
    readonly row: number,
    extra: Pick<TokenizedExample, 'hasAnswer' | 'note'> = {},
    /** What follows the first range. */
    private readonly more: readonly FileExample[] | null = null,
  ) {
    if (extra.hasAnswer) this.hasAnswer = true;
    if (extra.note) this.note = extra.note;
  }

  /** One example of several; `row` is that of the first. Ranges that touch become one. */
  static join(examples: readonly FileExample[]): FileExample {
    const [first, ...rest] = examples;
    let { end } = first;
    while (rest.length > 0 && rest[0].start === end && first.more === null && rest[0].more === null)
      end = (rest.shift() as FileExample).end;
    return new FileExample(first.file, first.start, end, first.row, {}, rest.length > 0 ? rest : null);
  }

  get inputIds(): Int32Array {
    return this.whole((range) => range.file.ids(range.start, range.end));
  }

  get labels(): Int32Array {
    return this.whole((range) => range.file.labels(range.start, range.end));
  }

  private whole(read: (range: FileExample) => Int32Array): Int32Array {
    if (this.more === null) return read(this);
    const all = new Int32Array(this.length);
    let at = 0;
    for (const range of [this as FileExample, ...this.more]) {
      const part = read(range);
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  get length(): number {
    return (this.more ?? []).reduce((sum, range) => sum + range.length, this.end - this.start);
  }

  /** Labels that are trained (the first token's never is), where the file knows without reading them. */
  get trained(): number | undefined {
    return this.file.allTrained ? Math.max(this.length - 1, 0) : undefined;
  }

  /** Tokens from..to of an example that is one range. */
  part(from: number, to: number): FileExample {
    return new FileExample(this.file, this.start + from, this.start + to, this.row, {
      hasAnswer: this.hasAnswer,
      note: this.note,
    });
  }
}

/** Tokens of an example, without reading them. */
export function lengthOf(example: TokenizedExample): number {
  return example instanceof FileExample ? example.length : example.inputIds.length;
}
