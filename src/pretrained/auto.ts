/** AutoModelForCausalLM: from a folder, a GGUF file or a config, in the names people know. */
import { LatheError } from '../errors';
import { buildModel } from '../models/registry';
import type { RawConfig } from '../models/config-reader';
import { quantizeModel, type BitsAndBytesConfig } from '../quantization/bitsandbytes';
import { openModel } from './open';
import { PreTrainedModel, type ModelOptions } from './model';

export interface FromPretrainedOptions extends ModelOptions {
  /** Activations and dense weights; 'auto' takes what the files hold. Default 'auto'. */
  dtype?: 'auto' | 'f32' | 'bf16' | 'float32' | 'bfloat16';
  /** Storage of dense weights when it differs; full training keeps f32 weights under bf16 activations. */
  weightDtype?: 'f32' | 'bf16';
  quantizationConfig?: BitsAndBytesConfig;
}

function resolveDtype(dtype: FromPretrainedOptions['dtype'], stored: 'f32' | 'bf16'): 'f32' | 'bf16' {
  switch (dtype ?? 'auto') {
    case 'auto':
      return stored;
    case 'f32':
    case 'float32':
      return 'f32';
    case 'bf16':
    case 'bfloat16':
      return 'bf16';
    default:
      throw new LatheError('ERR_CONFIG', `dtype expected auto, float32 or bfloat16, received '${String(dtype)}'`);
  }
}

export const AutoModelForCausalLM = {
  /** Opens a model; headers are read now, weights stream in when they are first needed. */
  async fromPretrained(path: string, o: FromPretrainedOptions = {}): Promise<PreTrainedModel> {
    const open = await openModel(path);
    const { quantization_config: _stored, ...config } = open.config;
    const dtype = resolveDtype(o.dtype, configDtype(config) ?? open.storedDtype);
    const module = buildModel(config, { dtype, weightDtype: o.weightDtype }, `${path}/config.json`);
    const quantization = open.quantization ?? o.quantizationConfig ?? null;
    if (quantization) quantizeModel(module, quantization);
    const { device, threads, seed } = o;
    return new PreTrainedModel(module, config, open.sources, { path, generationConfig: open.generationConfig, quantization }, { device, threads, seed });
  },

  /** A model with random weights from a config.json object. */
  fromConfig(config: RawConfig, o: FromPretrainedOptions = {}): PreTrainedModel {
    const module = buildModel(config, { dtype: resolveDtype(o.dtype, configDtype(config) ?? 'f32'), weightDtype: o.weightDtype });
    const quantization = o.quantizationConfig ?? null;
    if (quantization) quantizeModel(module, quantization);
    const { device, threads, seed } = o;
    return new PreTrainedModel(module, config, new Map(), { path: '', generationConfig: null, quantization }, { device, threads, seed });
  },
};

function configDtype(config: RawConfig): 'f32' | 'bf16' | undefined {
  const name = config.dtype ?? config.torch_dtype;
  return name === 'float32' ? 'f32' : name === 'bfloat16' || name === 'float16' ? 'bf16' : undefined;
}
