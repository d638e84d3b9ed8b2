/**
 * A model's weights as tensors to write, each read from the session when its turn comes: one tensor at a time in memory.
 *
 * A slot whose bytes are already what the file wants is read as it is; anything else (a cast, a merge, a dequantisation)
 * is a small program whose output is the tensor.
 */
import { LatheError } from '../errors';
import type { DType } from '../graph/dtype';
import type { StateSlot, Tensor } from '../graph/tensor';
import { output } from '../graph/trace';
import type { SafetensorsDType, TensorToWrite } from '../io/safetensors';
import type { CausalLm } from '../models/causal-lm';
import { Linear } from '../nn/layers';
import type { Module, Parameter } from '../nn/module';
import { cast } from '../ops/elementwise';
import { hasActivePairs, mergedWeight } from '../peft/merge';
import { BNB_PARTS, bnbStateKey, encodeBnbState, nestedQuantMap, quantMap } from '../quantization/bnb-state';
import type { Session } from '../runtime/session';
import { bytesOf, runOnce } from './run-once';
import type { FileBindings } from './weights';

export type FloatDType = 'f32' | 'bf16';

const STORED: Record<DType, SafetensorsDType> = { f32: 'F32', bf16: 'BF16', f16: 'F16', i32: 'I32', u8: 'U8' };
const TORCH: Record<FloatDType, string> = { f32: 'float32', bf16: 'bfloat16' };

/** torch's name of a float type, as config.json spells it. */
export const torchName = (dtype: FloatDType): string => TORCH[dtype];

/** A tensor that is a program's output. */
export function programTensor(
  session: Session,
  name: string,
  shape: readonly number[],
  dtype: FloatDType,
  build: (bindings: FileBindings) => Tensor,
): TensorToWrite {
  const data = async (): Promise<Uint8Array> => {
    const outputs = await runOnce(session, `save ${name}`, (bindings) => output('value', cast(build(bindings), dtype)));
    return bytesOf(outputs.value);
  };
  return { name, dtype: STORED[dtype], shape, data };
}

/** A slot's own bytes. */
function slotTensor(session: Session, slot: StateSlot, name = slot.name, shape = slot.shape): TensorToWrite {
  return { name, dtype: STORED[slot.dtype], shape, data: () => session.readState(slot.name) };
}

/** Linear layers by their weight. */
export function linearsByWeight(module: Module): Map<Parameter, Linear> {
  const linears = [...module.modules()].filter((m): m is Linear => m instanceof Linear);
  return new Map(linears.map((m) => [m.weight, m]));
}

/**
 * Every parameter as a dense float tensor, with active LoRA pairs merged and 4-bit weights dequantised.
 * @param dtype null keeps each parameter's own type (a 4-bit weight: the activations')
 */
export function denseTensors(module: CausalLm, session: Session, dtype: FloatDType | null): TensorToWrite[] {
  const linears = linearsByWeight(module);
  return [...module.parameters()].map(([name, p]) => {
    const linear = linears.get(p);
    const target = dtype ?? floatType(p.quant ? module.computeDtype : p.dtype, name);
    if (linear && (p.quant || hasActivePairs(linear)))
      return programTensor(session, name, p.shape, target, () => mergedWeight(linear, target));
    return p.dtype === target
      ? slotTensor(session, p.slot())
      : programTensor(session, name, p.shape, target, () => p.read(p.dtype));
  });
}

function floatType(dtype: DType, name: string): FloatDType {
  if (dtype === 'f32' || dtype === 'bf16') return dtype;
  throw new LatheError('ERR_DTYPE', `parameter '${name}' of type ${dtype} cannot be saved as a float`);
}

/** Every parameter as bitsandbytes stores it: 4-bit weights in parts with their quant_state, the rest dense. */
export async function bnbTensors(module: CausalLm, session: Session): Promise<TensorToWrite[]> {
  const linears = linearsByWeight(module);
  const tensors: TensorToWrite[] = [];
  for (const [name, p] of module.parameters()) {
    if (!p.quant) tensors.push(slotTensor(session, p.slot()));
    else tensors.push(...(await bnbParts(name, p, module, session, linears.get(p))));
  }
  return tensors;
}

async function bnbParts(
  name: string,
  p: Parameter,
  module: CausalLm,
  session: Session,
  linear: Linear | undefined,
): Promise<TensorToWrite[]> {
  if (linear?.layout !== 'out_in') {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `'${name}' is stored [in, out], which bitsandbytes quantises in another order`,
      { remedy: 'save the model dense, with saveMerged' },
    );
  }
  const { type, nested } = p.quant!;
  const [packed, absmax, nestedAbsmax, offset] = p.slots();
  const nestedOffset = nested ? new Float32Array((await session.readState(offset.name)).slice().buffer)[0] : null;
  const shape = p.shape as [number, number];
  const state = encodeBnbState({ type, shape, dtype: torchName(floatType(module.computeDtype, name)), nestedOffset });
  const table = (suffix: string, values: Float32Array): TensorToWrite => ({
    name: name + suffix,
    dtype: 'F32',
    shape: [values.length],
    data: bytesOf(values),
  });
  return [
    slotTensor(session, packed, name, [packed.shape[0], 1]),
    slotTensor(session, absmax, name + BNB_PARTS.absmax),
    table(BNB_PARTS.map, quantMap(type)),
    ...(nested
      ? [slotTensor(session, nestedAbsmax, name + BNB_PARTS.nestedAbsmax), table(BNB_PARTS.nestedMap, nestedQuantMap())]
      : []),
    { name: bnbStateKey(name, type), dtype: 'U8', shape: [state.length], data: state },
  ];
}
