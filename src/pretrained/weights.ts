/**
 * Where a parameter's value comes from, as something a load program can trace: a range of a file plus what to undo
 * on the way in. Nothing is read here; the session maps the bytes and the ops cast, un-permute and quantise them.
 */
import { LatheError, formatShape } from '../errors';
import type { DType } from '../graph/dtype';
import type { StateSlot, Tensor } from '../graph/tensor';
import { elementCount, sameShape, typeBytes } from '../graph/tensor';
import { constant, input } from '../graph/trace';
import type { GgufTensor } from '../io/gguf/llama';
import type { TensorSource } from '../io/tensor-source';
import { Parameter, type QuantFormat } from '../nn/module';
import { add, cast, fill } from '../ops/elementwise';
import { gatherRows, reshape } from '../ops/movement';
import { dequantizeGgml, dequantizeParts, quantCode } from '../ops/quant';
import type { BnbState } from '../quantization/bnb-state';

const PLAIN: Record<string, DType> = { F32: 'f32', F16: 'f16', BF16: 'bf16' };

/** A parameter's value on disk. */
export type WeightSource =
  | { kind: 'tensor'; source: TensorSource; permuteHeads?: number; subtractOne?: true }
  /** bitsandbytes 4-bit parts, already in the slots' own form: packed, absmax (and nested absmax). */
  | { kind: 'parts'; parts: readonly { source: TensorSource }[]; state: BnbState };

export type PlainSource = Extract<WeightSource, { kind: 'tensor' }>;
export type PartsSource = Extract<WeightSource, { kind: 'parts' }>;

export function fromSafetensors(source: TensorSource): WeightSource {
  return { kind: 'tensor', source };
}

export function fromGguf(t: GgufTensor): WeightSource {
  return { kind: 'tensor', source: t.source, permuteHeads: t.permuteHeads, subtractOne: t.subtractOne };
}

/** File ranges that a load program's inputs are bound to. */
export type FileBindings = Record<string, { path: string; offset: number; byteLength: number }>;

/** Traces the value of a plain tensor source in its stored float type, or as f32 when it was block-quantised. */
function traceSource(w: PlainSource, name: string, bindings: FileBindings): Tensor {
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
  if (w.permuteHeads)
    value = gatherRows(value.dtype === 'f16' ? cast(value, 'f32') : value, unpermutedRows(shape[0], w.permuteHeads));
  if (w.subtractOne) value = add(cast(value, 'f32'), fill({ shape, dtype: 'f32' }, -1));
  return value;
}

/** llama.cpp interleaves the rotary halves of q and k: stored row (h, i, half) holds row (h, half, i). */
function unpermutedRows(rows: number, heads: number): Tensor {
  const dim = rows / heads;
  const index = new Int32Array(rows);
  for (let h = 0; h < heads; h++) {
    for (let half = 0; half < 2; half++)
      for (let i = 0; i < dim / 2; i++) index[h * dim + half * (dim / 2) + i] = h * dim + i * 2 + half;
  }
  return constant(new Uint8Array(index.buffer), [rows], 'i32');
}

/** Fails unless a source has the shape its parameter expects. */
export function checkShape(name: string, w: WeightSource, shape: readonly number[]): void {
  const stored = sourceShape(w);
  if (sameShape(stored, shape)) return;
  throw new LatheError(
    'ERR_CHECKPOINT',
    `tensor '${name}' expected shape ${formatShape(shape)}, received ${formatShape(stored)}`,
    {
      at: sourcePath(w),
      remedy: 'the weights do not belong to this model',
    },
  );
}

/** The 4-bit storage that parts are in. */
export function formatOf(w: PartsSource): QuantFormat {
  return { type: w.state.type, nested: w.state.nestedOffset !== null };
}

/** Traces 4-bit parts as what a parameter of their format holds, slot by slot. */
export function traceParts(w: PartsSource, name: string, bindings: FileBindings): { slot: StateSlot; value: Tensor }[] {
  const stored = new Parameter(w.state.shape, 'bf16', { kind: 'zeros' });
  stored.name = name;
  stored.quant = formatOf(w);
  return stored.slots().map((slot, i) => ({
    slot,
    value: i === 3 ? fill(slot, w.state.nestedOffset!) : traceRaw(w.parts[i].source, slot, bindings),
  }));
}

/** Traces the dense weight of any source as f32, or in the float type it is stored in. */
export function traceDense(w: WeightSource, name: string, bindings: FileBindings): Tensor {
  if (w.kind === 'tensor') return traceSource(w, name, bindings);
  const { type, nested } = formatOf(w);
  const parts = traceParts(w, name, bindings).map(({ value }) => value);
  return dequantizeParts(parts, quantCode(type, nested), w.state.shape[0], w.state.shape[1], 'f32');
}

/** Shape of the weight a source stands for. */
export function sourceShape(w: WeightSource): readonly number[] {
  return w.kind === 'tensor' ? w.source.shape : w.state.shape;
}

/** File a source lies in, for messages. */
export function sourcePath(w: WeightSource): string {
  return w.kind === 'tensor' ? w.source.path : w.parts[0].source.path;
}

/** The bytes of a slot's dtype straight from a file. */
function traceRaw(source: TensorSource, slot: StateSlot, bindings: FileBindings): Tensor {
  const bytes = typeBytes(slot);
  if (source.byteLength !== bytes) {
    throw new LatheError(
      'ERR_CHECKPOINT',
      `tensor '${source.name}' expected ${bytes} bytes (${slot.dtype} ${formatShape(slot.shape)}), received ${source.byteLength}`,
      {
        at: source.path,
        remedy: 'the 4-bit checkpoint is damaged; save it again',
      },
    );
  }
  const inputName = `file:${slot.name}`;
  bindings[inputName] = { path: source.path, offset: source.offset, byteLength: source.byteLength };
  return input(inputName, slot.shape, slot.dtype, true);
}
