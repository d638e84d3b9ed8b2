/**
 * Tracing: the only door through which ops become a Graph.
 *
 * `trace(fn)` runs `fn` once while a builder is current; every op applied inside adds a node. Nothing is traced
 * behind the user's back: applying an op outside of `trace` is an error. Scopes give nodes their module path.
 */
import { LatheError } from '../errors';
import type { DType } from './dtype';
import type { OpDef } from './op-def';
import { sameType, Tensor, type Attributes, type Node, type Phase, type StateSlot, type TensorType } from './tensor';

export interface Update {
  readonly slot: StateSlot;
  readonly value: Tensor;
}

/** A traced computation: nodes in creation order (inputs before users), named outputs and state updates. */
export interface Graph {
  readonly name: string;
  readonly nodes: readonly Node[];
  readonly outputs: ReadonlyMap<string, Tensor>;
  readonly updates: readonly Update[];
}

interface NodeFields {
  kind: Node['kind'];
  op: OpDef | null;
  inputs: readonly Tensor[];
  attributes: Attributes;
  types: readonly TensorType[];
  where: string;
  phase: Phase;
  block: string;
  input?: Node['input'];
  slot?: StateSlot;
  constant?: Uint8Array;
  recompute?: string;
  order?: number;
}

let nextId = 0;

/**
 * A table over nodes that exist now, by id. Ids are dense within a graph, and an array is several times faster than a Map
 * of objects, above all in the first graph that a process compiles.
 */
export class NodeTable<T> {
  private readonly base: number;
  private readonly items: (T | undefined)[];

  /** @param nodes those (at least) that the table is about, and the ones made after the oldest of them */
  constructor(nodes: readonly Node[]) {
    let base = nextId;
    for (const node of nodes) if (node.id < base) base = node.id;
    this.base = base;
    this.items = new Array<T | undefined>(nextId - base).fill(undefined);
  }

  get(node: Node): T | undefined {
    return this.items[node.id - this.base];
  }

  set(node: Node, value: T): void {
    this.items[node.id - this.base] = value;
  }
}

/** Makes a node and its output tensors; passes use it to build replacements. */
export function makeNode(fields: NodeFields): Node {
  const outputs: Tensor[] = [];
  const id = nextId++;
  const { kind, op, inputs, attributes, where, phase, block, input: given, slot, constant: bytes, recompute } = fields;
  const node: Node = { id, order: fields.order ?? id, kind, op, inputs, attributes, outputs, where, phase, block, input: given, slot, constant: bytes, recompute };
  for (let i = 0; i < fields.types.length; i++) outputs.push(new Tensor(node, i, fields.types[i]));
  return node;
}

class Builder {
  readonly nodes: Node[] = [];
  readonly inputs = new Map<string, Tensor>();
  readonly states = new Map<string, Tensor>();
  readonly outputs = new Map<string, Tensor>();
  readonly updates: Update[] = [];
  readonly updated = new Set<string>();
  where = '';
  block = '';
  phase: Phase = 'forward';

  add(fields: Partial<NodeFields> & { types: readonly TensorType[]; kind: Node['kind'] }): Node {
    const node = makeNode({
      op: null,
      inputs: [],
      attributes: {},
      where: this.where,
      phase: this.phase,
      block: this.block,
      ...fields,
    });
    this.nodes.push(node);
    return node;
  }
}

let current: Builder | null = null;

function builder(): Builder {
  if (!current) {
    throw new LatheError('ERR_TRACE', 'an op was applied outside of trace()', {
      remedy: 'call it inside the function given to trace()',
    });
  }
  return current;
}

/** Runs `fn` once and returns what it described. Re-entrant traces are refused. */
export function trace(name: string, fn: () => void): Graph {
  if (current) throw new LatheError('ERR_TRACE', `trace('${name}') was called inside another trace`);
  const b = (current = new Builder());
  try {
    fn();
  } finally {
    current = null;
  }
  return { name, nodes: b.nodes, outputs: b.outputs, updates: b.updates };
}

/** Applies an op: checks shapes now, adds one node, returns its outputs. */
export function apply(op: OpDef, inputs: readonly Tensor[], attributes: Attributes = {}): readonly Tensor[] {
  const b = builder();
  let types: TensorType[];
  try {
    types = op.infer(
      inputs.map((t) => t.type),
      attributes,
    );
  } catch (error) {
    const { where } = b;
    if (where && error instanceof LatheError && !error.at) {
      throw new LatheError(error.code, error.message, { at: where, cause: error });
    }
    throw error;
  }
  return b.add({ kind: 'op', op, inputs, attributes, types }).outputs;
}

/** A run-time input. `external` inputs are bound to a file's bytes instead of being copied in. */
export function input(name: string, shape: readonly number[], dtype: DType, external = false): Tensor {
  const b = builder();
  const known = b.inputs.get(name);
  if (known) return known;
  const node = b.add({ kind: 'input', types: [{ shape, dtype }], input: { name, external }, where: name, phase: 'forward', block: '' });
  b.inputs.set(name, node.outputs[0]);
  return node.outputs[0];
}

/** The value a state slot has when the program starts. */
export function readState(slot: StateSlot): Tensor {
  const b = builder();
  const known = b.states.get(slot.name);
  if (known) return known;
  const type = { shape: slot.shape, dtype: slot.dtype };
  const node = b.add({ kind: 'state', types: [type], slot, where: slot.name, phase: 'forward', block: '' });
  b.states.set(slot.name, node.outputs[0]);
  return node.outputs[0];
}

/** A small literal baked into the program. */
export function constant(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
  return builder().add({ kind: 'constant', types: [{ shape, dtype }], constant: bytes, block: '' }).outputs[0];
}

/** Declares that `slot` holds `value` after the program. One update per slot. */
export function updateState(slot: StateSlot, value: Tensor): void {
  const b = builder();
  if (b.updated.has(slot.name)) {
    throw new LatheError('ERR_TRACE', `state '${slot.name}' is updated twice in one program`);
  }
  if (!sameType(value.type, slot)) {
    throw new LatheError(
      'ERR_TRACE',
      `state '${slot.name}' expected ${slot.dtype}[${slot.shape.join(', ')}], received ${value.dtype}[${value.shape.join(', ')}]`,
    );
  }
  b.updated.add(slot.name);
  b.updates.push({ slot, value });
}

/** Names a tensor that the caller gets back from `run`. */
export function output(name: string, value: Tensor): void {
  builder().outputs.set(name, value);
}

/** Gives the nodes made inside `fn` a module path (the whole path, e.g. `model.layers.0.mlp`). */
export function scope<T>(path: string, fn: () => T): T {
  const b = builder();
  const outer = b.where;
  b.where = path;
  try {
    return fn();
  } finally {
    b.where = outer;
  }
}

/** Marks a checkpointing unit: the nodes made inside may be recomputed in the backward pass. */
export function checkpointBlock<T>(name: string, fn: () => T): T {
  const b = builder();
  const outer = b.block;
  b.block = name;
  try {
    return fn();
  } finally {
    b.block = outer;
  }
}

/** Runs `fn` with nodes tagged as another phase. */
export function inPhase<T>(phase: Phase, fn: () => T): T {
  const b = builder();
  const outer = b.phase;
  b.phase = phase;
  try {
    return fn();
  } finally {
    b.phase = outer;
  }
}

/** Runs `fn` with the path and block of `node`, so that derived nodes say where they come from. */
export function atNode<T>(node: Node, fn: () => T): T {
  const b = builder();
  const { where, block } = b;
  b.where = node.where;
  b.block = node.block;
  try {
    return fn();
  } finally {
    b.where = where;
    b.block = block;
  }
}
