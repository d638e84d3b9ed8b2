/**
 * Tensors, nodes and state slots: the vocabulary of a traced program.
 *
 * A `Tensor` is a description, `{node, index, type}`. It owns no bytes, so nothing here is ever disposed.
 * A `Node` is one application of an op (or a leaf: input, state read, constant). Nodes are immutable once made;
 * passes build new ones.
 */
import type { DType } from './dtype';
import { dtypeBytes } from './dtype';
import type { OpDef } from './op-def';

export interface TensorType {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

export type Attribute = number | string | readonly number[];
export type Attributes = Readonly<Record<string, Attribute>>;

/** Which part of a step a node belongs to: `fuse` rewrites only what is not forward, `checkpoint` clones only what is. */
export type Phase = 'forward' | 'recompute' | 'backward' | 'update';

/** What a state slot's bytes are, for the memory breakdown. */
export type StateRole = 'weights' | 'quantization' | 'adapter' | 'gradients' | 'optimizer' | 'kv_cache';

/** A named, typed, persistent piece of session memory. */
export interface StateSlot extends TensorType {
  readonly name: string;
  readonly role: StateRole;
}

export interface Node {
  /** Rises with the age of nodes; output i has the id `id + i`. */
  readonly id: number;
  /** Where the schedule would like this node; replacements inherit it from what they replace. */
  readonly order: number;
  readonly kind: 'op' | 'input' | 'state' | 'constant';
  readonly op: OpDef | null;
  readonly inputs: readonly Tensor[];
  readonly attributes: Attributes;
  readonly outputs: readonly Tensor[];
  /** Module path, e.g. `model.layers.3.mlp.down_proj`. */
  readonly where: string;
  readonly phase: Phase;
  /** Checkpointing unit this node belongs to, e.g. `model.layers.3`; empty outside of one. */
  readonly block: string;
  /** Input name, for inputs; `external` ones are bound to file bytes at run time. */
  readonly input?: { name: string; external: boolean };
  readonly slot?: StateSlot;
  readonly constant?: Uint8Array;
  /** Set on recomputed nodes; part of a node's identity so that cse cannot merge it with the original. */
  readonly recompute?: string;
}

export class Tensor {
  /** Dense over the tensors of a graph, so that passes keep what they know about tensors in arrays. */
  readonly id: number;

  constructor(
    readonly node: Node,
    readonly index: number,
    readonly type: TensorType,
  ) {
    this.id = node.id + index;
  }
  get shape(): readonly number[] {
    return this.type.shape;
  }
  get dtype(): DType {
    return this.type.dtype;
  }
}

export function elementCount(shape: readonly number[]): number {
  let count = 1;
  for (let i = 0; i < shape.length; i++) count *= shape[i];
  return count;
}

export function typeBytes(type: TensorType): number {
  return elementCount(type.shape) * dtypeBytes(type.dtype);
}

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function sameType(a: TensorType, b: TensorType): boolean {
  return a.dtype === b.dtype && sameShape(a.shape, b.shape);
}

export function typesOf(tensors: readonly Tensor[]): TensorType[] {
  const types = new Array<TensorType>(tensors.length);
  for (let i = 0; i < tensors.length; i++) types[i] = tensors[i].type;
  return types;
}
