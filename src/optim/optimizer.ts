/**
 * Optimizers as descriptions: which state slots a parameter needs and how one step updates them.
 *
 * `adamw` keeps fp32 moments. `adamw_8bit` keeps block-wise 8-bit moments with bitsandbytes' rules: tensors below 4096
 * elements and embeddings keep fp32 moments. A new optimizer is one object of this interface.
 */
import type { StateSlot, Tensor } from '../graph/tensor';
import { elementCount } from '../graph/tensor';
import { readState, updateState } from '../graph/trace';
import { adamw, adamw8bit, OPTIMIZER_BLOCK, type AdamOptions, type StepInputs } from '../ops/optim';

/** A parameter as an optimizer sees it. */
export interface OptimizedParameter {
  /** The parameter's slot. */
  readonly slot: StateSlot;
  /** Its gradient, f32. */
  readonly gradient: StateSlot;
  readonly weightDecay: number;
  readonly isEmbedding: boolean;
}

export type OptimizerKind = 'adamw' | 'adamw_8bit';

/** bitsandbytes keeps smaller tensors in fp32. */
const MIN_8BIT_ELEMENTS = 4096;

/** fp32 gradient slot of a parameter. */
export function gradientSlot(parameter: StateSlot): StateSlot {
  return { name: `grad:${parameter.name}`, shape: parameter.shape, dtype: 'f32', role: 'gradients' };
}

function stateSlot(p: OptimizedParameter, key: string, shape: readonly number[], dtype: 'f32' | 'u8'): StateSlot {
  return { name: `optimizer:${p.slot.name}:${key}`, shape, dtype, role: 'optimizer' };
}

function uses8bit(kind: OptimizerKind, p: OptimizedParameter): boolean {
  return kind === 'adamw_8bit' && !p.isEmbedding && elementCount(p.slot.shape) >= MIN_8BIT_ELEMENTS;
}

/** State slots of one parameter, in the op's order; names end in torch's or bitsandbytes' state keys. */
export function optimizerSlots(kind: OptimizerKind, p: OptimizedParameter): StateSlot[] {
  const { shape } = p.slot;
  if (!uses8bit(kind, p)) return [stateSlot(p, 'exp_avg', shape, 'f32'), stateSlot(p, 'exp_avg_sq', shape, 'f32')];
  const n = elementCount(shape);
  const blocks = Math.ceil(n / OPTIMIZER_BLOCK);
  return [
    stateSlot(p, 'state1', [n], 'u8'),
    stateSlot(p, 'state2', [n], 'u8'),
    stateSlot(p, 'absmax1', [blocks], 'f32'),
    stateSlot(p, 'absmax2', [blocks], 'f32'),
  ];
}

/** Traces one step over all parameters: one op per (format, weight decay) group. */
export function traceOptimizerStep(
  kind: OptimizerKind,
  parameters: readonly OptimizedParameter[],
  inputs: StepInputs,
  o: Omit<AdamOptions, 'weightDecay'>,
): void {
  const groups = new Map<string, OptimizedParameter[]>();
  for (const p of parameters) {
    const key = `${uses8bit(kind, p)}|${p.weightDecay}`;
    const group = groups.get(key);
    if (group) group.push(p);
    else groups.set(key, [p]);
  }
  for (const group of groups.values()) {
    const slots = group.map((p) => optimizerSlots(kind, p));
    const tensors = group.map((p, i) => [readState(p.slot), readState(p.gradient), ...slots[i].map(readState)]);
    const options = { ...o, weightDecay: group[0].weightDecay };
    const step = uses8bit(kind, group[0]) ? adamw8bit : adamw;
    step(inputs, tensors, options).forEach((updated, i) => assign(updated, [group[i].slot, ...slots[i]]));
  }
}

function assign(values: readonly Tensor[], slots: readonly StateSlot[]): void {
  slots.forEach((slot, i) => updateState(slot, values[i]));
}
