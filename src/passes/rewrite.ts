/**
 * The frame that passes share: note which tensors are replaced by which, then rebuild the graph once.
 *
 * Nodes whose inputs did not change are kept as they are. Replacements inherit `order`, so the schedule does not
 * depend on how often a node was rebuilt.
 */
import { makeNode, NodeTable, type Graph } from '../graph/trace';
import type { Attributes, Node, Tensor } from '../graph/tensor';
import type { OpDef } from '../graph/op-def';
import { dce } from './dce';

export class Rewriter {
  private readonly replaced = new Map<Tensor, Tensor>();

  replace(from: Tensor, to: Tensor): void {
    if (from !== to) this.replaced.set(from, to);
  }

  replaceAll(from: Node, to: Node): void {
    from.outputs.forEach((t, i) => this.replace(t, to.outputs[i]));
  }

  /** What stands for `t` so far. */
  resolve(t: Tensor): Tensor {
    let current = t;
    for (let next = this.replaced.get(current); next; next = this.replaced.get(current)) current = next;
    return current;
  }

  /** The graph after all replacements, without dead nodes, in topological order. */
  finish(graph: Graph): Graph {
    if (this.replaced.size === 0) return dce(graph);
    const done = new NodeTable<Node>(graph.nodes);
    const path: Node[] = [];
    const next: number[] = [];
    const reached: Node[] = [];
    const visit = (t: Tensor): void => {
      const { node } = this.resolve(t);
      if (done.get(node)) return;
      path.push(node);
      next.push(0);
    };
    for (const t of rootsOf(graph)) {
      visit(t);
      while (path.length) {
        const top = path.length - 1;
        const node = path[top];
        if (next[top] < node.inputs.length) {
          visit(node.inputs[next[top]++]);
          continue;
        }
        if (!done.get(node)) {
          const made = this.rebuild(node, done);
          done.set(node, made);
          reached.push(made);
        }
        path.pop();
        next.pop();
      }
    }
    const final = (t: Tensor): Tensor => {
      const r = this.resolve(t);
      return done.get(r.node)!.outputs[r.index];
    };
    return {
      name: graph.name,
      nodes: topological(reached),
      outputs: new Map([...graph.outputs].map(([name, t]) => [name, final(t)])),
      updates: graph.updates.map((u) => ({ slot: u.slot, value: final(u.value) })),
    };
  }

  private rebuild(node: Node, done: NodeTable<Node>): Node {
    let inputs: Tensor[] | null = null;
    for (let i = 0; i < node.inputs.length; i++) {
      const r = this.resolve(node.inputs[i]);
      const t = done.get(r.node)!.outputs[r.index];
      if (t !== node.inputs[i]) (inputs ??= [...node.inputs])[i] = t;
    }
    return inputs ? cloneNode(node, { inputs }) : node;
  }
}

/** What a graph is for: its outputs, then the values of its updates. */
export function rootsOf(graph: Graph): Tensor[] {
  return [...graph.outputs.values(), ...graph.updates.map((u) => u.value)];
}

/** A new node like `node` with some fields changed. */
export function cloneNode(
  node: Node,
  change: Partial<Pick<Node, 'inputs' | 'phase' | 'recompute' | 'order'>>,
): Node {
  return makeNode({
    kind: node.kind,
    op: node.op,
    inputs: change.inputs ?? node.inputs,
    attributes: node.attributes,
    types: node.outputs.map((t) => t.type),
    where: node.where,
    phase: change.phase ?? node.phase,
    block: node.block,
    input: node.input,
    slot: node.slot,
    constant: node.constant,
    recompute: change.recompute ?? node.recompute,
    order: change.order ?? node.order,
  });
}

/** A node of some op that takes the place of `like`. */
export function nodeLike(like: Node, op: OpDef, inputs: readonly Tensor[], attributes: Attributes): Node {
  const types = op.infer(
    inputs.map((t) => t.type),
    attributes,
  );
  const { where, phase, block, recompute, order } = like;
  return makeNode({ kind: 'op', op, inputs, attributes, types, where, phase, block, recompute, order });
}

/** How often each tensor is read, counting outputs and updates. */
export function countUses(graph: Graph): Map<Tensor, number> {
  const uses = new Map<Tensor, number>();
  const count = (t: Tensor): void => void uses.set(t, (uses.get(t) ?? 0) + 1);
  for (const node of graph.nodes) node.inputs.forEach(count);
  for (const t of graph.outputs.values()) count(t);
  for (const u of graph.updates) count(u.value);
  return uses;
}

/** Nodes sorted so that inputs come before users, otherwise by `order`. */
export function topological(nodes: Iterable<Node>): Node[] {
  const list = sorted([...nodes]);
  const position = new NodeTable<number>(list);
  list.forEach((node, i) => position.set(node, i));
  for (let i = 0; i < list.length; i++) {
    // An input outside of the list counts as there from the start.
    for (const t of list[i].inputs) if ((position.get(t.node) ?? -1) >= i) return sortByNeed(list, position);
  }
  return list;
}

const comesBefore = (a: Node, b: Node): number => a.order - b.order || a.id - b.id;

/** By order, then by age. In numbers, because a comparison in JavaScript of every pair is most of a sort's time. */
function sorted(list: Node[]): Node[] {
  let [oldest, newest, last] = [Infinity, 0, 0];
  for (const { id, order } of list) {
    oldest = Math.min(oldest, id);
    newest = Math.max(newest, id);
    if (order !== Infinity) last = Math.max(last, order);
  }
  const ids = newest - oldest + 1;
  if ((last + 2) * ids > Number.MAX_SAFE_INTEGER) return list.sort(comesBefore);
  const byAge = new Array<Node | undefined>(ids);
  const keys = new Float64Array(list.length);
  list.forEach((node, i) => {
    byAge[node.id - oldest] = node;
    keys[i] = (node.order === Infinity ? last + 1 : node.order) * ids + (node.id - oldest);
  });
  keys.sort();
  for (let i = 0; i < list.length; i++) list[i] = byAge[keys[i] % ids]!;
  return list;
}

/** Depth first from the roots in order: a node that is out of place comes just before its first user. */
function sortByNeed(list: readonly Node[], members: NodeTable<number>): Node[] {
  const done = new NodeTable<true>(list);
  const out: Node[] = [];
  const path: Node[] = [];
  const next: number[] = [];
  for (const root of list) {
    if (done.get(root)) continue;
    path.push(root);
    next.push(0);
    while (path.length) {
      const top = path.length - 1;
      const node = path[top];
      const i = next[top]++;
      if (i < node.inputs.length && !done.get(node)) {
        const dep = node.inputs[i].node;
        if (!done.get(dep) && members.get(dep) !== undefined) {
          path.push(dep);
          next.push(0);
        }
        continue;
      }
      if (!done.get(node)) {
        done.set(node, true);
        out.push(node);
      }
      path.pop();
      next.pop();
    }
  }
  return out;
}
