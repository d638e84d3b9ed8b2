/** Common subexpression elimination. Ops are pure, so equal op, inputs, attributes and recompute tag mean equal values. */
import type { Graph } from '../graph/trace';
import type { Attribute, Attributes, Node, Tensor } from '../graph/tensor';
import { Rewriter } from './rewrite';

export function cse(graph: Graph): Graph {
  /** Kept nodes by the (kept) tensor they read first: few nodes read the same one. */
  const readers = new Map<Tensor, Node[]>();
  const rewriter = new Rewriter();
  for (const node of graph.nodes) {
    // An op without inputs (fill, random) is a few bytes of work; sharing one value between two updates costs a copy.
    if (node.kind !== 'op' || node.inputs.length === 0) continue;
    const first = rewriter.resolve(node.inputs[0]);
    const others = readers.get(first);
    if (!others) {
      readers.set(first, [node]);
      continue;
    }
    const twin = others.find((other) => same(other, node, rewriter));
    if (twin) rewriter.replaceAll(node, twin);
    else others.push(node);
  }
  return rewriter.finish(graph);
}

function same(a: Node, b: Node, rewriter: Rewriter): boolean {
  return (
    a.op === b.op &&
    a.recompute === b.recompute &&
    a.inputs.length === b.inputs.length &&
    a.inputs.every((t, i) => rewriter.resolve(t) === rewriter.resolve(b.inputs[i])) &&
    sameAttributes(a.attributes, b.attributes)
  );
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
