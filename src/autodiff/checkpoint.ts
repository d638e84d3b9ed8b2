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
import type { Graph } from '../graph/trace';
import type { Node, Tensor } from '../graph/tensor';
import { cloneNode, Rewriter } from '../passes/rewrite';

export type CheckpointPolicy = 'none' | 'light' | 'smart' | 'block';

export function checkpoint(graph: Graph, policy: CheckpointPolicy): Graph {
  if (policy === 'none') return graph;
  const keep = keptTensors(graph, policy);
  const clones = new Map<Node, Node>();

  const recomputed = (t: Tensor): Tensor => {
    const node = t.node;
    if (node.kind !== 'op' || node.phase !== 'forward' || node.block === '' || keep.has(t)) return t;
    return clone(node).outputs[t.index];
  };
  // Blocks are a few dozen nodes deep, so recursion is bounded by one block.
  const clone = (node: Node): Node => {
    const known = clones.get(node);
    if (known) return known;
    const made = cloneNode(node, { inputs: node.inputs.map(recomputed), phase: 'recompute', recompute: node.block, order: Infinity });
    clones.set(node, made);
    return made;
  };

  const rewriter = new Rewriter();
  for (const node of graph.nodes) {
    if (node.kind !== 'op' || node.phase === 'forward') continue;
    const inputs = node.inputs.map(recomputed);
    if (inputs.every((t, i) => t === node.inputs[i])) continue;
    const copy = cloneNode(node, { inputs });
    rewriter.replaceAll(node, copy);
  }
  return rewriter.finish(graph);
}

/** Values that stay in memory: those read by another block or outside of any, and what the policy keeps. */
function keptTensors(graph: Graph, policy: CheckpointPolicy): Set<Tensor> {
  const keep = new Set<Tensor>();
  for (const node of graph.nodes) {
    if (node.kind === 'op' && node.phase === 'forward') {
      for (const t of node.inputs) if (t.node.block !== node.block) keep.add(t);
      const kept = policy === 'light' ? node.op!.recompute !== 'cheap' : policy === 'smart' && node.op!.recompute === 'keep';
      if (kept) for (const t of node.outputs) keep.add(t);
    }
  }
  for (const t of graph.outputs.values()) keep.add(t);
  return keep;
}
