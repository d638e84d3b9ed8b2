/** Common subexpression elimination. Ops are pure, so equal op, inputs, attributes and recompute tag mean equal values. */
import { TensorTable, type Graph } from '../graph/trace';
import type { Attribute, Attributes, Node } from '../graph/tensor';
import { Rewriter } from './rewrite';

/** @param graph without dead nodes (`dce`) */
export function cse(graph: Graph): Graph {
  // Kept nodes by the (kept) tensor they read first, as a chain: few nodes read the same one.
  const newest = new TensorTable<Node>(graph.nodes);
  const older = new TensorTable<Node>(graph.nodes);
  const rewriter = new Rewriter(graph);
  for (const node of graph.nodes) {
    // An op without inputs (fill, random) is a few bytes of work; sharing one value between two updates costs a copy.
    if (node.kind !== 'op' || node.inputs.length === 0) continue;
    const first = rewriter.resolve(node.inputs[0]);
    const latest = newest.get(first);
    let twin = latest;
    while (twin && !same(twin, node, rewriter)) twin = older.get(twin);
    if (twin) {
      rewriter.replaceAll(node, twin);
      continue;
    }
    newest.set(first, node);
    if (latest) older.set(node, latest);
  }
  return rewriter.finish();
}

function same(a: Node, b: Node, rewriter: Rewriter): boolean {
  if (a.op !== b.op || a.recompute !== b.recompute || a.inputs.length !== b.inputs.length) return false;
  for (let i = 0; i < a.inputs.length; i++)
    if (rewriter.resolve(a.inputs[i]) !== rewriter.resolve(b.inputs[i])) return false;
  return sameAttributes(a.attributes, b.attributes);
}

function sameAttributes(a: Attributes, b: Attributes): boolean {
  if (a === b) return true;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => sameAttribute(a[key], b[key]));
}

function sameAttribute(a: Attribute, b: Attribute | undefined): boolean {
  if (typeof a !== 'object') return Object.is(a, b);
  return typeof b === 'object' && a.length === b.length && a.every((v, i) => Object.is(v, b[i]));
}
