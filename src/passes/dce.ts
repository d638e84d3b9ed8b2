/** Dead code elimination: keeps what outputs and updates need. */
import { NodeTable, type Graph } from '../graph/trace';
import type { Node } from '../graph/tensor';

export function dce(graph: Graph): Graph {
  const live = new NodeTable<true>(graph.nodes);
  const stack: Node[] = [];
  const visit = (node: Node): void => {
    if (live.get(node)) return;
    live.set(node, true);
    stack.push(node);
  };
  for (const t of graph.outputs.values()) visit(t.node);
  for (const u of graph.updates) visit(u.value.node);
  let count = stack.length;
  for (let node = stack.pop(); node; node = stack.pop()) {
    const before = stack.length;
    for (const t of node.inputs) visit(t.node);
    count += stack.length - before;
  }
  return count === graph.nodes.length ? graph : { ...graph, nodes: graph.nodes.filter((n) => live.get(n)) };
}
