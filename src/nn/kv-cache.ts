/**
 * KV cache: state slots per layer that prefill writes and decode reads. Rows are flat, `[B * S, G*K]`: sequence b owns
 * rows b*S .. b*S + S - 1.
 */
import type { DType } from '../graph/dtype';
import type { StateSlot, Tensor } from '../graph/tensor';
import { readState, updateState } from '../graph/trace';
import { attention, attentionDecode, type AttentionShape } from '../ops/attention';
import { cacheWrite, reshape } from '../ops/movement';

export interface KvCacheShape {
  readonly layers: number;
  readonly batch: number;
  /** Rows per sequence. */
  readonly length: number;
  /** kv_heads * head_dim. */
  readonly width: number;
  readonly dtype: DType;
  /** Prefix of the slots' names, to tell apart caches that a session holds at the same time. Default 'kv_cache'. */
  readonly name?: string;
}

/** Slots of one layer's keys and values. */
export function cacheSlots(shape: KvCacheShape, layer: number): { k: StateSlot; v: StateSlot } {
  const slot = (part: string): StateSlot => ({
    name: `${shape.name ?? 'kv_cache'}.${layer}.${part}`,
    shape: [shape.batch * shape.length, shape.width],
    dtype: shape.dtype,
    role: 'kv_cache',
  });
  return { k: slot('k'), v: slot('v') };
}

export function allCacheSlots(shape: KvCacheShape): StateSlot[] {
  return Array.from({ length: shape.layers }, (_, i) => Object.values(cacheSlots(shape, i))).flat();
}

/** How a traced forward pass uses the cache. */
export interface CacheUse {
  readonly shape: KvCacheShape;
  /** Cache row of every token, i32 `[T]`; -1 for padding. */
  readonly rows: Tensor;
  /** Decode only: visible rows per sequence after this token, i32 `[B]`. */
  readonly lengths?: Tensor;
}

/** Documents of a batch: offsets for ordinary attention, or a cache. */
export interface AttentionInputs {
  /** i32 `[S+1]`; null when decoding. */
  readonly cuSeqlens: Tensor | null;
  readonly cache?: CacheUse;
}

/** Attention over the batch itself, writing the cache if there is one, or over the cache when decoding. */
export function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  shape: AttentionShape,
  layer: number,
  inputs: AttentionInputs,
): Tensor {
  const { cache } = inputs;
  if (!cache) return attention(q, k, v, inputs.cuSeqlens!, shape);
  const slots = cacheSlots(cache.shape, layer);
  const keys = cacheWrite(readState(slots.k), k, cache.rows);
  const values = cacheWrite(readState(slots.v), v, cache.rows);
  updateState(slots.k, keys);
  updateState(slots.v, values);
  if (!cache.lengths) return attention(q, k, v, inputs.cuSeqlens!, shape);
  const { batch, length, width } = cache.shape;
  return attentionDecode(
    q,
    reshape(keys, [batch, length, width]),
    reshape(values, [batch, length, width]),
    cache.lengths,
    shape,
  );
}
