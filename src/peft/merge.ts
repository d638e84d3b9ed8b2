/**
 * Merging: the dense weight that a linear layer with active LoRA pairs computes, W + sum of scaling * B A.
 *
 * The idea: everything in fp32, whatever W is stored as (bf16, or 4-bit parts, which are dequantised first), and one
 * rounding at the end. Merging into 4-bit codes instead would round the small update away.
 * Source: LoRA, arXiv 2106.09685, section 4.1.
 */
import type { DType } from '../graph/dtype';
import type { Tensor } from '../graph/tensor';
import { readState } from '../graph/trace';
import type { Linear } from '../nn/layers';
import { cast } from '../ops/elementwise';
import { matmul } from '../ops/matmul';

/** True when a linear's weight differs from what it computes. */
export function hasActivePairs(linear: Linear): boolean {
  return linear.lowRank.some((pair) => pair.active);
}

/** The weight with its active pairs folded in, in the stored layout, as `dtype`. Inside a trace. */
export function mergedWeight(linear: Linear, dtype: DType): Tensor {
  let weight = cast(linear.weight.read('f32'), 'f32');
  for (const { a, b, scaling, active } of linear.lowRank) {
    if (!active) continue;
    const [A, B] = [readState(a.slot()), readState(b.slot())];
    const o = { alpha: scaling, addend: weight, compute: 'f32', dtype: 'f32' } as const;
    weight = linear.layout === 'out_in' ? matmul(B, A, o) : matmul(A, B, { ...o, transA: true, transB: true });
  }
  return cast(weight, dtype);
}
