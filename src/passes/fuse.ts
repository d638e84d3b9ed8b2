/**
 * Fusion. Forward nodes are only changed in a way that keeps every bit (the loss is taken from the gradient op that
 * computes it anyway), so recomputation reproduces them; sums in the backward pass become terms and addends of one matmul.
 * (A 4-bit weight is folded into its matmul when that is traced: ops/matmul.ts.)
 *
 * | rule | before | after |
 * |---|---|---|
 * | loss | linear_cross_entropy beside its grad | the grad's outputs |
 * | scale | scale(matmul) | matmul with alpha |
 * | terms | add(matmul, matmul) | matmul with more terms |
 * | addend | add(f(...), t), f has an `addend` attribute | f(..., t) |
 */
import type { Graph } from '../graph/trace';
import { sameType, type Node, type Tensor } from '../graph/tensor';
import { MAX_TERMS } from '../ops/matmul';
import { countUses, nodeLike, Rewriter } from './rewrite';

export function fuse(graph: Graph): Graph {
  const rewriter = new Rewriter();
  fuseLoss(graph, rewriter);
  const uses = countUses(graph);
  // Terms before addends: a sum of matmuls is one GEMM; what is left over becomes its addend.
  fuseSums(graph, intoTerms, rewriter, uses);
  fuseSums(graph, intoAddend, rewriter, uses);
  return rewriter.finish(graph);
}

/** Where a loss and its gradient are both computed, the gradient op gives the loss too. */
function fuseLoss(graph: Graph, rewriter: Rewriter): void {
  const key = ({ inputs, attributes: a }: Node): string => [...inputs.slice(0, 3).map((t) => `${t.node.id}.${t.index}`), a.logit_scale, a.softcap].join();
  const grads = new Map(graph.nodes.filter((n) => n.op?.name === 'linear_cross_entropy_grad').map((n) => [key(n), n]));
  for (const node of graph.nodes) {
    const grad = node.op?.name === 'linear_cross_entropy' ? grads.get(key(node)) : undefined;
    // The cotangent must not depend on the loss itself: it does not for a sum, it does for a preference loss.
    if (grad && !dependsOn(grad.inputs[3].node, node, (t) => t)) node.outputs.forEach((t, i) => rewriter.replace(t, grad.outputs[i]));
  }
}

/** Whether `node` needs `target`, as far as tensors are replaced by then. */
function dependsOn(node: Node, target: Node, resolve: Resolve): boolean {
  // A node is made after its inputs, so ids below the target's cannot depend on it; unless it is a loss's gradient, which
  // stands for the older loss.
  const oldest = target.op?.name === 'linear_cross_entropy_grad' ? 0 : target.id;
  if (node !== target && node.id < oldest) return false;
  const seen = new Set<Node>();
  const stack = [node];
  while (stack.length) {
    const n = stack.pop()!;
    if (n === target) return true;
    if (n.id < oldest || seen.has(n)) continue;
    seen.add(n);
    for (const t of n.inputs) stack.push(resolve(t).node);
  }
  return false;
}

type Resolve = (t: Tensor) => Tensor;
type SumRule = (node: Node, inputs: readonly Tensor[], uses: ReadonlyMap<Tensor, number>, resolve: Resolve) => Rewrite | null;

/** Applies a rule to every backward and update node in order; inputs are seen as rewritten so far, so chains collapse. */
function fuseSums(graph: Graph, rule: SumRule, rewriter: Rewriter, uses: Map<Tensor, number>): void {
  const resolve: Resolve = (t) => rewriter.resolve(t);
  for (const node of graph.nodes) {
    // Both rules are about sums; scale_by and the others stay.
    if ((node.phase !== 'backward' && node.phase !== 'update') || (node.op?.name !== 'add' && node.op?.name !== 'scale')) continue;
    if (rewriter.resolve(node.outputs[0]) !== node.outputs[0]) continue;
    const rewrite = rule(node, node.inputs.map(resolve), uses, resolve);
    if (!rewrite) continue;
    const result = rewrite.node.outputs[rewrite.output];
    uses.set(result, uses.get(node.outputs[0]) ?? 0);
    rewriter.replace(node.outputs[0], result);
    // The other outputs of a node that took an addend live on in its replacement.
    rewrite.absorbed?.outputs.forEach((t, i) => {
      if (i === rewrite.output) return;
      uses.set(rewrite.node.outputs[i], uses.get(t) ?? 0);
      rewriter.replace(t, rewrite.node.outputs[i]);
    });
  }
}

interface Rewrite {
  node: Node;
  /** Which output of `node` stands for the sum. */
  output: number;
  /** The node with several outputs that `node` replaces. */
  absorbed?: Node;
}

function isSingle(t: Tensor, uses: ReadonlyMap<Tensor, number>): boolean {
  return uses.get(t) === 1 && t.node.phase === 'backward';
}

function scaleIntoMatmul(node: Node, x: Tensor, uses: ReadonlyMap<Tensor, number>): Rewrite | null {
  const inner = x.node;
  if (!isSingle(x, uses) || inner.op?.name !== 'matmul' || inner.attributes.bias || inner.attributes.addend) return null;
  const alpha = (inner.attributes.alpha as number) * (node.attributes.factor as number);
  return { node: nodeLike(inner, inner.op, inner.inputs, { ...inner.attributes, alpha }), output: 0 };
}

const intoTerms: SumRule = (node, [a, b], uses) => {
  if (node.op?.name === 'scale') return scaleIntoMatmul(node, a, uses);
  if (node.op?.name !== 'add' || a === b || !isSingle(a, uses) || !isSingle(b, uses)) return null;
  const merged = mergeTerms(a, b);
  return merged && { node: merged, output: 0 };
};

const intoAddend: SumRule = (node, [a, b], uses, resolve) => {
  if (node.op?.name !== 'add' || a === b) return null;
  return withAddend(a, b, uses, resolve) ?? withAddend(b, a, uses, resolve);
};

function mergeTerms(a: Tensor, b: Tensor): Node | null {
  const [x, y] = [a.node, b.node];
  if (x.op?.name !== 'matmul' || y.op?.name !== 'matmul' || !sameType(a.type, b.type)) return null;
  const [p, q] = [x.attributes, y.attributes];
  if (p.alpha !== 1 || q.alpha !== 1 || p.bias || q.bias || p.addend || q.addend || p.compute !== q.compute) return null;
  if ((p.quant as number[]).length + (q.quant as number[]).length > MAX_TERMS) return null;
  const lists = Object.fromEntries(['trans_a', 'trans_b', 'quant', 'rows', 'cols'].map((key) => [key, [...(p[key] as number[]), ...(q[key] as number[])]]));
  const later = x.order > y.order ? x : y;
  return nodeLike(later, later.op!, [...x.inputs, ...y.inputs], { ...p, ...lists });
}

/** The output that an op's addend is added to; -1 when it takes none. */
function addendOutput(node: Node): number {
  if (node.attributes.addend !== 0) return -1;
  return node.op!.name === 'linear_cross_entropy_grad' ? 4 : 0;
}

function withAddend(x: Tensor, addend: Tensor, uses: ReadonlyMap<Tensor, number>, resolve: Resolve): Rewrite | null {
  if (!isSingle(x, uses) || addendOutput(x.node) !== x.index || !sameType(x.type, addend.type)) return null;
  if (addend.node !== x.node && dependsOn(addend.node, x.node, resolve)) return null;
  if (addend.node === x.node) return null;
  const node = nodeLike(x.node, x.node.op!, [...x.node.inputs, addend], { ...x.node.attributes, addend: 1 });
  return { node, output: x.index, absorbed: x.node };
}
