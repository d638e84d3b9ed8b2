/** Dead code elimination: keeps what outputs and updates need. */
import { idsSoFar, oldestId, type Graph } from '../graph/trace';
import type { Node } from '../graph/tensor';

export function dce(graph: Graph): Graph {
  const { nodes } = graph;
  const base = oldestId(nodes);
  const live = new Uint8Array(idsSoFar() - base);
  const stack: Node[] = [];
  const visit = (node: Node): void => {
    if (live[node.id - base]) return;
    live[node.id - base] = 1;
    stack.push(node);
  };
  for (const t of graph.outputs.values()) visit(t.node);
  for (const u of graph.updates) visit(u.value.node);
  let count = 0;
  for (let node = stack.pop(); node; node = stack.pop()) {
    count++;
    const { inputs } = node;
    for (let i = 0; i < inputs.length; i++) {
      const needed = inputs[i].node;
      if (live[needed.id - base]) continue;
      live[needed.id - base] = 1;
      stack.push(needed);
    }
  }
  return count === nodes.length ? graph : { ...graph, nodes: nodes.filter((n) => live[n.id - base]) };
}
