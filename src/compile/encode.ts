/** Writes a program's bytes (docs/architecture.md, "Program bytes"). Little endian. */
import { crc32 } from 'node:zlib';
import { DTYPES } from '../graph/dtype';
import { sameType, type Attribute, type Node, type Tensor, type TensorType } from '../graph/tensor';
import type { Placed, Storage } from '../passes/inplace';
import { storageOf, viewed } from '../passes/inplace';
import { align } from './offsets';

const VERSION = 1;
const ABSENT = 0xffffffff;

class Writer {
  private buffer = Buffer.alloc(1 << 16);
  length = 0;

  private room(n: number): void {
    if (this.length + n <= this.buffer.length) return;
    const bigger = Buffer.alloc(Math.max(this.buffer.length * 2, this.length + n));
    this.buffer.copy(bigger, 0, 0, this.length);
    this.buffer = bigger;
  }
  u8(v: number): void {
    this.room(1);
    this.length = this.buffer.writeUInt8(v, this.length);
  }
  u32(v: number): void {
    this.room(4);
    this.length = this.buffer.writeUInt32LE(v, this.length);
  }
  u64(v: number): void {
    this.u32(v % 2 ** 32);
    this.u32(Math.floor(v / 2 ** 32));
  }
  f64(v: number): void {
    this.room(8);
    this.length = this.buffer.writeDoubleLE(v, this.length);
  }
  raw(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }
  str(s: string): void {
    const bytes = Buffer.from(s, 'utf8');
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
    return Uint8Array.from(this.buffer.subarray(0, this.length));
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
  const buffers = new Map<string, number>();
  const rows: { storage: Storage; type: TensorType }[] = [];
  const storageIds = new Map<Storage, number>();
  const known = new Map<Tensor, number>();
  const bufferOf = (t: Tensor): number => {
    let index = known.get(t);
    if (index === undefined) known.set(t, (index = findBuffer(t)));
    return index;
  };
  const findBuffer = (t: Tensor): number => {
    const storage = storageOf(placed, t);
    let id = storageIds.get(storage);
    if (id === undefined) storageIds.set(storage, (id = storageIds.size));
    const base = viewed(t);
    const view = sameType(base.type, t.type) ? '' : `${base.node.id}.${base.index}`;
    const key = `${id}|${t.dtype}|${t.shape.join(',')}|${view}`;
    let index = buffers.get(key);
    if (index === undefined) {
      index = rows.length;
      buffers.set(key, index);
      rows.push({ storage, type: t.type });
    }
    return index;
  };
  const inputs = placed.graph.nodes.filter((n) => n.kind === 'input').map((n) => ({ name: n.input!.name, buffer: bufferOf(n.outputs[0]) }));
  const outputs = [...placed.graph.outputs].map(([key, t]) => ({ name: key, buffer: bufferOf(t) }));
  const nodes = placed.schedule.map((node) => ({
    node,
    inputs: node.inputs.map(bufferOf),
    outputs: node.outputs.map((t) => (placed.absent.has(t) ? ABSENT : bufferOf(t))),
  }));

  const blob: Uint8Array[] = [];
  let blobBytes = 0;
  const constants = new Map<Storage, number>();
  w.u32(rows.length);
  for (const { storage, type } of rows) {
    w.u8({ arena: 0, state: 1, external: 2, constant: 3 }[storage.kind]);
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
  w.u32(nodes.length);
  for (const { node, inputs: ins, outputs: outs } of nodes) {
    w.str(node.op!.name);
    w.str(node.where);
    w.u32(ins.length);
    ins.forEach((b) => w.u32(b));
    w.u32(outs.length);
    outs.forEach((b) => w.u32(b));
    w.u64(layout.scratchOf(node));
    const attributes = Object.entries(node.attributes).filter(([key]) => !node.op!.typeAttributes?.includes(key));
    w.u32(attributes.length);
    for (const [key, value] of attributes) {
      w.str(key);
      w.attribute(value);
    }
  }
  w.u64(blobBytes);
  for (const part of blob) w.raw(part);
  return w.finish();
}
