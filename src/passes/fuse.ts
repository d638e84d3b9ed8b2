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
import type { Graph, TensorTable } from '../graph/trace';
import { sameType, typesOf, type Attributes, type Node, type Tensor } from '../graph/tensor';
import { elementwiseOps } from '../ops/elementwise';
import { matmulOps, MAX_TERMS } from '../ops/matmul';
import { dce } from './dce';
import { countUses, nodeLike, Rewriter } from './rewrite';

const { add: ADD, scale: SCALE } = elementwiseOps;
const MATMUL = matmulOps.matmul;

export function fuse(traced: Graph): Graph {
  // A dead node would count as a user.
  const graph = dce(traced);
  const rewriter = new Rewriter(graph);
  fuseLoss(graph, rewriter);
  // Both rules are about sums in the backward pass; scale_by and the others stay.
  const sums = graph.nodes.filter(
    (n) => (n.op === ADD || n.op === SCALE) && (n.phase === 'backward' || n.phase === 'update'),
  );
  if (sums.length) new SumFusion(graph, rewriter).run(sums);
  return rewriter.finish();
}

/** Where a loss and its gradient are both computed, the gradient op gives the loss too. */
function fuseLoss(graph: Graph, rewriter: Rewriter): void {
  const key = ({ inputs, attributes: a }: Node): string =>
    [...inputs.slice(0, 3).map((t) => `${t.node.id}.${t.index}`), a.logit_scale, a.softcap].join();
  const grads = new Map(graph.nodes.filter((n) => n.op?.name === 'linear_cross_entropy_grad').map((n) => [key(n), n]));
  for (const node of graph.nodes) {
    const grad = node.op?.name === 'linear_cross_entropy' ? grads.get(key(node)) : undefined;
    // The cotangent must not depend on the loss itself: it does not for a sum, it does for a preference loss.
    if (grad && !dependsOn(grad.inputs[3].node, node, (t) => t))
      node.outputs.forEach((t, i) => rewriter.replace(t, grad.outputs[i]));
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
    for (let i = 0; i < n.inputs.length; i++) stack.push(resolve(n.inputs[i]).node);
  }
  return false;
}

type Resolve = (t: Tensor) => Tensor;

interface Rewrite {
  node: Node;
  /** Which output of `node` stands for the sum. */
  output: number;
  /** The node with several outputs that `node` replaces. */
  absorbed?: Node;
}

class SumFusion {
  private readonly uses: TensorTable<number>;
  private readonly resolve: Resolve = (t) => this.rewriter.resolve(t);
  /** Attributes derived from others. Layers share theirs, and so do the nodes that are made of them here. */
  private readonly withAddendOf = new Map<Attributes, Attributes>();
  private readonly merged = new Map<Attributes, Map<Attributes, Attributes>>();

  constructor(
    graph: Graph,
    private readonly rewriter: Rewriter,
  ) {
    this.uses = countUses(graph);
  }

  run(sums: readonly Node[]): void {
    // Terms before addends: a sum of matmuls is one GEMM; what is left over becomes its addend.
    for (const node of sums)
      this.replace(node, (a, b) => (node.op === SCALE ? this.scaled(node, a) : this.terms(a, b)));
    for (const node of sums) if (node.op === ADD) this.replace(node, (a, b) => this.addend(a, b) ?? this.addend(b, a));
  }

  /** Applies a rule to a node; its inputs are seen as rewritten so far, so chains collapse. */
  private replace(node: Node, rule: (a: Tensor, b: Tensor) => Rewrite | null): void {
    const { rewriter, uses } = this;
    const [sum] = node.outputs;
    if (rewriter.resolve(sum) !== sum) return;
    const [a, b = a] = node.inputs;
    const rewrite = rule(rewriter.resolve(a), rewriter.resolve(b));
    if (!rewrite) return;
    const { outputs } = rewrite.node;
    uses.set(outputs[rewrite.output], uses.get(sum) ?? 0);
    rewriter.replace(sum, outputs[rewrite.output]);
    // The other outputs of a node that took an addend live on in its replacement.
    rewrite.absorbed?.outputs.forEach((t, i) => {
      if (i === rewrite.output) return;
      uses.set(outputs[i], uses.get(t) ?? 0);
      rewriter.replace(t, outputs[i]);
    });
  }

  private isSingle(t: Tensor): boolean {
    return t.node.phase === 'backward' && this.uses.get(t) === 1;
  }

  private scaled(node: Node, x: Tensor): Rewrite | null {
    const inner = x.node;
    if (inner.op !== MATMUL || !this.isSingle(x) || inner.attributes.bias || inner.attributes.addend) return null;
    const alpha = (inner.attributes.alpha as number) * (node.attributes.factor as number);
    return { node: nodeLike(inner, inner.inputs, { ...inner.attributes, alpha }, [x.type]), output: 0 };
  }

  private terms(a: Tensor, b: Tensor): Rewrite | null {
    const [x, y] = [a.node, b.node];
    if (
      a === b ||
      x.op !== MATMUL ||
      y.op !== MATMUL ||
      !this.isSingle(a) ||
      !this.isSingle(b) ||
      !sameType(a.type, b.type)
    )
      return null;
    const attributes = this.mergedAttributes(x.attributes, y.attributes);
    if (!attributes) return null;
    const later = x.order > y.order ? x : y;
    return { node: nodeLike(later, [...x.inputs, ...y.inputs], attributes, [a.type]), output: 0 };
  }

  private mergedAttributes(p: Attributes, q: Attributes): Attributes | null {
    if (p.alpha !== 1 || q.alpha !== 1 || p.bias || q.bias || p.addend || q.addend || p.compute !== q.compute)
      return null;
    if ((p.quant as number[]).length + (q.quant as number[]).length > MAX_TERMS) return null;
    let byOther = this.merged.get(p);
    if (!byOther) this.merged.set(p, (byOther = new Map<Attributes, Attributes>()));
    let made = byOther.get(q);
    if (!made) {
      const lists = Object.fromEntries(
        ['trans_a', 'trans_b', 'quant', 'rows', 'cols'].map((key) => [
          key,
          [...(p[key] as number[]), ...(q[key] as number[])],
        ]),
      );
      byOther.set(q, (made = { ...p, ...lists }));
    }
    return made;
  }

  private addend(x: Tensor, addend: Tensor): Rewrite | null {
    const { node } = x;
    if (addend.node === node || addendOutput(node) !== x.index || !this.isSingle(x) || !sameType(x.type, addend.type))
      return null;
    if (dependsOn(addend.node, node, this.resolve)) return null;
    let attributes = this.withAddendOf.get(node.attributes);
    if (!attributes) this.withAddendOf.set(node.attributes, (attributes = { ...node.attributes, addend: 1 }));
    return {
      node: nodeLike(node, [...node.inputs, addend], attributes, typesOf(node.outputs)),
      output: x.index,
      absorbed: node,
    };
  }
}

/** The output that an op's addend is added to; -1 when it takes none. */
function addendOutput(node: Node): number {
  if (node.attributes.addend !== 0) return -1;
  return node.op!.name === 'linear_cross_entropy_grad' ? 4 : 0;
}
