/** Dead code elimination: keeps what outputs and updates need. */
import type { Graph } from '../graph/trace';
import type { Node } from '../graph/tensor';

export function dce(graph: Graph): Graph {
  const live = new Set<Node>();
  const stack: Node[] = [...[...graph.outputs.values()].map((t) => t.node), ...graph.updates.map((u) => u.value.node)];
  while (stack.length) {
    const node = stack.pop()!;
    if (live.has(node)) continue;
    live.add(node);
    for (const t of node.inputs) if (!live.has(t.node)) stack.push(t.node);
  }
  return { ...graph, nodes: graph.nodes.filter((n) => live.has(n)) };
}
