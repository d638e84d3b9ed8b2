/**
 * Gradient checkpointing as a graph transform (arXiv 1604.06174).
 *
 * Backward nodes that read a value from inside a checkpoint block are given a recomputed clone of it instead. Clones
 * carry the tag `recompute`, which is part of their identity, and an infinite `order`, so the schedule places them just
 * before their first reader. What crosses a block's border is kept. The clones are the same ops on the same bits (fusion
 * of forward nodes happened before), so losses are bit-identical and only memory and time change.
 *
 * Policies: `none`; `block` recomputes everything inside a block; `smart` also keeps outputs of ops marked
 * `recompute: 'keep'` (attention's O and log-sum-exp); `light` keeps all but outputs of ops marked `recompute: 'cheap'`
 * (norms, activations, rotations): a few reads and writes more instead of a third of the memory. The block's last projection is never recomputed under either,
 * since nothing in the backward pass reads it.
 */
import { LATEST, makeNode, TensorTable, type Graph } from '../graph/trace';
import { typesOf, type Node, type Tensor } from '../graph/tensor';
import { cloneNode, Rewriter } from '../passes/rewrite';

export type CheckpointPolicy = 'none' | 'light' | 'smart' | 'block';

/** @param graph without dead nodes (`dce`) */
export function checkpoint(graph: Graph, policy: CheckpointPolicy): Graph {
  if (policy === 'none' || graph.nodes.every((n) => n.block === '')) return graph;
  const keep = keptTensors(graph, policy);
  const clones = new TensorTable<Node>(graph.nodes);

  /** What a node that runs later reads instead of `inputs`; themselves when all of them are kept. */
  const recomputed = (inputs: readonly Tensor[]): readonly Tensor[] => {
    let changed: Tensor[] | null = null;
    for (let i = 0; i < inputs.length; i++) {
      const t = inputs[i];
      const { node } = t;
      if (node.kind !== 'op' || node.phase !== 'forward' || node.block === '' || keep.get(t)) continue;
      (changed ??= [...inputs])[i] = clone(node).outputs[t.index];
    }
    return changed ?? inputs;
  };
  // Blocks are a few dozen nodes deep, so recursion is bounded by one block.
  const clone = (node: Node): Node => {
    const known = clones.get(node);
    if (known) return known;
    const { op, attributes, where, block, outputs } = node;
    const inputs = recomputed(node.inputs);
    const made = makeNode({
      op: op!,
      inputs,
      attributes,
      types: typesOf(outputs),
      where,
      phase: 'recompute',
      block,
      order: LATEST,
      recompute: block,
    });
    clones.set(node, made);
    return made;
  };

  const rewriter = new Rewriter(graph);
  for (const node of graph.nodes) {
    if (node.kind !== 'op' || node.phase === 'forward') continue;
    const inputs = recomputed(node.inputs);
    if (inputs !== node.inputs) rewriter.replaceAll(node, cloneNode(node, inputs));
  }
  return rewriter.finish();
}

/** Values that stay in memory: those read by another block or outside of any, and what the policy keeps. */
function keptTensors(graph: Graph, policy: CheckpointPolicy): TensorTable<true> {
  const keep = new TensorTable<true>(graph.nodes);
  for (const node of graph.nodes) {
    if (node.kind !== 'op' || node.phase !== 'forward') continue;
    const { inputs, outputs } = node;
    for (let i = 0; i < inputs.length; i++) if (inputs[i].node.block !== node.block) keep.set(inputs[i], true);
    const kept =
      policy === 'light' ? node.op!.recompute !== 'cheap' : policy === 'smart' && node.op!.recompute === 'keep';
    if (kept) for (let i = 0; i < outputs.length; i++) keep.set(outputs[i], true);
  }
  for (const t of graph.outputs.values()) keep.set(t, true);
  return keep;
}
