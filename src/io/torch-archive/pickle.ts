/**
 * A pickle machine that can build tensors and nothing else.
 *
 * A pickle is a program for a stack machine; Python's runs any function it names, which is why a checkpoint can own the
 * machine that loads it. This one has data (numbers, texts, lists, dictionaries) and three functions by name; everything
 * else, opcode or name, is refused by name. It calls nothing, imports nothing, and a tensor is only a description: which
 * storage, from which element on, of what size and strides.
 *
 * Invariants: the stack, the memo and every list grow with the bytes read, never faster, so a small file stays small; no
 * recursion; every read is checked against the end.
 *
 * Source: CPython Lib/pickle.py and Lib/pickletools.py (protocols 2 to 5); torch/serialization.py, torch/_utils.py.
 */
import { LatheError } from '../../errors';

/** What `persistent_load` gets: a storage in the archive. */
export interface PickledStorage {
  readonly kind: 'storage';
  /** Torch's class name without `Storage`: Float, Half, BFloat16... */
  readonly type: string;
  /** The entry `data/<key>`. */
  readonly key: string;
  readonly elements: number;
}

/** A tensor before it is known whether it lies in its storage. Offset and strides in elements. */
export interface PickledTensor {
  readonly kind: 'tensor';
  readonly storage: PickledStorage;
  readonly offset: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
}

/** A name that may be called, or a storage class. */
interface Global {
  readonly kind: 'global';
  readonly name: string;
}

export type PickleDict = Map<PickleValue, PickleValue>;
export type PickleValue =
  null | boolean | number | bigint | string | PickleValue[] | PickleDict | PickledStorage | PickledTensor | Global;

const REBUILD_TENSOR = 'torch._utils._rebuild_tensor_v2';
const REBUILD_PARAMETER = 'torch._utils._rebuild_parameter';
const ORDERED_DICT = 'collections.OrderedDict';
const STORAGE = /^torch\.(\w+)Storage$/;
const STORAGES = new Set(['Float', 'Half', 'BFloat16', 'Double', 'Long', 'Int', 'Short', 'Char', 'Byte', 'Bool']);

/** Torch's own bound. */
const MAX_RANK = 64;

/** Opcodes that Python knows and this machine does not, for the message. */
const REFUSED: Readonly<Record<number, string>> = {
  0x30: 'POP',
  0x31: 'POP_MARK',
  0x32: 'DUP',
  0x46: 'FLOAT',
  0x49: 'INT',
  0x4c: 'LONG',
  0x50: 'PERSID',
  0x53: 'STRING',
  0x54: 'BINSTRING',
  0x55: 'SHORT_BINSTRING',
  0x56: 'UNICODE',
  0x42: 'BINBYTES',
  0x43: 'SHORT_BINBYTES',
  0x69: 'INST',
  0x6f: 'OBJ',
  0x67: 'GET',
  0x70: 'PUT',
  0x81: 'NEWOBJ',
  0x82: 'EXT1',
  0x83: 'EXT2',
  0x84: 'EXT4',
  0x8b: 'LONG4',
  0x8e: 'BINBYTES8',
  0x8f: 'EMPTY_SET',
  0x90: 'ADDITEMS',
  0x91: 'FROZENSET',
  0x92: 'NEWOBJ_EX',
  0x96: 'BYTEARRAY8',
  0x97: 'NEXT_BUFFER',
  0x98: 'READONLY_BUFFER',
};

/** Runs a pickle; returns its one value. @throws LatheError ERR_FORMAT (damaged), ERR_UNSUPPORTED (asks for more than tensors) */
export function readPickle(bytes: Uint8Array, at: string): PickleValue {
  return new PickleMachine(bytes, at).run();
}

class PickleMachine {
  private position = 0;
  private stack: PickleValue[] = [];
  private readonly marks: PickleValue[][] = [];
  private readonly memo = new Map<number, PickleValue>();
  private readonly view: DataView;
  private readonly utf8 = new TextDecoder('utf-8', { fatal: true });

  constructor(
    private readonly bytes: Uint8Array,
    private readonly at: string,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): PickleValue {
    for (;;) {
      const start = this.position;
      const op = this.view.getUint8(this.take(1));
      if (op === 0x2e) {
        const value = this.pop();
        if (this.stack.length || this.marks.length) throw this.bad('values are left at the end');
        return value;
      }
      this.step(op, start);
    }
  }

  // --- reading -------------------------------------------------------------------------------------------------

  /** Moves on; where the bytes begin. */
  private take(count: number): number {
    const start = this.position;
    if (start + count > this.bytes.length) throw this.bad('it ends too early');
    this.position += count;
    return start;
  }

  private text(length: number): string {
    const start = this.take(length);
    try {
      return this.utf8.decode(this.bytes.subarray(start, start + length));
    } catch {
      throw this.bad('a text is not UTF-8');
    }
  }

  private line(): string {
    const end = this.bytes.indexOf(0x0a, this.position);
    if (end < 0) throw this.bad('it ends too early');
    const text = this.text(end - this.position);
    this.position++;
    return text;
  }

  private length8(): number {
    const value = this.view.getBigUint64(this.take(8), true);
    if (value > BigInt(this.bytes.length)) throw this.bad('it ends too early');
    return Number(value);
  }

  private long(count: number): number | bigint {
    const start = this.take(count);
    let value = 0n;
    for (let i = count - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[start + i]);
    if (count) value = BigInt.asIntN(8 * count, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  // --- the stack -----------------------------------------------------------------------------------------------

  private push(value: PickleValue): void {
    this.stack.push(value);
  }

  private pop(): PickleValue {
    const value = this.stack.pop();
    if (value === undefined) throw this.bad('it takes a value that is not there');
    return value;
  }

  private top(): PickleValue {
    const value = this.stack[this.stack.length - 1];
    if (value === undefined) throw this.bad('it takes a value that is not there');
    return value;
  }

  /** Values since the last mark. */
  private popMark(): PickleValue[] {
    const values = this.stack;
    const below = this.marks.pop();
    if (!below) throw this.bad('it goes back to a mark that is not there');
    this.stack = below;
    return values;
  }

  private popMany(count: number): PickleValue[] {
    return Array.from({ length: count }, () => this.pop()).reverse();
  }

  private list(): PickleValue[] {
    const value = this.top();
    if (!Array.isArray(value)) throw this.bad('it appends to what is no list');
    return value;
  }

  private setItems(items: readonly PickleValue[]): void {
    const target = this.top();
    if (!(target instanceof Map) || items.length % 2) throw this.bad('it sets items of what is no dictionary');
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1]);
  }

  private memoGet(index: number): PickleValue {
    const value = this.memo.get(index);
    if (value === undefined) throw this.bad(`it takes memo ${index}, which is not there`);
    return value;
  }

  // --- opcodes -------------------------------------------------------------------------------------------------

  private step(op: number, start: number): void {
    switch (op) {
      case 0x80: // PROTO
        return this.protocol(this.view.getUint8(this.take(1)));
      case 0x95: // FRAME
        return void this.length8();
      case 0x28: // MARK
        this.marks.push(this.stack);
        this.stack = [];
        return;
      case 0x4e: // NONE
        return this.push(null);
      case 0x88: // NEWTRUE
        return this.push(true);
      case 0x89: // NEWFALSE
        return this.push(false);
      case 0x4a: // BININT
        return this.push(this.view.getInt32(this.take(4), true));
      case 0x4b: // BININT1
        return this.push(this.view.getUint8(this.take(1)));
      case 0x4d: // BININT2
        return this.push(this.view.getUint16(this.take(2), true));
      case 0x8a: // LONG1
        return this.push(this.long(this.view.getUint8(this.take(1))));
      case 0x47: // BINFLOAT
        return this.push(this.view.getFloat64(this.take(8), false));
      case 0x58: // BINUNICODE
        return this.push(this.text(this.view.getUint32(this.take(4), true)));
      case 0x8c: // SHORT_BINUNICODE
        return this.push(this.text(this.view.getUint8(this.take(1))));
      case 0x8d: // BINUNICODE8
        return this.push(this.text(this.length8()));
      case 0x5d: // EMPTY_LIST
      case 0x29: // EMPTY_TUPLE
        return this.push([]);
      case 0x61: // APPEND
        return this.append([this.pop()]);
      case 0x65: // APPENDS
        return this.append(this.popMark());
      case 0x6c: // LIST
      case 0x74: // TUPLE
        return this.push(this.popMark());
      case 0x85: // TUPLE1
      case 0x86: // TUPLE2
      case 0x87: // TUPLE3
        return this.push(this.popMany(op - 0x84));
      case 0x7d: // EMPTY_DICT
        return this.push(new Map());
      case 0x64: {
        // DICT
        const items = this.popMark();
        this.push(new Map());
        return this.setItems(items);
      }
      case 0x73: // SETITEM
        return this.setItems(this.popMany(2));
      case 0x75: // SETITEMS
        return this.setItems(this.popMark());
      case 0x71: // BINPUT
        return void this.memo.set(this.view.getUint8(this.take(1)), this.top());
      case 0x72: // LONG_BINPUT
        return void this.memo.set(this.view.getUint32(this.take(4), true), this.top());
      case 0x94: // MEMOIZE
        return void this.memo.set(this.memo.size, this.top());
      case 0x68: // BINGET
        return this.push(this.memoGet(this.view.getUint8(this.take(1))));
      case 0x6a: // LONG_BINGET
        return this.push(this.memoGet(this.view.getUint32(this.take(4), true)));
      case 0x63: {
        // GLOBAL
        const module = this.line();
        return this.push(this.global(`${module}.${this.line()}`));
      }
      case 0x93: {
        // STACK_GLOBAL
        const [module, name] = this.popMany(2);
        return this.push(this.global(`${String(module)}.${String(name)}`));
      }
      case 0x52: {
        // REDUCE
        const [callee, args] = this.popMany(2);
        return this.push(this.call(callee, args));
      }
      case 0x62: // BUILD
        return this.build(this.pop());
      case 0x51: // BINPERSID
        return this.push(this.persistent(this.pop()));
      default:
        if (REFUSED[op]) throw this.refused(`the opcode ${REFUSED[op]}`);
        throw this.bad(`byte ${start} is no opcode (0x${op.toString(16)})`);
    }
  }

  private protocol(version: number): void {
    if (version > 5) throw this.bad(`it has protocol ${version}`);
  }

  private append(values: readonly PickleValue[]): void {
    const list = this.list();
    for (const value of values) list.push(value);
  }

  private global(name: string): Global {
    const storage = STORAGE.exec(name);
    if (
      name === REBUILD_TENSOR ||
      name === REBUILD_PARAMETER ||
      name === ORDERED_DICT ||
      (storage && STORAGES.has(storage[1]))
    )
      return { kind: 'global', name };
    throw this.refused(`'${name}'`);
  }

  private call(callee: PickleValue, args: PickleValue): PickleValue {
    const name = isKind(callee, 'global') ? callee.name : null;
    if (!name || !Array.isArray(args)) throw this.bad('it calls what is no function');
    switch (name) {
      case ORDERED_DICT:
        return this.orderedDict(args);
      case REBUILD_TENSOR:
        return this.tensor(args);
      case REBUILD_PARAMETER:
        if (isKind(args[0], 'tensor')) return args[0];
        throw this.bad('a parameter holds no tensor');
      default:
        throw this.refused(`a call of '${name}'`);
    }
  }

  /** Torch makes it empty and sets its items; copying a list of pairs would let a small file grow. */
  private orderedDict(args: readonly PickleValue[]): PickleDict {
    if (args.length) throw this.refused(`a call of '${ORDERED_DICT}' with arguments`);
    return new Map();
  }

  private tensor([storage, offset, shape, strides]: readonly PickleValue[]): PickledTensor {
    const counts = (value: PickleValue): value is number[] =>
      Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);
    if (
      !isKind(storage, 'storage') ||
      !counts([offset]) ||
      !counts(shape) ||
      !counts(strides) ||
      shape.length !== strides.length ||
      shape.length > MAX_RANK
    )
      throw this.bad('a tensor is not made of a storage, an offset, a shape and strides');
    return { kind: 'tensor', storage, offset: offset as number, shape, strides };
  }

  /** State of an object: module versions on a state dict (`_metadata`), which say nothing that is needed. */
  private build(state: PickleValue): void {
    if (!(this.top() instanceof Map) || !(state instanceof Map))
      throw this.refused('setting the state of an object that is no dictionary');
  }

  private persistent(id: PickleValue): PickledStorage {
    const [tag, type, key, , elements] = Array.isArray(id) ? id : [];
    const name = isKind(type, 'global') ? STORAGE.exec(type.name) : null;
    if (
      tag !== 'storage' ||
      !name ||
      typeof key !== 'string' ||
      !Number.isSafeInteger(elements) ||
      (elements as number) < 0
    )
      throw this.bad('a storage is not made of a type, a key and a size');
    return { kind: 'storage', type: name[1], key, elements: elements as number };
  }

  // --- errors --------------------------------------------------------------------------------------------------

  private bad(what: string): LatheError {
    return new LatheError('ERR_FORMAT', `the pickle is damaged: ${what}`, {
      at: this.at,
      remedy: 'download or save the file again',
    });
  }

  private refused(what: string): LatheError {
    return new LatheError(
      'ERR_UNSUPPORTED',
      `the pickle asks for ${what}, which is refused: this reader builds tensors and nothing else`,
      {
        at: this.at,
        remedy:
          'save the plain state_dict() of the model, best as safetensors; if you did not make this file, do not load it anywhere else either',
      },
    );
  }
}

function isKind<K extends 'global' | 'storage' | 'tensor'>(
  value: PickleValue | undefined,
  kind: K,
): value is Extract<PickleValue, { kind: K }> {
  return typeof value === 'object' && value !== null && (value as { kind?: unknown }).kind === kind;
}
