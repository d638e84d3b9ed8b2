/**
 * A row of a table as a program of its single op, in several variants that must all give the same bits: inputs kept alive
 * (nothing is written in place), every in-place pair, all of them at once, inputs and outputs in state slots, inputs
 * bound to a file, and without some of the optional outputs.
 */
import { compile } from '../../src/compile/compile';
import { deviceSpec } from '../../src/compile/devices';
import type { NdArray } from '../../src/graph/op-def';
import { sameType, type StateSlot, type Tensor } from '../../src/graph/tensor';
import { apply, input, output, readState, trace, updateState } from '../../src/graph/trace';
import type { FileRange, Session, TensorArray, TensorSpec } from '../../src/runtime/session';
import { fromBytes, toArray, type Concrete } from './case';

export interface Variant {
  readonly name: string;
  /** Inputs that stay alive, so that nothing may be written over them. */
  readonly keep: readonly number[];
  readonly absent: readonly number[];
  /** Pairs [output, input] that live in a state slot and are updated in place. */
  readonly slots: readonly (readonly [number, number])[];
  /** Inputs are bound to a file instead of being copied in. */
  readonly external: boolean;
}

/** All a process needs to run a variant; survives structured cloning, so child processes can. */
export interface Runnable {
  readonly key: string;
  readonly bytes: Uint8Array;
  readonly states: readonly { spec: TensorSpec; data: TensorArray }[];
  readonly inputs: Readonly<Record<string, TensorArray>>;
}

/** Output tensors by name `y<i>`, kept inputs as `x<i>`. */
export type Results = Record<string, TensorArray>;

export function baseVariant(c: Concrete): Variant {
  return { name: 'nothing in place', keep: c.types.map((_, i) => i), absent: [], slots: [], external: false };
}

/** Every variant that should not change a bit. */
export function variantsOf(c: Concrete): Variant[] {
  const base = baseVariant(c);
  const pairs = c.def.mayAlias?.(c.attributes, c.types.length) ?? [];
  const list: Variant[] = [
    { ...base, name: 'all inputs die', keep: [] },
    { ...base, name: 'inputs bound to a file', external: true },
  ];
  // An optimizer step has as many pairs as parameters; a few say it all.
  for (const [out, i] of pairs.slice(0, 6))
    list.push({ ...base, name: `output ${out} over input ${i}`, keep: base.keep.filter((k) => k !== i) });
  const slots = distinct(pairs).filter(([out, i]) => sameType(c.outputs[out], c.types[i]));
  if (slots.length)
    list.push({
      ...base,
      name: 'updates state in place',
      keep: base.keep.filter((k) => !slots.some(([, i]) => i === k)),
      slots,
    });
  for (const absent of subsets(c.def.optionalOutputs ?? []))
    list.push({ ...base, name: `without output ${absent.join(' and ')}`, absent });
  return list;
}

/** Each output and each input in at most one pair. */
function distinct(pairs: readonly (readonly [number, number])[]): (readonly [number, number])[] {
  const chosen: (readonly [number, number])[] = [];
  for (const pair of pairs) if (!chosen.some((p) => p[0] === pair[0] || p[1] === pair[1])) chosen.push(pair);
  return chosen;
}

function subsets(all: readonly number[]): number[][] {
  return Array.from({ length: 2 ** all.length - 1 }, (_, mask) => all.filter((_item, i) => ((mask + 1) >> i) & 1));
}

const slotOf = (c: Concrete, i: number): StateSlot => ({
  name: `s${i}`,
  shape: c.types[i].shape,
  dtype: c.types[i].dtype,
  role: 'weights',
});

/** Compiles a variant for a number of threads, or for another device. */
export function runnable(
  c: Concrete,
  x: readonly NdArray[],
  v: Variant,
  threads: number,
  device = deviceSpec('cpu', threads),
): Runnable {
  const states: Runnable['states'][number][] = [];
  const inputs: Record<string, TensorArray> = {};
  const graph = trace(c.def.name, () => {
    const tensors = c.types.map((type, i): Tensor => {
      const array = toArray(type.dtype, x[i].data);
      if (v.slots.some(([, s]) => s === i)) {
        const slot = slotOf(c, i);
        states.push({ spec: slot, data: array });
        return readState(slot);
      }
      inputs[`x${i}`] = array;
      return input(`x${i}`, type.shape, type.dtype, v.external);
    });
    apply(c.def, tensors, c.attributes).forEach((y, i) => {
      if (v.absent.includes(i)) return;
      const pair = v.slots.find(([out]) => out === i);
      if (pair) updateState(slotOf(c, pair[1]), y);
      else output(`y${i}`, y);
    });
    if (!v.external) for (const i of v.keep) output(`x${i}`, tensors[i]);
  });
  const { bytes } = compile(graph, { device });
  return { key: `${c.def.name} ${v.name}`, bytes, states, inputs };
}

/** Runs once; state slots are named like outputs in the result (`s<i>`). */
export async function runOn(
  session: Session,
  r: Runnable,
  bind: (inputs: Runnable['inputs']) => Record<string, TensorArray | FileRange> = (all) => all,
): Promise<Results> {
  session.defineState(r.states.map((s) => s.spec));
  for (const { spec, data } of r.states) await session.writeState(spec.name, data);
  const program = session.loadProgram(r.bytes, r.key);
  const results: Results = { ...(await session.run(program, bind(r.inputs))) };
  for (const { spec } of r.states) results[spec.name] = fromBytes(spec.dtype, await session.readState(spec.name));
  session.releaseProgram(program);
  session.dropState(r.states.map((s) => s.spec.name));
  return results;
}

/** The result of output `i`, wherever the variant put it. */
export function resultOf(results: Results, v: Variant, i: number): TensorArray {
  const pair = v.slots.find(([out]) => out === i);
  return results[pair ? `s${pair[1]}` : `y${i}`];
}

export function sameBits(a: TensorArray, b: TensorArray): boolean {
  return a.byteLength === b.byteLength && Buffer.compare(bytesOf(a), bytesOf(b)) === 0;
}

const bytesOf = (a: TensorArray): Buffer => Buffer.from(a.buffer, a.byteOffset, a.byteLength);
