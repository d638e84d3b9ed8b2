/**
 * compile: Graph -> Program, the whole pipeline in the order that docs/architecture.md draws.
 *
 * dce, fuse -> checkpoint -> cse -> schedule (order) -> inplace -> offsets -> verify -> encode.
 * Fusion of forward nodes comes before checkpointing, so a recomputed node is the same op on the same bits.
 */
import { checkpoint, type CheckpointPolicy } from '../autodiff/checkpoint';
import type { DeviceSpec } from '../graph/device';
import type { Graph } from '../graph/trace';
import { typesOf, type StateSlot } from '../graph/tensor';
import { cse } from '../passes/cse';
import { fuse } from '../passes/fuse';
import { inplace, type Placed, type Storage } from '../passes/inplace';
import { verify } from '../passes/verify';
import { encode } from './encode';
import { assignOffsets, type Arena } from './offsets';
import type { LiveTensor, Program } from './program';

export interface CompileOptions {
  device: DeviceSpec;
  checkpoint?: CheckpointPolicy;
}

/** The graph after all transforms, before memory is assigned. */
export function optimize(graph: Graph, policy: CheckpointPolicy = 'none'): Graph {
  return cse(checkpoint(fuse(graph), policy));
}

export function compile(graph: Graph, options: CompileOptions): Program {
  const placed = inplace(optimize(graph, options.checkpoint ?? 'none'));
  const arena = assignOffsets(new Set(placed.storage.values()));
  verify(placed, arena.offsets);
  const scratch: number[] = [];
  let scratchBytes = 0;
  let logitsBytes = 0;
  let flops = 0;
  let attentionFlops = 0;
  for (const { op: def, inputs, attributes } of placed.schedule) {
    const op = def!;
    const types = typesOf(inputs);
    const bytes = op.scratchBytes?.(types, attributes, options.device) ?? 0;
    scratch.push(bytes);
    scratchBytes = Math.max(scratchBytes, bytes);
    if (op.memoryClass === 'logits') logitsBytes = Math.max(logitsBytes, bytes);
    const cost = op.cost(types, attributes).flops;
    flops += cost;
    if (op.name === 'attention' || op.name === 'attention_grad') attentionFlops += cost;
  }
  const layout = { offsets: arena.offsets, arenaBytes: arena.bytes, scratchBytes, scratch };
  return {
    name: graph.name,
    bytes: encode(graph.name, placed, layout),
    inputs: placed.graph.nodes
      .filter((n) => n.kind === 'input')
      .map((n) => ({ name: n.input!.name, type: n.outputs[0].type, external: n.input!.external })),
    outputs: [...placed.graph.outputs].map(([name, t]) => ({ name, type: t.type })),
    states: statesOf(placed),
    arenaBytes: arena.bytes,
    scratchBytes,
    logitsBytes,
    liveAtPeak: liveAtPeak(placed, arena),
    flops,
    attentionFlops,
    nodes: placed.schedule,
  };
}

function statesOf(placed: Placed): StateSlot[] {
  const slots = new Map<string, StateSlot>();
  placed.storage.forEach((s) => s.slot && slots.set(s.slot.name, s.slot));
  return [...slots.values()];
}

/** What lies in the arena when the sum of live bytes is largest. */
function liveAtPeak(placed: Placed, arena: Arena): LiveTensor[] {
  const storages = [...arena.offsets.keys()];
  const delta = new Float64Array(placed.schedule.length + 3);
  for (const s of storages) {
    delta[s.first + 1] += s.bytes;
    delta[s.last + 2] -= s.bytes;
  }
  let live = 0;
  let most = -1;
  let peak = 0;
  delta.forEach((d, i) => {
    live += d;
    if (live > most) [most, peak] = [live, i - 1];
  });
  const alive = (s: Storage): boolean => s.first <= peak && peak <= s.last;
  return storages
    .filter(alive)
    .sort((a, b) => b.bytes - a.bytes)
    .map((s) => ({
      where: s.owner.node.where,
      op: s.owner.node.op?.name ?? s.owner.node.kind,
      type: s.owner.type,
      bytes: s.bytes,
    }));
}
