/**
 * The frame that passes share: note which tensors are replaced by which, then rebuild the graph once.
 *
 * Nodes whose inputs did not change are kept as they are. Replacements inherit `order`, so the schedule does not
 * depend on how often a node was rebuilt.
 *
 * A compiler runs once: most of its time it is interpreted, and there every step of a `for (... of ...)` and every array
 * taken apart allocates. So loops over what a node reads and makes count by index, here and in the other passes.
 */
import { idsSoFar, LATEST, makeNode, oldestId, TensorTable, type Graph } from '../graph/trace';
import { typesOf, type Attributes, type Node, type Tensor, type TensorType } from '../graph/tensor';

export class Rewriter {
  private readonly replaced: TensorTable<Tensor>;
  private anything = false;

  /** @param graph without dead nodes (`dce`) */
  constructor(private readonly graph: Graph) {
    this.replaced = new TensorTable(graph.nodes);
  }

  replace(from: Tensor, to: Tensor): void {
    if (from === to) return;
    this.replaced.set(from, to);
    this.anything = true;
  }

  replaceAll(from: Node, to: Node): void {
    for (let i = 0; i < from.outputs.length; i++) this.replace(from.outputs[i], to.outputs[i]);
  }

  /** What stands for `t` so far. */
  resolve(t: Tensor): Tensor {
    const { replaced } = this;
    let current = t;
    for (let next = replaced.get(current); next; next = replaced.get(current)) current = next;
    return current;
  }

  /** The graph after all replacements, without dead nodes, in topological order. */
  finish(): Graph {
    const { graph } = this;
    if (!this.anything) return graph;
    // By id of the old node: what it became.
    const base = oldestId(graph.nodes);
    const done = new Array<Node | undefined>(idsSoFar() - base).fill(undefined);
    // Stacks: written over rather than popped, because V8 gives an emptied array's memory back each time.
    const path: Node[] = [];
    const next: number[] = [];
    const reached: Node[] = [];
    for (const root of rootsOf(graph)) {
      const { node: start } = this.resolve(root);
      if (done[start.id - base]) continue;
      let top = 0;
      path[0] = start;
      next[0] = 0;
      while (top >= 0) {
        const node = path[top];
        const { inputs } = node;
        let i = next[top];
        let pending: Node | null = null;
        while (i < inputs.length && !pending) {
          const needed = this.resolve(inputs[i++]).node;
          if (!done[needed.id - base]) pending = needed;
        }
        next[top] = i;
        if (pending) {
          path[++top] = pending;
          next[top] = 0;
          continue;
        }
        reached.push((done[node.id - base] = this.rebuild(node, done, base)));
        top--;
      }
    }
    const final = (t: Tensor): Tensor => {
      const r = this.resolve(t);
      return done[r.node.id - base]!.outputs[r.index];
    };
    return {
      name: graph.name,
      nodes: topological(reached),
      outputs: new Map([...graph.outputs].map(([name, t]) => [name, final(t)])),
      updates: graph.updates.map((u) => ({ slot: u.slot, value: final(u.value) })),
    };
  }

  private rebuild(node: Node, done: readonly (Node | undefined)[], base: number): Node {
    const old = node.inputs;
    let inputs: Tensor[] | null = null;
    for (let i = 0; i < old.length; i++) {
      const r = this.resolve(old[i]);
      const t = done[r.node.id - base]!.outputs[r.index];
      if (t !== old[i]) (inputs ??= [...old])[i] = t;
    }
    return inputs ? cloneNode(node, inputs) : node;
  }
}

/** What a graph is for: its outputs, then the values of its updates. */
function rootsOf(graph: Graph): Tensor[] {
  return [...graph.outputs.values(), ...graph.updates.map((u) => u.value)];
}

/** A copy of an op's node over other inputs of the same types. */
export function cloneNode(node: Node, inputs: readonly Tensor[]): Node {
  return nodeLike(node, inputs, node.attributes, typesOf(node.outputs));
}

/** A node of the same op that takes the place of `like`. */
export function nodeLike(
  like: Node,
  inputs: readonly Tensor[],
  attributes: Attributes,
  types: readonly TensorType[],
): Node {
  const { where, phase, block, order, recompute } = like;
  return makeNode({ op: like.op!, inputs, attributes, types, where, phase, block, order, recompute });
}

/** How often each tensor is read, counting outputs and updates. */
export function countUses(graph: Graph): TensorTable<number> {
  const uses = new TensorTable<number>(graph.nodes);
  const count = (t: Tensor): void => uses.set(t, (uses.get(t) ?? 0) + 1);
  for (const { inputs } of graph.nodes) for (let i = 0; i < inputs.length; i++) count(inputs[i]);
  for (const t of graph.outputs.values()) count(t);
  for (const u of graph.updates) count(u.value);
  return uses;
}

/** Nodes sorted so that inputs come before users, otherwise by `order`. */
function topological(nodes: readonly Node[]): Node[] {
  const list = sorted(nodes);
  const base = oldestId(list);
  // 1 + position by id; an input outside of the list counts as there from the start.
  const position = new Int32Array(idsSoFar() - base);
  for (let i = 0; i < list.length; i++) position[list[i].id - base] = i + 1;
  for (let i = 0; i < list.length; i++) {
    const { inputs } = list[i];
    for (let j = 0; j < inputs.length; j++)
      if (position[inputs[j].node.id - base] > i) return sortByNeed(list, base, position);
  }
  return list;
}

const comesBefore = (a: Node, b: Node): number => a.order - b.order || a.id - b.id;

/** By order, then by age. In numbers, because a comparison in JavaScript of every pair is most of a sort's time. */
function sorted(nodes: readonly Node[]): Node[] {
  const oldest = oldestId(nodes);
  const ids = idsSoFar() - oldest;
  if (LATEST * ids > Number.MAX_SAFE_INTEGER) return [...nodes].sort(comesBefore);
  const byAge = new Array<Node | undefined>(ids).fill(undefined);
  const keys = new Float64Array(nodes.length);
  for (let i = 0; i < nodes.length; i++) {
    const node = nodes[i];
    byAge[node.id - oldest] = node;
    keys[i] = node.order * ids + (node.id - oldest);
  }
  keys.sort();
  const list: Node[] = [];
  for (let i = 0; i < keys.length; i++) list.push(byAge[keys[i] % ids]!);
  return list;
}

/** Depth first from the roots in order: a node that is out of place comes just before its first user. `members`: 0 by id for others. */
function sortByNeed(list: readonly Node[], base: number, members: Int32Array): Node[] {
  const done = new Uint8Array(members.length);
  const out: Node[] = [];
  const path: Node[] = [];
  const next: number[] = [];
  for (const root of list) {
    if (done[root.id - base]) continue;
    let top = 0;
    path[0] = root;
    next[0] = 0;
    while (top >= 0) {
      const node = path[top];
      const { inputs } = node;
      let i = next[top];
      let pending: Node | null = null;
      while (i < inputs.length && !pending) {
        const dep = inputs[i++].node;
        if (members[dep.id - base] && !done[dep.id - base]) pending = dep;
      }
      next[top] = i;
      if (pending) {
        path[++top] = pending;
        next[top] = 0;
        continue;
      }
      done[node.id - base] = 1;
      out.push(node);
      top--;
    }
  }
  return out;
}
