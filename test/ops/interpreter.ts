/**
 * The reference interpreter: evaluates a traced graph in f64 by each op's `reference`.
 *
 * It knows nothing of order, storage, fusion or devices, so it is what compiled programs are compared with. With
 * `round`, every op's outputs are rounded to their dtype, as a backend must store them; without, all is f64, which is
 * what finite differences need.
 */
import type { NdArray } from '../../src/graph/op-def';
import type { Node, Tensor } from '../../src/graph/tensor';
import type { Graph } from '../../src/graph/trace';
import { fromBytes, ROUND, toNumbers } from './case';

export interface Evaluation {
  readonly outputs: ReadonlyMap<string, NdArray>;
  /** New values of the state slots that the graph updates. */
  readonly updates: ReadonlyMap<string, NdArray>;
  value(t: Tensor): NdArray;
}

/** @param leaves values of inputs and state slots by name */
export function evaluate(
  graph: Graph,
  leaves: ReadonlyMap<string, NdArray>,
  options: { round?: boolean } = {},
): Evaluation {
  const values = new Map<Tensor, NdArray>();
  const value = (t: Tensor): NdArray => {
    const found = values.get(t);
    if (!found) throw new Error(`${t.node.op?.name ?? t.node.kind} was not evaluated`);
    return found;
  };
  for (const node of graph.nodes) {
    const results = node.kind === 'op' ? applyOp(node, node.inputs.map(value)) : [leaf(node, leaves)];
    node.outputs.forEach((t, i) => {
      const result = results[i];
      if (result.data.length !== t.shape.reduce((a, b) => a * b, 1))
        throw new Error(`${node.op?.name ?? node.kind} gave ${result.data.length} values for [${t.shape.join()}]`);
      values.set(t, options.round ? { shape: t.shape, data: result.data.map(ROUND[t.dtype]) } : result);
    });
  }
  return {
    outputs: new Map([...graph.outputs].map(([name, t]) => [name, value(t)])),
    updates: new Map(graph.updates.map((u) => [u.slot.name, value(u.value)])),
    value,
  };
}

function applyOp(node: Node, x: NdArray[]): NdArray[] {
  const { reference } = node.op!;
  if (!reference) throw new Error(`op '${node.op!.name}' has no reference`);
  return reference(
    x,
    node.attributes,
    node.outputs.map((t) => t.type),
  );
}

function leaf(node: Node, leaves: ReadonlyMap<string, NdArray>): NdArray {
  const { shape, dtype } = node.outputs[0];
  if (node.kind === 'constant') return { shape, data: toNumbers(dtype, fromBytes(dtype, node.constant!)) };
  const name = node.kind === 'input' ? node.input!.name : node.slot!.name;
  const found = leaves.get(name);
  if (!found) throw new Error(`no value for ${node.kind} '${name}'`);
  return found;
}
