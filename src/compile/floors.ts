/**
 * What the speed of a device allows: tokens per second of a program, by arithmetic, by memory traffic, and node by node.
 *
 * Floors, not predictions: launches, latencies and imperfect kernels come on top. `sustained` figures of the device
 * (devices.ts) are used, so a real run can come close to the node-by-node floor and cannot pass the first two.
 */
import type { DeviceSpec } from '../graph/device';
import type { Program } from './program';

export interface SpeedFloors {
  /** Of one run of the program, per token; recomputation included. */
  readonly flopsPerToken: number;
  readonly bytesPerToken: number;
  /** Tokens per second if only arithmetic took time, if only traffic did, and if every node took the longer of its two; 0 when unknown. */
  readonly byFlops: number;
  readonly byBytes: number;
  readonly byNode: number;
}

/** `program` works on `tokens` tokens, in as many documents as it has room for, all of one length. */
export function speedFloors(program: Program, device: DeviceSpec, o: { readonly tokens: number }): SpeedFloors {
  let [flops, bytes, seconds] = [0, 0, 0];
  for (const node of program.nodes) {
    const cost = node.op!.cost(
      node.inputs.map((t) => t.type),
      node.attributes,
    );
    flops += cost.flops;
    bytes += cost.bytes;
    if (device.flops && device.bandwidth) seconds += Math.max(cost.flops / device.flops, cost.bytes / device.bandwidth);
  }
  return {
    flopsPerToken: flops / o.tokens,
    bytesPerToken: bytes / o.tokens,
    byFlops: device.flops ? (device.flops * o.tokens) / flops : 0,
    byBytes: device.bandwidth ? (device.bandwidth * o.tokens) / bytes : 0,
    byNode: seconds ? o.tokens / seconds : 0,
  };
}
