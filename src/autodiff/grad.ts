/**
 * Reverse-mode differentiation as a walk over the traced nodes.
 *
 * Only nodes on a path from a wanted tensor to the loss are visited, so a frozen weight gets no gradient by
 * construction. Cotangents of a tensor with several users are summed in reverse order of use. New nodes carry
 * phase 'backward' and the path of the node they differentiate.
 */
import { LatheError } from '../errors';
import { add, fill } from '../ops/elementwise';
import { atNode, inPhase } from '../graph/trace';
import type { Node, Tensor } from '../graph/tensor';

/**
 * Gradients of a scalar loss `[1]` with respect to `wanted`, inside the current trace.
 * A tensor that the loss does not depend on gets an error: an adapter that would do nothing is a mistake.
 */
export function gradients(loss: Tensor, wanted: readonly Tensor[]): Tensor[] {
  if (loss.shape.length !== 1 || loss.shape[0] !== 1) {
    throw new LatheError(
      'ERR_SHAPE',
      `gradients expected a scalar loss of shape [1], received [${loss.shape.join(', ')}]`,
    );
  }
  const path = nodesOnPath(loss.node, new Set(wanted));
  const cotangents = new Map<Tensor, Tensor[]>();
  const wantedSet = new Set(wanted);
  inPhase('backward', () => {
    cotangents.set(loss, [fill(loss.type, 1)]);
    for (const node of path.order) visit(node, cotangents, wantedSet, path.dependent);
  });
  return wanted.map((t) => {
    const parts = cotangents.get(t);
    if (!parts?.length) {
      throw new LatheError('ERR_TRACE', `the loss does not depend on ${t.node.where || 'a wanted tensor'}`, {
        remedy: 'remove it from the trainable parameters',
      });
    }
    return inPhase('backward', () => atNode(t.node, () => total(parts)));
  });
}

/** Tensors that depend on a wanted one, and the nodes between them and the loss in reverse order. */
function nodesOnPath(root: Node, wanted: ReadonlySet<Tensor>): { order: Node[]; dependent: Set<Tensor> } {
  const reached = new Set<Node>([root]);
  // A set's loop also visits what is added to it meanwhile.
  for (const { inputs } of reached) for (let i = 0; i < inputs.length; i++) reached.add(inputs[i].node);
  const dependent = new Set<Tensor>(wanted);
  const order: Node[] = [];
  for (const node of [...reached].sort((a, b) => a.id - b.id)) {
    if (node.kind !== 'op' || !node.inputs.some((t) => dependent.has(t))) continue;
    for (const t of node.outputs) dependent.add(t);
    order.push(node);
  }
  return { order: order.reverse(), dependent };
}

function visit(
  node: Node,
  cotangents: Map<Tensor, Tensor[]>,
  wanted: ReadonlySet<Tensor>,
  dependent: ReadonlySet<Tensor>,
): void {
  const { inputs, outputs, attributes } = node;
  if (!outputs.some((t) => cotangents.has(t))) return;
  const vjp = node.op!.vjp;
  if (!vjp) throw new LatheError('ERR_UNSUPPORTED', `op '${node.op!.name}' has no gradient`, { at: node.where });
  const grads = atNode(node, () =>
    vjp({
      inputs,
      outputs,
      attributes,
      cotangents: outputs.map((t) => {
        const parts = cotangents.get(t);
        return parts ? total(parts) : null;
      }),
      needs: (i) => dependent.has(inputs[i]),
    }),
  );
  // A cotangent is used up here, unless the caller asked for it.
  for (const t of outputs) if (!wanted.has(t)) cotangents.delete(t);
  for (let i = 0; i < grads.length; i++) {
    const g = grads[i];
    const x = inputs[i];
    if (!g || !dependent.has(x)) continue;
    const list = cotangents.get(x);
    if (list) list.push(g);
    else cotangents.set(x, [g]);
  }
}

function total(parts: readonly Tensor[]): Tensor {
  return parts.length === 1 ? parts[0] : parts.reduce((a, b) => add(a, b));
}
