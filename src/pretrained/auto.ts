/** AutoModelForCausalLM: from a folder, a GGUF file or a config, in the names people know. */
import { LatheError, refuseUnknownOptions } from '../errors';
import type { BuildOptions, CausalLm } from '../models/causal-lm';
import type { RawConfig } from '../models/config-reader';
import { buildModel } from '../models/registry';
import { BitsAndBytesConfig, quantizeModel } from '../quantization/bitsandbytes';
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

const OPTIONS: readonly (keyof FromPretrainedOptions)[] = [
  'dtype',
  'weightDtype',
  'quantizationConfig',
  'device',
  'threads',
  'seed',
];

/** What was asked for, checked: plain objects come from programs without types. */
function askedQuantization(o: FromPretrainedOptions, what: string): BitsAndBytesConfig | undefined {
  refuseUnknownOptions(o, OPTIONS, what);
  const { quantizationConfig: asked } = o;
  return asked == null || asked instanceof BitsAndBytesConfig ? (asked ?? undefined) : new BitsAndBytesConfig(asked);
}

export const AutoModelForCausalLM = {
  /**
   * Opens a model folder or GGUF file; headers are read now, weights stream in when they are first needed.
   * @throws LatheError ERR_CONFIG (no such path, a setting), ERR_FORMAT, ERR_CHECKPOINT naming the tensor, ERR_UNSUPPORTED (architecture)
   */
  async fromPretrained(path: string, o: FromPretrainedOptions = {}): Promise<PreTrainedModel> {
    const asked = askedQuantization(o, 'fromPretrained');
    const open = await openModel(path);
    const { quantization_config: _stored, ...config } = open.config;
    const dtype = resolveDtype(o.dtype, configDtype(config) ?? open.storedDtype);
    const quantization = storedOrAsked(open.quantization, asked, path);
    const rebuild = builder({ dtype, weightDtype: o.weightDtype }, quantization, `${path}/config.json`);
    const { device, threads, seed } = o;
    return new PreTrainedModel(
      rebuild(config),
      config,
      open.sources,
      { path, generationConfig: open.generationConfig, quantization, rebuild },
      { device, threads, seed },
    );
  },

  /** A model with random weights from a config.json object. */
  fromConfig(config: RawConfig, o: FromPretrainedOptions = {}): PreTrainedModel {
    const quantization = askedQuantization(o, 'fromConfig') ?? null;
    const rebuild = builder(
      { dtype: resolveDtype(o.dtype, configDtype(config) ?? 'f32'), weightDtype: o.weightDtype },
      quantization,
      'config.json',
    );
    const { device, threads, seed } = o;
    return new PreTrainedModel(
      rebuild(config),
      config,
      new Map(),
      { path: '', generationConfig: null, quantization, rebuild },
      { device, threads, seed },
    );
  },
};

function builder(
  options: BuildOptions,
  quantization: BitsAndBytesConfig | null,
  at: string,
): (config: RawConfig) => CausalLm {
  return (config) => {
    const module = buildModel(config, options, at);
    if (quantization) quantizeModel(module, quantization);
    return module;
  };
}

/** A 4-bit checkpoint says how it is stored; a request for something else would be ignored, so it is refused. */
function storedOrAsked(
  stored: BitsAndBytesConfig | null,
  asked: BitsAndBytesConfig | undefined,
  path: string,
): BitsAndBytesConfig | null {
  if (!stored) return asked?.loadIn4bit ? asked : null;
  const differs =
    asked &&
    (!asked.loadIn4bit ||
      asked.bnb4bitQuantType !== stored.bnb4bitQuantType ||
      asked.bnb4bitUseDoubleQuant !== stored.bnb4bitUseDoubleQuant);
  if (!differs) return stored;
  throw new LatheError(
    'ERR_CONFIG',
    `the checkpoint is stored as ${stored.describe()}, asked was ${asked.describe()}`,
    { at: path, remedy: 'leave quantizationConfig out, or open the dense model' },
  );
}

function configDtype(config: RawConfig): 'f32' | 'bf16' | undefined {
  const name = config.dtype ?? config.torch_dtype;
  return name === 'float32' ? 'f32' : name === 'bfloat16' || name === 'float16' ? 'bf16' : undefined;
}
