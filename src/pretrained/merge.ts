/**
 * mergeAndUnload: folds a model's adapter into its weights, in its session, and forgets the adapter.
 *
 * Afterwards the model is dense and 16 bit (or fp32): one parameter after the other is computed, a 4-bit one into a
 * temporary slot that then takes its place, so the peak is the old model plus one weight. Source: LoRA, arXiv 2106.09685.
 */
import { LatheError } from '../errors';
import { releaseGeneration } from '../generation/lane';
import type { StateSlot, Tensor } from '../graph/tensor';
import { readState, updateState } from '../graph/trace';
import { Linear } from '../nn/layers';
import type { Parameter } from '../nn/module';
import { cast } from '../ops/elementwise';
import { hasActivePairs, mergedWeight } from '../peft/merge';
import type { Session } from '../runtime/session';
import type { PreTrainedModel } from './model';
import { runOnce } from './run-once';
import { linearsByWeight, type FloatDType } from './tensor-export';

/**
 * Merges in place and returns the same model, without an adapter and without 4-bit weights. No program may be loaded in
 * its session; adapters that are not active are dropped, not merged. The merged weights live only in the session: save
 * them before `close()`. @param o.dtype type of the merged weights; default: that of the activations
 * @throws LatheError ERR_CONFIG, ERR_PLAN_MEMORY
 */
export async function mergeAndUnload(model: PreTrainedModel, o: { dtype?: FloatDType } = {}): Promise<PreTrainedModel> {
  const session = await model.ready();
  releaseGeneration(session);
  if (session.stats().programs > 0) {
    throw new LatheError('ERR_CONFIG', 'cannot merge while programs are loaded in the session', {
      remedy: 'release them first, or write the merged model with saveMerged',
    });
  }
  const dtype = o.dtype ?? (model.module.computeDtype as FloatDType);
  const linears = linearsByWeight(model.module);
  const adapter = model.peft ? [...model.peft.pairs.values()].flatMap((pair) => [pair.a.name, pair.b.name]) : [];
  for (const p of model.module.parameters().values()) {
    await mergeParameter(session, p, linears.get(p), dtype);
    p.trainable = false;
  }
  for (const module of model.module.modules()) if (module instanceof Linear) module.lowRank.length = 0;
  session.dropState(adapter);
  model.adoptMerged();
  return model;
}

async function mergeParameter(
  session: Session,
  p: Parameter,
  linear: Linear | undefined,
  dtype: FloatDType,
): Promise<void> {
  const merges = linear !== undefined && (p.quant !== null || hasActivePairs(linear));
  if (!merges && p.dtype === dtype) return;
  const value = (): Tensor => (merges ? mergedWeight(linear, dtype) : cast(p.read(p.dtype), dtype));
  const target: StateSlot = { name: p.name, shape: p.shape, dtype, role: 'weights' };
  if (!p.quant && p.dtype === dtype) {
    await runOnce(session, `merge ${p.name}`, () => updateState(target, value()));
    return;
  }
  const temporary = { ...target, name: `${p.name}.merged` };
  session.defineState([temporary]);
  await runOnce(session, `merge ${p.name}`, () => updateState(temporary, value()));
  session.dropState(p.slots().map((slot) => slot.name));
  session.defineState([target]);
  await runOnce(session, `place ${p.name}`, () => updateState(target, readState(temporary)));
  session.dropState([temporary.name]);
  p.quant = null;
  p.dtype = dtype;
}
