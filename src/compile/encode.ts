/** Writes a program's bytes (docs/architecture.md, "Program bytes"). Little endian. */
import { crc32 } from 'node:zlib';
import { DTYPES } from '../graph/dtype';
import type { OpDef } from '../graph/op-def';
import { sameType, type Attribute, type Attributes, type Node, type Tensor, type TensorType } from '../graph/tensor';
import type { Placed, Storage } from '../passes/inplace';
import { viewed } from '../passes/inplace';
import { align } from './offsets';

const VERSION = 1;
const ABSENT = 0xffffffff;
const KIND_CODES = { arena: 0, state: 1, external: 2, constant: 3 } as const;

/** Bytes are appended after `room` was asked for all of a part, so a number costs one store. */
class Writer {
  private buffer = new Uint8Array(1 << 14);
  private view = new DataView(this.buffer.buffer);
  private text = Buffer.from(this.buffer.buffer);
  /** Encoded attributes; the nodes of a kind in every layer, and recomputed ones, share theirs. */
  private readonly attributeLists = new Map<
    Attributes,
    { readonly hidden: OpDef['typeAttributes']; readonly bytes: Uint8Array }
  >();
  private length = 0;

  /** Makes sure that `n` more bytes fit. */
  room(n: number): void {
    if (this.length + n <= this.buffer.length) return;
    const bigger = new Uint8Array(Math.max(this.buffer.length * 2, this.length + n));
    bigger.set(this.buffer.subarray(0, this.length));
    this.buffer = bigger;
    this.view = new DataView(bigger.buffer);
    this.text = Buffer.from(bigger.buffer);
  }
  /** Without asking for room, as `u32`, `u64` and `f64`. */
  u8(v: number): void {
    this.buffer[this.length++] = v;
  }
  u32(v: number): void {
    this.view.setUint32(this.length, v, true);
    this.length += 4;
  }
  u64(v: number): void {
    if (v < 2 ** 32) {
      this.u32(v);
      this.u32(0);
    } else {
      this.u32(v % 2 ** 32);
      this.u32(Math.floor(v / 2 ** 32));
    }
  }
  f64(v: number): void {
    this.view.setFloat64(this.length, v, true);
    this.length += 8;
  }
  /** A number on its own. */
  count(v: number): void {
    this.room(4);
    this.u32(v);
  }
  raw(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }
  str(s: string): void {
    // A UTF-16 unit is at most three bytes.
    this.room(4 + 3 * s.length);
    const bytes = this.text.write(s, this.length + 4, 'utf8');
    this.u32(bytes);
    this.length += bytes;
  }
  type(t: TensorType): void {
    const { shape } = t;
    this.room(2 + 8 * shape.length);
    this.u8(DTYPES[t.dtype].code);
    this.u8(shape.length);
    for (let i = 0; i < shape.length; i++) this.u64(shape[i]);
  }
  /** Attributes of a node, without those that only describe its output type. */
  attributes(node: Node): void {
    const { attributes } = node;
    const hidden = node.op!.typeAttributes;
    const known = this.attributeLists.get(attributes);
    if (known && known.hidden === hidden) {
      this.raw(known.bytes);
      return;
    }
    const start = this.length;
    const keys = Object.keys(attributes).filter((key) => !hidden?.includes(key));
    this.count(keys.length);
    for (const key of keys) {
      this.str(key);
      this.attribute(attributes[key]);
    }
    this.attributeLists.set(attributes, { hidden, bytes: this.buffer.slice(start, this.length) });
  }
  private attribute(value: Attribute): void {
    this.room(16);
    if (typeof value === 'number') {
      this.u8(0);
      this.f64(value);
    } else if (typeof value === 'string') {
      this.u8(1);
      this.str(value);
    } else {
      this.u8(2);
      this.u32(value.length);
      this.room(8 * value.length);
      for (const v of value) this.f64(v);
    }
  }
  finish(): Uint8Array {
    this.count(crc32(this.buffer.subarray(0, this.length)));
    return this.buffer.slice(0, this.length);
  }
}

export interface Layout {
  readonly offsets: ReadonlyMap<Storage, number>;
  readonly arenaBytes: number;
  readonly scratchBytes: number;
  /** By position in the schedule. */
  readonly scratch: readonly number[];
}

/** A row of the buffer table: bytes of a storage seen as a type. */
interface BufferRow {
  readonly storage: Storage;
  readonly type: TensorType;
  /** The tensor that it shows under another shape; null when it shows one as it is. */
  readonly view: Tensor | null;
  readonly index: number;
  /** Another row of the same storage. */
  readonly next: BufferRow | null;
}

/**
 * Numbers buffers by first use: one per distinct (storage, type). A view of another shape is a buffer of its own for each
 * value it shows: a storage may hold several one after the other, and a buffer that nobody writes stands for one of them.
 */
class BufferTable {
  readonly rows: BufferRow[] = [];
  /** The newest row of each storage. */
  private readonly byStorage = new Map<Storage, BufferRow>();
  private readonly known = new Map<Tensor, number>();

  constructor(private readonly storage: Placed['storage']) {}

  indexOf(t: Tensor): number {
    let index = this.known.get(t);
    if (index === undefined) this.known.set(t, (index = this.find(t)));
    return index;
  }

  private find(t: Tensor): number {
    const base = viewed(t);
    const storage = this.storage.get(base)!;
    const view = base === t || sameType(base.type, t.type) ? null : base;
    const newest = this.byStorage.get(storage) ?? null;
    for (let row = newest; row; row = row.next) if (row.view === view && sameType(row.type, t.type)) return row.index;
    const row = { storage, type: t.type, view, index: this.rows.length, next: newest };
    this.byStorage.set(storage, row);
    this.rows.push(row);
    return row.index;
  }
}

/** Program bytes of a placed graph. */
export function encode(name: string, placed: Placed, layout: Layout): Uint8Array {
  const w = new Writer();
  w.raw(Buffer.from('LTHP'));
  w.count(VERSION);
  w.str(name);
  w.room(16);
  w.u64(layout.arenaBytes);
  w.u64(layout.scratchBytes);

  const states = new Map<Storage, number>();
  placed.storage.forEach((s) => s.slot && !states.has(s) && states.set(s, states.size));
  w.count(states.size);
  for (const { slot } of states.keys()) {
    w.str(slot!.name);
    w.type(slot!);
  }

  const { schedule } = placed;
  const buffers = new BufferTable(placed.storage);
  const inputs = placed.graph.nodes
    .filter((n) => n.kind === 'input')
    .map((n) => ({ name: n.input!.name, buffer: buffers.indexOf(n.outputs[0]) }));
  const outputs = [...placed.graph.outputs].map(([key, t]) => ({ name: key, buffer: buffers.indexOf(t) }));
  // Rows are numbered by first use, and they are written before the nodes that use them.
  const references: number[] = [];
  for (const { inputs: read, outputs: written } of schedule) {
    for (let i = 0; i < read.length; i++) references.push(buffers.indexOf(read[i]));
    for (let i = 0; i < written.length; i++)
      references.push(placed.absent.has(written[i]) ? ABSENT : buffers.indexOf(written[i]));
  }

  const blob: Uint8Array[] = [];
  let blobBytes = 0;
  const constants = new Map<Storage, number>();
  const placeOf = (storage: Storage): number => {
    if (storage.kind === 'arena') return layout.offsets.get(storage)!;
    if (storage.kind === 'state') return states.get(storage)!;
    if (storage.kind === 'external') return 0;
    let at = constants.get(storage);
    if (at === undefined) {
      constants.set(storage, (at = blobBytes));
      const padded = new Uint8Array(align(storage.constant!.length));
      padded.set(storage.constant!);
      blob.push(padded);
      blobBytes += padded.length;
    }
    return at;
  };
  w.count(buffers.rows.length);
  const { rows } = buffers;
  for (let i = 0; i < rows.length; i++) {
    const { storage, type } = rows[i];
    w.room(1);
    w.u8(KIND_CODES[storage.kind]);
    w.type(type);
    w.room(8);
    w.u64(placeOf(storage));
  }
  for (const list of [inputs, outputs]) {
    w.count(list.length);
    for (const item of list) {
      w.str(item.name);
      w.count(item.buffer);
    }
  }
  w.count(schedule.length);
  let next = 0;
  for (let i = 0; i < schedule.length; i++) {
    const node = schedule[i];
    w.str(node.op!.name);
    w.str(node.where);
    w.room(16 + 4 * (node.inputs.length + node.outputs.length));
    w.u32(node.inputs.length);
    for (const end = next + node.inputs.length; next < end; next++) w.u32(references[next]);
    w.u32(node.outputs.length);
    for (const end = next + node.outputs.length; next < end; next++) w.u32(references[next]);
    w.u64(layout.scratch[i]);
    w.attributes(node);
  }
  w.room(8);
  w.u64(blobBytes);
  for (const part of blob) w.raw(part);
  return w.finish();
}
