/** Prints a graph as text: one line per node, names stable across runs, used by goldens and by people. */
import type { Graph } from './trace';
import type { Attribute, Node, Tensor, TensorType } from './tensor';

export function printType(type: TensorType): string {
  return `${type.dtype}[${type.shape.join(',')}]`;
}

function printAttribute(value: Attribute): string {
  if (typeof value === 'number')
    return Number.isInteger(value) ? String(value) : value.toPrecision(9).replace(/\.?0+($|e)/, '$1');
  if (typeof value === 'string') return value;
  return value.length > 8 ? `[${value.length} numbers]` : `[${value.map(printAttribute).join(',')}]`;
}

/** Text form of a list of nodes; `%n` numbers count from the first node printed. */
export function printNodes(nodes: readonly Node[], graph: Pick<Graph, 'outputs' | 'updates'>): string {
  const names = new Map<Tensor, string>();
  const name = (t: Tensor): string => {
    const { node } = t;
    if (node.kind === 'input') return `$${node.input!.name}`;
    if (node.kind === 'state') return `@${node.slot!.name}`;
    // A view stands for what it shows when the views themselves are not printed.
    if (!names.has(t) && node.op?.view) return name(node.inputs[0]);
    return names.get(t) ?? `%${node.kind}`;
  };
  const lines: string[] = [];
  let count = 0;
  for (const node of nodes) {
    if (node.kind === 'input' || node.kind === 'state') continue;
    for (const out of node.outputs) names.set(out, `%${count++}`);
    if (node.kind !== 'op') {
      if (node.kind === 'constant')
        lines.push(`${name(node.outputs[0])}: ${printType(node.outputs[0].type)} = constant`);
      continue;
    }
    const attributes = Object.entries(node.attributes).map(([k, v]) => `${k}=${printAttribute(v)}`);
    const outs = node.outputs.map((t) => `${name(t)}: ${printType(t.type)}`).join(', ');
    const tag = node.phase === 'forward' ? '' : ` !${node.phase}`;
    lines.push(
      `${outs} = ${node.op!.name}(${node.inputs.map(name).join(', ')})` +
        `${attributes.length ? ` {${attributes.join(' ')}}` : ''}${node.where ? ` # ${node.where}` : ''}${tag}`,
    );
  }
  for (const { slot, value } of graph.updates) lines.push(`update @${slot.name} <- ${name(value)}`);
  for (const [key, value] of graph.outputs) lines.push(`output ${key} = ${name(value)}`);
  return lines.join('\n') + '\n';
}

export function printGraph(graph: Graph): string {
  return `graph ${graph.name}\n${printNodes(graph.nodes, graph)}`;
}
