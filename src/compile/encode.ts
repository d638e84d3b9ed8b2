/** Writes a program's bytes (docs/architecture.md, "Program bytes"). Little endian. */
import { crc32 } from 'node:zlib';
import { DTYPES } from '../graph/dtype';
import { sameType, type Attribute, type Node, type Tensor, type TensorType } from '../graph/tensor';
import type { Placed, Storage } from '../passes/inplace';
import { viewed } from '../passes/inplace';
import { align } from './offsets';

const VERSION = 1;
const ABSENT = 0xffffffff;
const KIND_CODES = { arena: 0, state: 1, external: 2, constant: 3 } as const;

class Writer {
  private buffer = new Uint8Array(1 << 14);
  private view = new DataView(this.buffer.buffer);
  private readonly strings = new Map<string, Uint8Array>();
  length = 0;

  private room(n: number): void {
    if (this.length + n <= this.buffer.length) return;
    const bigger = new Uint8Array(Math.max(this.buffer.length * 2, this.length + n));
    bigger.set(this.buffer.subarray(0, this.length));
    this.buffer = bigger;
    this.view = new DataView(bigger.buffer);
  }
  u8(v: number): void {
    this.room(1);
    this.buffer[this.length++] = v;
  }
  u32(v: number): void {
    this.room(4);
    this.view.setUint32(this.length, v, true);
    this.length += 4;
  }
  u64(v: number): void {
    this.u32(v % 2 ** 32);
    this.u32(Math.floor(v / 2 ** 32));
  }
  f64(v: number): void {
    this.room(8);
    this.view.setFloat64(this.length, v, true);
    this.length += 8;
  }
  raw(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }
  /** Names of ops, attributes and modules come again and again: each is converted once. */
  str(s: string): void {
    let bytes = this.strings.get(s);
    if (!bytes) this.strings.set(s, (bytes = Buffer.from(s, 'utf8')));
    this.u32(bytes.length);
    this.raw(bytes);
  }
  type(t: TensorType): void {
    this.u8(DTYPES[t.dtype].code);
    this.u8(t.shape.length);
    for (const dim of t.shape) this.u64(dim);
  }
  attribute(value: Attribute): void {
    if (typeof value === 'number') {
      this.u8(0);
      this.f64(value);
    } else if (typeof value === 'string') {
      this.u8(1);
      this.str(value);
    } else {
      this.u8(2);
      this.u32(value.length);
      for (const v of value) this.f64(v);
    }
  }
  finish(): Uint8Array {
    this.u32(crc32(this.buffer.subarray(0, this.length)));
    return this.buffer.slice(0, this.length);
  }
}

export interface Layout {
  readonly offsets: ReadonlyMap<Storage, number>;
  readonly arenaBytes: number;
  readonly scratchBytes: number;
  scratchOf(node: Node): number;
}

/** Program bytes of a placed graph. */
export function encode(name: string, placed: Placed, layout: Layout): Uint8Array {
  const w = new Writer();
  w.raw(Buffer.from('LTHP'));
  w.u32(VERSION);
  w.str(name);
  w.u64(layout.arenaBytes);
  w.u64(layout.scratchBytes);

  const states = new Map<string, { index: number; storage: Storage }>();
  for (const s of placed.storage.values()) if (s.kind === 'state' && !states.has(s.slot!.name)) states.set(s.slot!.name, { index: states.size, storage: s });
  w.u32(states.size);
  for (const { storage } of states.values()) {
    w.str(storage.slot!.name);
    w.type(storage.slot!);
  }

  // One buffer per distinct (storage, type). A view of another shape is a buffer of its own for each value it shows: a
  // storage may hold several one after the other, and a buffer that nobody writes stands for one of them.
  const rows: { storage: Storage; type: TensorType }[] = [];
  /** The buffers of a storage; `view`: the tensor that a view of another shape shows. */
  const buffers = new Map<Storage, { type: TensorType; view: Tensor | null; index: number }[]>();
  const known = new Map<Tensor, number>();
  const bufferOf = (t: Tensor): number => {
    let index = known.get(t);
    if (index === undefined) known.set(t, (index = findBuffer(t)));
    return index;
  };
  const findBuffer = (t: Tensor): number => {
    const base = viewed(t);
    const storage = placed.storage.get(base)!;
    const view = sameType(base.type, t.type) ? null : base;
    let list = buffers.get(storage);
    if (!list) buffers.set(storage, (list = []));
    const found = list.find((b) => b.view === view && sameType(b.type, t.type));
    if (found) return found.index;
    const index = rows.length;
    list.push({ type: t.type, view, index });
    rows.push({ storage, type: t.type });
    return index;
  };
  const inputs = placed.graph.nodes.filter((n) => n.kind === 'input').map((n) => ({ name: n.input!.name, buffer: bufferOf(n.outputs[0]) }));
  const outputs = [...placed.graph.outputs].map(([key, t]) => ({ name: key, buffer: bufferOf(t) }));
  // Rows are numbered by first use, and they are written before the nodes that use them.
  const references: number[] = [];
  for (const node of placed.schedule) {
    for (const t of node.inputs) references.push(bufferOf(t));
    for (const t of node.outputs) references.push(placed.absent.has(t) ? ABSENT : bufferOf(t));
  }

  const blob: Uint8Array[] = [];
  let blobBytes = 0;
  const constants = new Map<Storage, number>();
  w.u32(rows.length);
  for (const { storage, type } of rows) {
    w.u8(KIND_CODES[storage.kind]);
    w.type(type);
    if (storage.kind === 'arena') w.u64(layout.offsets.get(storage)!);
    else if (storage.kind === 'state') w.u64(states.get(storage.slot!.name)!.index);
    else if (storage.kind === 'external') w.u64(0);
    else {
      let at = constants.get(storage);
      if (at === undefined) {
        constants.set(storage, (at = blobBytes));
        const padded = new Uint8Array(align(storage.constant!.length));
        padded.set(storage.constant!);
        blob.push(padded);
        blobBytes += padded.length;
      }
      w.u64(at);
    }
  }
  for (const list of [inputs, outputs]) {
    w.u32(list.length);
    for (const item of list) {
      w.str(item.name);
      w.u32(item.buffer);
    }
  }
  w.u32(placed.schedule.length);
  let reference = 0;
  for (const node of placed.schedule) {
    w.str(node.op!.name);
    w.str(node.where);
    w.u32(node.inputs.length);
    for (let i = 0; i < node.inputs.length; i++) w.u32(references[reference++]);
    w.u32(node.outputs.length);
    for (let i = 0; i < node.outputs.length; i++) w.u32(references[reference++]);
    w.u64(layout.scratchOf(node));
    const { typeAttributes } = node.op!;
    const keys = Object.keys(node.attributes).filter((key) => !typeAttributes?.includes(key));
    w.u32(keys.length);
    for (const key of keys) {
      w.str(key);
      w.attribute(node.attributes[key]);
    }
  }
  w.u64(blobBytes);
  for (const part of blob) w.raw(part);
  return w.finish();
}
