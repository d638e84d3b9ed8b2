/** Common subexpression elimination. Ops are pure, so equal op, inputs, attributes and recompute tag mean equal values. */
import type { Graph } from '../graph/trace';
import type { Node } from '../graph/tensor';
import { Rewriter } from './rewrite';

export function cse(graph: Graph): Graph {
  const seen = new Map<string, Node>();
  const numbers = new Map<Node, Node>();
  const rewriter = new Rewriter();
  for (const node of graph.nodes) {
    numbers.set(node, node);
    // An op without inputs (fill, random) is a few bytes of work; sharing one value between two updates costs a copy.
    if (node.kind !== 'op' || node.inputs.length === 0) continue;
    const key = keyOf(node, numbers);
    const twin = seen.get(key);
    if (twin) {
      rewriter.replaceAll(node, twin);
      numbers.set(node, twin);
    } else {
      seen.set(key, node);
    }
  }
  return rewriter.finish(graph);
}

function keyOf(node: Node, same: ReadonlyMap<Node, Node>): string {
  const inputs = node.inputs.map((t) => `${same.get(t.node)!.id}.${t.index}`).join(',');
  return `${node.op!.name}|${inputs}|${JSON.stringify(node.attributes)}|${node.recompute ?? ''}`;
}
