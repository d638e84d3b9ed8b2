/**
 * The frame that passes share: note which tensors are replaced by which, then rebuild the graph once.
 *
 * Nodes whose inputs did not change are kept as they are. Replacements inherit `order`, so the schedule does not
 * depend on how often a node was rebuilt.
 */
import { makeNode, type Graph } from '../graph/trace';
import type { Attributes, Node, Tensor } from '../graph/tensor';
import type { OpDef } from '../graph/op-def';

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
    const done = new Map<Node, Node>();
    const roots = [...graph.outputs.values(), ...graph.updates.map((u) => u.value)];
    const stack: { node: Node; next: number }[] = roots.map((t) => ({ node: this.resolve(t).node, next: 0 }));
    while (stack.length) {
      const top = stack[stack.length - 1];
      if (done.has(top.node)) {
        stack.pop();
      } else if (top.next < top.node.inputs.length) {
        const dep = this.resolve(top.node.inputs[top.next++]).node;
        if (!done.has(dep)) stack.push({ node: dep, next: 0 });
      } else {
        done.set(top.node, this.rebuild(top.node, done));
        stack.pop();
      }
    }
    const final = (t: Tensor): Tensor => {
      const r = this.resolve(t);
      return done.get(r.node)!.outputs[r.index];
    };
    return {
      name: graph.name,
      nodes: topological(done.values()),
      outputs: new Map([...graph.outputs].map(([name, t]) => [name, final(t)])),
      updates: graph.updates.map((u) => ({ slot: u.slot, value: final(u.value) })),
    };
  }

  private rebuild(node: Node, done: ReadonlyMap<Node, Node>): Node {
    const inputs = node.inputs.map((t) => {
      const r = this.resolve(t);
      return done.get(r.node)!.outputs[r.index];
    });
    return inputs.every((t, i) => t === node.inputs[i]) ? node : cloneNode(node, { inputs });
  }
}

/** A new node like `node` with some fields changed. */
export function cloneNode(
  node: Node,
  change: Partial<Pick<Node, 'inputs' | 'phase' | 'recompute' | 'order'>>,
): Node {
  const { outputs, id: _id, ...rest } = node;
  return makeNode({ ...rest, types: outputs.map((t) => t.type), ...change });
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
  const list = [...nodes].sort((a, b) => a.order - b.order || a.id - b.id);
  const position = new Map<Node, number>();
  list.forEach((node, i) => position.set(node, i));
  const inOrder = list.every((node, i) => node.inputs.every((t) => (position.get(t.node) ?? -1) < i));
  return inOrder ? list : sortByNeed(list, position);
}

/** Depth first from the roots in order: a node that is out of place comes just before its first user. */
function sortByNeed(list: readonly Node[], members: ReadonlyMap<Node, number>): Node[] {
  const done = new Set<Node>();
  const out: Node[] = [];
  const path: Node[] = [];
  const next: number[] = [];
  for (const root of list) {
    if (done.has(root)) continue;
    path.push(root);
    next.push(0);
    while (path.length) {
      const node = path[path.length - 1];
      const i = next[next.length - 1]++;
      if (i < node.inputs.length && !done.has(node)) {
        const dep = node.inputs[i].node;
        if (!done.has(dep) && members.has(dep)) {
          path.push(dep);
          next.push(0);
        }
        continue;
      }
      if (!done.has(node)) {
        done.add(node);
        out.push(node);
      }
      path.pop();
      next.pop();
    }
  }
  return out;
}
