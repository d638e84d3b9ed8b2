/**
 * Where a parameter's value comes from, as something a load program can trace: a range of a file plus what to undo
 * on the way in. Nothing is read here; the session maps the bytes and the ops cast, un-permute and quantise them.
 */
import { LatheError, formatShape } from '../errors';
import type { DType } from '../graph/dtype';
import type { StateSlot, Tensor } from '../graph/tensor';
import { elementCount } from '../graph/tensor';
import { constant, input } from '../graph/trace';
import type { GgufTensor } from '../io/gguf/llama';
import type { TensorSource } from '../io/tensor-source';
import { add, cast, fill } from '../ops/elementwise';
import { gatherRows, reshape } from '../ops/movement';
import { dequantizeGgml } from '../ops/quant';

const PLAIN: Record<string, DType> = { F32: 'f32', F16: 'f16', BF16: 'bf16' };

/** A parameter's value on disk. */
export type WeightSource =
  | { kind: 'tensor'; source: TensorSource; permuteHeads?: number; subtractOne?: true }
  /** bitsandbytes 4-bit parts, already in the slots' own form. */
  | { kind: 'parts'; parts: readonly { source: TensorSource }[]; nestedOffset: number | null };

export function fromSafetensors(source: TensorSource): WeightSource {
  return { kind: 'tensor', source };
}

export function fromGguf(t: GgufTensor): WeightSource {
  return { kind: 'tensor', source: t.source, permuteHeads: t.permuteHeads, subtractOne: t.subtractOne };
}

/** File ranges that a load program's inputs are bound to. */
export type FileBindings = Record<string, { path: string; offset: number; byteLength: number }>;

/** Traces the value of a plain tensor source in its stored float type, or as f32 when it was block-quantised. */
export function traceSource(w: Extract<WeightSource, { kind: 'tensor' }>, name: string, bindings: FileBindings): Tensor {
  const { source } = w;
  const { path, offset, byteLength, shape } = source;
  const inputName = `file:${name}`;
  bindings[inputName] = { path, offset, byteLength };
  const plain = PLAIN[source.dtype];
  let value: Tensor;
  if (plain) {
    value = input(inputName, shape, plain, true);
  } else {
    const cols = shape[shape.length - 1];
    const rows = elementCount(shape) / cols;
    value = dequantizeGgml(input(inputName, [byteLength], 'u8', true), source.dtype, rows, cols, 'f32');
    if (shape.length !== 2) value = reshape(value, shape);
  }
  if (w.permuteHeads) value = gatherRows(value.dtype === 'f16' ? cast(value, 'f32') : value, unpermutedRows(shape[0], w.permuteHeads));
  if (w.subtractOne) value = add(cast(value, 'f32'), fill({ shape, dtype: 'f32' }, -1));
  return value;
}

/** llama.cpp interleaves the rotary halves of q and k: stored row (h, i, half) holds row (h, half, i). */
function unpermutedRows(rows: number, heads: number): Tensor {
  const dim = rows / heads;
  const index = new Int32Array(rows);
  for (let h = 0; h < heads; h++) {
    for (let half = 0; half < 2; half++) for (let i = 0; i < dim / 2; i++) index[h * dim + half * (dim / 2) + i] = h * dim + i * 2 + half;
  }
  return constant(new Uint8Array(index.buffer), [rows], 'i32');
}

/** Fails unless a source has the shape its parameter expects. */
export function checkShape(name: string, source: TensorSource, shape: readonly number[]): void {
  if (source.shape.length === shape.length && source.shape.every((dim, i) => dim === shape[i])) return;
  throw new LatheError('ERR_CHECKPOINT', `tensor '${name}' expected shape ${formatShape(shape)}, received ${formatShape(source.shape)}`, {
    at: source.path,
    remedy: 'the weights do not belong to this config.json',
  });
}

/** The bytes of a slot's dtype straight from a file. */
export function traceRaw(source: TensorSource, slot: StateSlot, bindings: FileBindings): Tensor {
  const inputName = `file:${slot.name}`;
  bindings[inputName] = { path: source.path, offset: source.offset, byteLength: source.byteLength };
  return input(inputName, slot.shape, slot.dtype, true);
}
