/**
 * Program: what `compile` makes of a graph. The bytes go to the engine; the rest is what the plan and people need.
 */
import type { Node, StateSlot, TensorType } from '../graph/tensor';

export interface LiveTensor {
  /** Module path. */
  readonly where: string;
  readonly op: string;
  readonly type: TensorType;
  readonly bytes: number;
}

export interface Program {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly inputs: readonly { name: string; type: TensorType; external: boolean }[];
  readonly outputs: readonly { name: string; type: TensorType }[];
  /** Every state slot the program touches. */
  readonly states: readonly StateSlot[];
  readonly arenaBytes: number;
  readonly scratchBytes: number;
  /** Scratch of the head's logits, part of scratchBytes' maximum when it dominates. */
  readonly logitsBytes: number;
  /** Arena tensors alive at the fullest point, largest first. */
  readonly liveAtPeak: readonly LiveTensor[];
  /** Attention counted for as many documents as fit, all of one length. */
  readonly flops: number;
  /** Attention's part of `flops`. */
  readonly attentionFlops: number;
  readonly nodes: readonly Node[];
}
