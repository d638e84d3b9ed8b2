/**
 * Program bytes by hand: a second, independent writer of the format in docs/architecture.md, so that the engine's tests
 * need no compiler, and so that they can write what the compiler never would.
 */
import { crc32 } from 'node:zlib';
import { DTYPES, type DType } from '../../src/graph/dtype';

export const ABSENT = 0xffffffff;
const BUFFER_KINDS = { arena: 0, state: 1, external: 2, constant: 3 } as const;

export interface BufferSpec {
  kind: keyof typeof BUFFER_KINDS;
  dtype: DType;
  shape: number[];
  place: number;
}

export interface NodeSpec {
  op: string;
  where?: string;
  inputs: number[];
  outputs: number[];
  scratchBytes?: number;
  attributes?: Record<string, number | string | number[]>;
}

export interface ProgramSpec {
  version?: number;
  name?: string;
  arenaBytes?: number;
  scratchBytes?: number;
  states?: { name: string; dtype: DType; shape: number[] }[];
  buffers: BufferSpec[];
  inputs?: [name: string, buffer: number][];
  outputs?: [name: string, buffer: number][];
  nodes?: NodeSpec[];
  blob?: Uint8Array;
}

/** Signs `body` (everything before the checksum). */
export function withChecksum(body: Uint8Array): Uint8Array {
  const out = new Uint8Array(body.length + 4);
  out.set(body);
  new DataView(out.buffer).setUint32(body.length, crc32(Buffer.from(body)) >>> 0, true);
  return out;
}

export function programBytes(spec: ProgramSpec): Uint8Array {
  const parts: Buffer[] = [];
  const push = (size: number, write: (buffer: Buffer) => void) => {
    const buffer = Buffer.alloc(size);
    write(buffer);
    parts.push(buffer);
  };
  const u8 = (value: number) => push(1, (b) => b.writeUInt8(value));
  const u32 = (value: number) => push(4, (b) => b.writeUInt32LE(value));
  const u64 = (value: number) => push(8, (b) => b.writeBigUInt64LE(BigInt(value)));
  const f64 = (value: number) => push(8, (b) => b.writeDoubleLE(value));
  const text = (value: string) => {
    const bytes = Buffer.from(value, 'utf8');
    u32(bytes.length);
    parts.push(bytes);
  };
  const list = <T>(items: readonly T[], each: (item: T) => void) => {
    u32(items.length);
    items.forEach(each);
  };
  const type = (dtype: DType, shape: number[]) => {
    u8(DTYPES[dtype].code);
    u8(shape.length);
    shape.forEach(u64);
  };

  parts.push(Buffer.from('LTHP'));
  u32(spec.version ?? 1);
  text(spec.name ?? 'test');
  u64(spec.arenaBytes ?? 0);
  u64(spec.scratchBytes ?? 0);
  list(spec.states ?? [], (state) => {
    text(state.name);
    type(state.dtype, state.shape);
  });
  list(spec.buffers, (buffer) => {
    u8(BUFFER_KINDS[buffer.kind]);
    type(buffer.dtype, buffer.shape);
    u64(buffer.place);
  });
  const port = ([name, buffer]: [string, number]) => {
    text(name);
    u32(buffer);
  };
  list(spec.inputs ?? [], port);
  list(spec.outputs ?? [], port);
  list(spec.nodes ?? [], (node) => {
    text(node.op);
    text(node.where ?? '');
    list(node.inputs, u32);
    list(node.outputs, u32);
    u64(node.scratchBytes ?? 0);
    list(Object.entries(node.attributes ?? {}), ([key, value]) => {
      text(key);
      if (typeof value === 'number') {
        u8(0);
        f64(value);
      } else if (typeof value === 'string') {
        u8(1);
        text(value);
      } else {
        u8(2);
        list(value, f64);
      }
    });
  });
  const blob = spec.blob ?? new Uint8Array(0);
  u64(blob.length);
  parts.push(Buffer.from(blob));
  return withChecksum(Buffer.concat(parts));
}

/** y = x + x, `steps` times in place, over `n` floats: a program whose length is chosen. */
export function doublingProgram(n: number, steps: number): ProgramSpec {
  return {
    name: 'doubling',
    arenaBytes: Math.ceil((n * 4) / 64) * 64,
    buffers: Array.from({ length: steps + 1 }, () => ({ kind: 'arena', dtype: 'f32', shape: [n], place: 0 }) as const),
    inputs: [['x', 0]],
    outputs: [['y', steps]],
    nodes: Array.from({ length: steps }, (_, i) => ({
      op: 'add',
      where: `step.${i}`,
      inputs: [i, i],
      outputs: [i + 1],
    })),
  };
}
