/**
 * PeftModel and getPeftModel in PEFT's names, for models with weights (peft/inject.ts works on bare descriptions).
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { LatheError } from '../errors';
import { readTensorBytes } from '../io/tensor-source';
import { ADAPTER_PREFIX } from '../peft/inject';
import { baseMismatch, readAdapter, type AdapterFile } from '../peft/load';
import type { LoraConfig } from '../peft/lora-config';
import { AutoModelForCausalLM, type FromPretrainedOptions } from './auto';
import type { PreTrainedModel } from './model';

export interface LoadAdapterOptions {
  /** Go on training it; also accepts an adapter that was saved before its first step. Default false: frozen. */
  isTrainable?: boolean;
  adapterName?: string;
  /** Receives sentences about things that look wrong but may be right; default: a process warning. */
  onWarning?: (message: string) => void;
}

/** Puts a new adapter on a model and freezes the rest; returns the same model. */
export function getPeftModel(model: PreTrainedModel, config: LoraConfig, adapterName = 'default'): PreTrainedModel {
  model.addAdapter(config, adapterName);
  return model;
}

export const PeftModel = {
  /**
   * Puts a saved adapter on its base model; returns the same model.
   * @throws LatheError ERR_FORMAT, ERR_UNSUPPORTED (an option), ERR_CHECKPOINT (a tensor missing, too many, of another
   *   shape; an adapter that does nothing), ERR_CONFIG (targets that the model has not)
   */
  async fromPretrained(model: PreTrainedModel, dir: string, o: LoadAdapterOptions = {}): Promise<PreTrainedModel> {
    const file = await readAdapter(dir, { allowUntrained: o.isTrainable });
    const warn = o.onWarning ?? ((message: string): void => process.emitWarning(message, 'LatheWarning'));
    const mismatch = baseMismatch(file.origin, model.origin.path);
    if (mismatch) warn(mismatch);
    model.addAdapter(file.config, o.adapterName);
    if (model.module.config.tieWordEmbeddings) await checkTied(file, model);
    model.setAdapterSources(file.sources, dir);
    model.adapterBase = file.origin.baseModel;
    if (!o.isTrainable) for (const p of [...model.parameters().values()]) p.trainable = false;
    return model;
  },
};

export const AutoPeftModelForCausalLM = {
  /** Opens an adapter together with the base model that its config names. */
  async fromPretrained(dir: string, o: FromPretrainedOptions & LoadAdapterOptions = {}): Promise<PreTrainedModel> {
    const { origin } = await readAdapter(dir, { allowUntrained: o.isTrainable });
    const base = [origin.baseModel, origin.baseModel && resolve(dir, origin.baseModel)].find(
      (path) => path && existsSync(path),
    );
    if (!base) {
      throw new LatheError(
        'ERR_CONFIG',
        `the adapter's base model ${JSON.stringify(origin.baseModel)} is no path here`,
        { at: dir, remedy: 'open the base model yourself and give it to PeftModel.fromPretrained' },
      );
    }
    const { isTrainable, adapterName, onWarning, ...model } = o;
    return PeftModel.fromPretrained(await AutoModelForCausalLM.fromPretrained(base, model), dir, {
      isTrainable,
      adapterName,
      onWarning,
    });
  },
};

/** A tied model has one embedding: an adapter that brings two different ones was made for an untied model. */
async function checkTied(file: AdapterFile, model: PreTrainedModel): Promise<void> {
  const embedding = file.sources.get(ADAPTER_PREFIX + model.module.embedding.name)?.source;
  const head = file.sources.get(`${ADAPTER_PREFIX}lm_head.weight`)?.source;
  if (!embedding || !head) return;
  const [a, b] = [await readTensorBytes(embedding), await readTensorBytes(head)];
  if (Buffer.compare(a, b) === 0) return;
  throw new LatheError(
    'ERR_CHECKPOINT',
    `tensor '${head.name}' differs from '${embedding.name}', but the model's head is tied to its embedding`,
    {
      at: head.path,
      remedy: 'the adapter belongs to an untied model',
    },
  );
}
