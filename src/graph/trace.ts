/**
 * Tracing: the only door through which ops become a Graph.
 *
 * `trace(fn)` runs `fn` once while a builder is current; every op applied inside adds a node. Nothing is traced
 * behind the user's back: applying an op outside of `trace` is an error. Scopes give nodes their module path.
 */
import { LatheError, withPlace } from '../errors';
import type { DType } from './dtype';
import type { OpDef } from './op-def';
import {
  sameType,
  Tensor,
  typesOf,
  type Attributes,
  type Node,
  type Phase,
  type StateSlot,
  type TensorType,
} from './tensor';

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

/** What the node of an op is made of. */
interface OpFields extends Pick<Node, 'inputs' | 'attributes' | 'where' | 'phase' | 'block' | 'recompute'> {
  readonly op: OpDef;
  readonly types: readonly TensorType[];
  /** Default: after all nodes made so far. */
  readonly order?: number;
}

/** The `order` of a node that comes as late as it can. A small integer as any other's, so that nodes keep one layout in V8. */
export const LATEST = 2 ** 31 - 1;

let nextId = 0;

/** The id of the next node: tables over all tensors made so far end before it. */
export const idsSoFar = (): number => nextId;

/**
 * A table over tensors by id; an array is several times faster than a Map of objects, above all in the first graph that a
 * process compiles. A node has the entry of its first output.
 */
export class TensorTable<T> {
  private readonly base: number;
  private readonly items: (T | undefined)[];

  /** @param nodes those (at least) that the table is about, and the ones made after the oldest of them */
  constructor(nodes: readonly Node[]) {
    this.base = oldestId(nodes);
    this.items = new Array<T | undefined>(nextId - this.base).fill(undefined);
  }

  get(t: { readonly id: number }): T | undefined {
    return this.items[t.id - this.base];
  }

  set(t: { readonly id: number }, value: T): void {
    const i = t.id - this.base;
    // Far beyond its end an array would become a hash table.
    while (this.items.length < i) this.items.push(undefined);
    this.items[i] = value;
  }
}

export function oldestId(nodes: readonly Node[]): number {
  let oldest = nextId;
  for (let i = 0; i < nodes.length; i++) if (nodes[i].id < oldest) oldest = nodes[i].id;
  return oldest;
}

/** Makes the node of an op and its output tensors; passes use it to build replacements. */
export function makeNode({ op, inputs, attributes, types, where, phase, block, order, recompute }: OpFields): Node {
  const id = nextId;
  nextId += Math.max(1, types.length);
  // Of the right size at once: an empty array that grows reserves room for seventeen.
  const outputs = new Array<Tensor>(types.length);
  // Leaves and ops name the same fields in the same order: one layout for all code that reads nodes.
  const node: Node = {
    id,
    order: order ?? id,
    kind: 'op',
    op,
    inputs,
    attributes,
    outputs,
    where,
    phase,
    block,
    input: undefined,
    slot: undefined,
    constant: undefined,
    recompute,
  };
  for (let i = 0; i < types.length; i++) outputs[i] = new Tensor(node, i, types[i]);
  return node;
}

const NO_INPUTS: readonly Tensor[] = [];
const NO_ATTRIBUTES: Attributes = {};

/** Makes a node without inputs that stands for a value from outside. */
function makeLeaf(
  kind: 'input' | 'state' | 'constant',
  type: TensorType,
  where: string,
  phase: Phase,
  value: Pick<Node, 'input' | 'slot' | 'constant'>,
): Node {
  const id = nextId++;
  const outputs = new Array<Tensor>(1);
  const node: Node = {
    id,
    order: id,
    kind,
    op: null,
    inputs: NO_INPUTS,
    attributes: NO_ATTRIBUTES,
    outputs,
    where,
    phase,
    block: '',
    input: value.input,
    slot: value.slot,
    constant: value.constant,
    recompute: undefined,
  };
  outputs[0] = new Tensor(node, 0, type);
  return node;
}

class Builder {
  readonly nodes: Node[] = [];
  readonly inputs = new Map<string, Tensor>();
  readonly states = new Map<string, Tensor>();
  readonly outputs = new Map<string, Tensor>();
  readonly updates: Update[] = [];
  readonly updated = new Set<string>();
  readonly attributes = new Map<string, Attributes>();
  where = '';
  block = '';
  phase: Phase = 'forward';

  /** Adds a node; its first output. */
  add(node: Node): Tensor {
    this.nodes.push(node);
    return node.outputs[0];
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
  } catch (error) {
    throw withPlace(error, `program '${name}'`);
  } finally {
    current = null;
  }
  return { name, nodes: b.nodes, outputs: b.outputs, updates: b.updates };
}

/** Applies an op: checks shapes now, adds one node, returns its outputs. */
export function apply(op: OpDef, inputs: readonly Tensor[], attributes: Attributes = NO_ATTRIBUTES): readonly Tensor[] {
  const b = builder();
  const given = typesOf(inputs);
  const types = op.infer(given, attributes);
  const node = makeNode({ op, inputs, attributes, types, where: b.where, phase: b.phase, block: b.block });
  b.nodes.push(node);
  return node.outputs;
}

/**
 * Attributes by a key that says all of them: the nodes of a kind in every layer share one object, so what is derived from
 * attributes (a layout, encoded bytes) is derived once.
 */
export function sharedAttributes(key: string, make: () => Attributes): Attributes {
  const { attributes } = builder();
  let known = attributes.get(key);
  if (!known) attributes.set(key, (known = make()));
  return known;
}

/** A run-time input. `external` inputs are bound to a file's bytes instead of being copied in. */
export function input(name: string, shape: readonly number[], dtype: DType, external = false): Tensor {
  const b = builder();
  const known = b.inputs.get(name);
  if (known) return known;
  const made = b.add(makeLeaf('input', { shape, dtype }, name, 'forward', { input: { name, external } }));
  b.inputs.set(name, made);
  return made;
}

/** The value a state slot has when the program starts. */
export function readState(slot: StateSlot): Tensor {
  const b = builder();
  const known = b.states.get(slot.name);
  if (known) return known;
  const made = b.add(makeLeaf('state', { shape: slot.shape, dtype: slot.dtype }, slot.name, 'forward', { slot }));
  b.states.set(slot.name, made);
  return made;
}

/** A small literal baked into the program. */
export function constant(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
  const b = builder();
  return b.add(makeLeaf('constant', { shape, dtype }, b.where, b.phase, { constant: bytes }));
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

/** Gives the nodes made inside `fn` a module path (the whole path, e.g. `model.layers.0.mlp`), and errors that have no place. */
export function scope<T>(path: string, fn: () => T): T {
  const b = builder();
  const outer = b.where;
  b.where = path;
  try {
    return fn();
  } catch (error) {
    throw withPlace(error, path);
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

/** Runs `fn` with the path and block of `node`, so that derived nodes, and errors, say where they come from. */
export function atNode<T>(node: Node, fn: () => T): T {
  const b = builder();
  const { where, block } = b;
  b.where = node.where;
  b.block = node.block;
  try {
    return fn();
  } catch (error) {
    throw withPlace(error, node.where);
  } finally {
    b.where = where;
    b.block = block;
  }
}
