/**
 * Storage assignment: which tensors share bytes.
 *
 * A `Storage` is a piece of memory that holds one value at a time: an arena interval, a state slot, a file range or a
 * constant. An op may write over an input that dies there (`mayAlias`); an update is written straight into its slot when
 * no reader of the old value comes later, otherwise a copy is appended. What such an update was made from in place is made
 * in the slot as well (the head's part of a tied embedding's gradient). `verify` replays the result and proves it.
 */
import { elementwiseOps } from '../ops/elementwise';
import { makeNode, TensorTable, type Graph } from '../graph/trace';
import { sameType, typeBytes, type Node, type StateSlot, type Tensor } from '../graph/tensor';

export interface Storage {
  readonly kind: 'arena' | 'state' | 'external' | 'constant';
  readonly bytes: number;
  readonly slot?: StateSlot;
  readonly constant?: Uint8Array;
  /** Schedule positions between which the bytes are in use; -1 = from the start, `schedule.length` = to the end. */
  first: number;
  last: number;
  /** The tensor whose value it was made for; names it in reports. */
  readonly owner: Tensor;
}

export interface Placed {
  /** Nodes that run, in order; views are resolved and do not appear. */
  readonly schedule: readonly Node[];
  readonly storage: ReadonlyMap<Tensor, Storage>;
  /** Optional outputs that nobody reads. */
  readonly absent: ReadonlySet<Tensor>;
  readonly graph: Graph;
}

const NO_TENSORS: readonly Tensor[] = [];

export function inplace(graph: Graph): Placed {
  return new Placer(graph).place();
}

class Placer {
  private readonly schedule: Node[];
  private readonly storage = new Map<Tensor, Storage>();
  private readonly lastUse: TensorTable<number>;
  private readonly absent = new Set<Tensor>();
  /** The value each storage holds now; its last use decides when the storage may be overwritten. */
  private readonly content = new Map<Storage, Tensor>();
  private readonly slots = new Map<string, Storage>();
  private readonly target = new Map<Tensor, StateSlot>();
  private readonly copies: { slot: StateSlot; value: Tensor }[] = [];
  /** By node and output: the inputs that may be written over. */
  private readonly aliases = new Map<Node, Tensor[][]>();
  private readonly reads = new Map<Node, Map<string, number>>();
  /** Of the nodes that run, without copies. */
  private readonly position: TensorTable<number>;
  /** By slot: the position of the last node that reads its old value. */
  private readonly lastRead = new Map<string, number>();

  private readonly graph: Graph;

  constructor(graph: Graph) {
    this.graph = keepOldState(graph);
    this.schedule = this.graph.nodes.filter((n) => n.kind === 'op' && !n.op!.view);
    this.lastUse = new TensorTable(this.graph.nodes);
    this.position = new TensorTable(this.graph.nodes);
  }

  place(): Placed {
    this.planCopies();
    this.findLastUses();
    this.extendTargets();
    this.placeLeaves();
    const { schedule } = this;
    for (let i = 0; i < schedule.length; i++) this.placeOutputs(schedule[i], i);
    return { schedule, storage: this.storage, absent: this.absent, graph: this.graph };
  }

  /** Decides which updates can be written in place; the rest become copies at the end of the schedule. */
  private planCopies(): void {
    const { schedule, position, lastRead } = this;
    for (let i = 0; i < schedule.length; i++) {
      const node = schedule[i];
      position.set(node, i);
      for (let j = 0; j < node.inputs.length; j++) {
        const { slot } = viewed(node.inputs[j]).node;
        if (slot) lastRead.set(slot.name, i);
      }
    }
    for (const { slot, value } of this.graph.updates) {
      const base = viewed(value);
      const at = base === value ? position.get(value.node) : undefined;
      const read = lastRead.get(slot.name) ?? -1;
      const alias =
        at !== undefined && at === read && this.aliasInputs(value).some((t) => viewed(t).node.slot?.name === slot.name);
      const direct =
        at !== undefined &&
        !this.target.has(value) &&
        (read < at || (alias && this.slotReads(value.node).get(slot.name) === 1));
      if (direct) this.target.set(value, slot);
      else if (base.node.slot?.name !== slot.name) this.copies.push({ slot, value });
    }
    for (const { slot, value } of this.copies) {
      const node = copyOf(value, slot.name);
      schedule.push(node);
      this.target.set(node.outputs[0], slot);
    }
  }

  /** How many inputs of a node show each slot. An optimizer's node has hundreds of inputs, so it is counted once. */
  private slotReads(node: Node): ReadonlyMap<string, number> {
    let counts = this.reads.get(node);
    if (!counts) {
      this.reads.set(node, (counts = new Map<string, number>()));
      for (const t of node.inputs) {
        const name = viewed(t).node.slot?.name;
        if (name !== undefined) counts.set(name, (counts.get(name) ?? 0) + 1);
      }
    }
    return counts;
  }

  /** The inputs that `t` may be written over; found once per node, for all its outputs. */
  private aliasInputs(t: Tensor): readonly Tensor[] {
    const { node } = t;
    if (!node.op?.mayAlias) return NO_TENSORS;
    let byOutput = this.aliases.get(node);
    if (!byOutput) {
      this.aliases.set(node, (byOutput = []));
      const pairs = node.op.mayAlias(node.attributes, node.inputs.length);
      for (let i = 0; i < pairs.length; i++) {
        const pair = pairs[i];
        const input = node.inputs[pair[1]];
        const known = byOutput[pair[0]];
        if (known) known.push(input);
        else byOutput[pair[0]] = [input];
      }
    }
    return byOutput[t.index] ?? NO_TENSORS;
  }

  private findLastUses(): void {
    const { schedule, lastUse } = this;
    for (let i = 0; i < schedule.length; i++) {
      const { inputs } = schedule[i];
      for (let j = 0; j < inputs.length; j++) lastUse.set(viewed(inputs[j]), i);
    }
    for (const t of this.graph.outputs.values()) lastUse.set(viewed(t), schedule.length);
  }

  /** An update may lie over an input that dies there: then that input is made in the slot too, if nobody needs the slot by then. */
  private extendTargets(): void {
    const { position, lastRead, lastUse, target } = this;
    // A map's loop also visits what is added to it meanwhile. A copy, which has no position, is left alone.
    for (const [value, slot] of target) {
      const at = position.get(value.node);
      if (at === undefined) continue;
      const earlier = this.aliasInputs(value).find(
        (t) =>
          t.node.kind === 'op' &&
          !t.node.op!.view &&
          sameType(t.type, slot) &&
          !target.has(t) &&
          lastUse.get(t) === at &&
          (lastRead.get(slot.name) ?? -1) < position.get(t.node)! &&
          value.node.inputs.filter((other) => viewed(other) === t).length === 1,
      );
      if (earlier) target.set(earlier, slot);
    }
  }

  private placeLeaves(): void {
    const leaves = this.graph.nodes.filter((n) => n.kind !== 'op');
    for (const node of leaves) {
      const t = node.outputs[0];
      if (node.kind === 'state') this.hold(t, this.slotStorage(node.slot!, t));
      else if (node.kind === 'constant')
        this.hold(t, {
          kind: 'constant',
          bytes: typeBytes(t.type),
          slot: undefined,
          constant: node.constant,
          first: -1,
          last: this.schedule.length,
          owner: t,
        });
      else if (node.input!.external)
        this.hold(t, {
          kind: 'external',
          bytes: typeBytes(t.type),
          slot: undefined,
          constant: undefined,
          first: -1,
          last: this.schedule.length,
          owner: t,
        });
      else
        this.hold(t, {
          kind: 'arena',
          bytes: typeBytes(t.type),
          slot: undefined,
          constant: undefined,
          first: -1,
          last: this.lastUse.get(t) ?? -1,
          owner: t,
        });
    }
  }

  private slotStorage(slot: StateSlot, owner: Tensor): Storage {
    let s = this.slots.get(slot.name);
    if (!s) {
      s = {
        kind: 'state',
        bytes: typeBytes(slot),
        slot,
        constant: undefined,
        first: -1,
        last: this.schedule.length,
        owner,
      };
      this.slots.set(slot.name, s);
    }
    return s;
  }

  private hold(t: Tensor, s: Storage): void {
    this.storage.set(t, s);
    this.content.set(s, t);
  }

  private placeOutputs(node: Node, i: number): void {
    // Storages that hold an output of this node already.
    const taken: Storage[] = [];
    const { outputs } = node;
    for (let j = 0; j < outputs.length; j++) {
      const t = outputs[j];
      const slot = this.target.get(t);
      if (slot) {
        const s = this.slotStorage(slot, t);
        taken.push(s);
        this.hold(t, s);
      }
    }
    // All of an optimizer's outputs are slots.
    if (taken.length === outputs.length) return;
    for (let j = 0; j < outputs.length; j++) {
      const t = outputs[j];
      if (this.target.has(t)) continue;
      const last = this.lastUse.get(t);
      if (last === undefined && node.op!.optionalOutputs?.includes(t.index)) {
        this.absent.add(t);
        continue;
      }
      const reuse = this.reusable(t, i, taken);
      if (reuse) {
        taken.push(reuse);
        reuse.last = Math.max(reuse.last, last ?? i);
        this.hold(t, reuse);
      } else {
        this.hold(t, {
          kind: 'arena',
          bytes: typeBytes(t.type),
          slot: undefined,
          constant: undefined,
          first: i,
          last: last ?? i,
          owner: t,
        });
      }
    }
  }

  /** The storage of an input that dies at node `i` and may be overwritten by `t`. */
  private reusable(t: Tensor, i: number, taken: readonly Storage[]): Storage | undefined {
    const candidates = this.aliasInputs(t);
    for (let j = 0; j < candidates.length; j++) {
      const base = viewed(candidates[j]);
      if (this.lastUse.get(base) !== i) continue;
      const s = this.storage.get(base)!;
      if (s.kind !== 'arena' || taken.includes(s) || s.bytes !== typeBytes(t.type) || this.content.get(s) !== base)
        continue;
      let reads = 0;
      const { inputs } = t.node;
      for (let k = 0; k < inputs.length; k++) if (this.storage.get(viewed(inputs[k])) === s) reads++;
      if (reads === 1) return s;
    }
    return undefined;
  }
}

function copyOf(value: Tensor, where: string): Node {
  return makeNode({
    op: elementwiseOps.copy,
    inputs: [value],
    attributes: {},
    types: [value.type],
    where,
    phase: 'update',
    block: '',
  });
}

/**
 * Values that a slot has before it is updated, and that an output or another slot's update shows, are copied at the
 * start: the slot may be written before they are.
 */
function keepOldState(graph: Graph): Graph {
  const updated = new Set(
    graph.updates.filter((u) => viewed(u.value).node.slot?.name !== u.slot.name).map((u) => u.slot.name),
  );
  const copies = new Map<Tensor, Node>();
  const kept = (t: Tensor, slot?: StateSlot): Tensor => {
    const shown = viewed(t).node.slot;
    if (!shown || shown.name === slot?.name || !updated.has(shown.name)) return t;
    if (!copies.has(t)) copies.set(t, copyOf(t, shown.name));
    return copies.get(t)!.outputs[0];
  };
  const outputs = new Map([...graph.outputs].map(([name, t]) => [name, kept(t)]));
  const updates = graph.updates.map((u) => ({ slot: u.slot, value: kept(u.value, u.slot) }));
  return copies.size === 0 ? graph : { ...graph, nodes: [...copies.values(), ...graph.nodes], outputs, updates };
}

/** The tensor whose bytes a view shows; a tensor that is no view is its own. */
export function viewed(t: Tensor): Tensor {
  let current = t;
  while (current.node.op?.view) current = current.node.inputs[0];
  return current;
}

/** The storage behind a tensor, through views. */
export function storageOf(placed: Placed, t: Tensor): Storage {
  return placed.storage.get(viewed(t))!;
}
