/**
 * adapter_config.json: PEFT's file form of a LoraConfig.
 *
 * Reading is strict. A key that this package knows is taken over; any other key may stand in the file as long as its value
 * says "off" (null, false, an empty list or object, PEFT's own default), because PEFT writes all its keys. A key that
 * is on and not implemented would change the result, so it is refused by name.
 * Writing gives only keys that every PEFT of the last years knows: newer ones would be dropped with a warning there.
 */
import { LatheError } from '../errors';
import type { LoraConfig, LoraOptions } from './lora-config';

export type RawAdapterConfig = Readonly<Record<string, unknown>>;

/** What the file says besides the LoraConfig. */
export interface AdapterOrigin {
  readonly baseModel: string | null;
  readonly revision: string | null;
}

/** Keys without influence on what a loaded adapter computes. */
const INFORMATIVE = new Set([
  'peft_type',
  'auto_mapping',
  'base_model_name_or_path',
  'revision',
  'peft_version',
  'inference_mode',
  'runtime_config',
  'eva_config',
]);

/** Values that mean "off" where null, false and empty do not say so. */
const OFF: Readonly<Record<string, unknown>> = { megatron_core: 'megatron.core', qalora_group_size: 16 };

/** Initialisations that leave the base weights alone; once saved, nothing of them remains but A and B. */
const HARMLESS_INIT = [true, false, 'gaussian', 'eva', 'orthogonal'];

type Kind = 'number' | 'string' | 'boolean' | 'names' | 'namesOrPattern' | 'numbers' | 'map' | 'init';

/** File key -> LoraOptions key and type. */
const KEYS: Readonly<Record<string, readonly [option: string, kind: Kind]>> = {
  r: ['r', 'number'],
  lora_alpha: ['loraAlpha', 'number'],
  lora_dropout: ['loraDropout', 'number'],
  target_modules: ['targetModules', 'namesOrPattern'],
  exclude_modules: ['excludeModules', 'namesOrPattern'],
  bias: ['bias', 'string'],
  task_type: ['taskType', 'string'],
  modules_to_save: ['modulesToSave', 'names'],
  use_rslora: ['useRslora', 'boolean'],
  init_lora_weights: ['initLoraWeights', 'init'],
  rank_pattern: ['rankPattern', 'map'],
  alpha_pattern: ['alphaPattern', 'map'],
  layers_to_transform: ['layersToTransform', 'numbers'],
  layers_pattern: ['layersPattern', 'names'],
  fan_in_fan_out: ['fanInFanOut', 'boolean'],
  ensure_weight_tying: ['ensureWeightTying', 'boolean'],
};

const isOff = (key: string, value: unknown): boolean =>
  value === null ||
  value === undefined ||
  value === false ||
  value === OFF[key] ||
  (typeof value === 'object' && Object.keys(value).length === 0);

const isNames = (value: unknown): boolean => Array.isArray(value) && value.every((v) => typeof v === 'string');

const CHECKS: Readonly<Record<Kind, readonly [expected: string, test: (value: unknown) => boolean]>> = {
  number: ['a number', (v) => typeof v === 'number'],
  string: ['a string', (v) => typeof v === 'string'],
  boolean: ['true or false', (v) => typeof v === 'boolean'],
  names: ['a list of names', (v) => isNames(v) || typeof v === 'string'],
  namesOrPattern: ['a list of names or a pattern', (v) => isNames(v) || typeof v === 'string'],
  numbers: [
    'a number or a list of numbers',
    (v) => typeof v === 'number' || (Array.isArray(v) && v.every((i) => Number.isInteger(i))),
  ],
  map: [
    'an object of numbers',
    (v) => typeof v === 'object' && v !== null && Object.values(v).every((i) => typeof i === 'number'),
  ],
  init: ['true, false or a name', (v) => typeof v === 'boolean' || typeof v === 'string'],
};

/** Parses adapter_config.json. @throws LatheError ERR_FORMAT (a wrong type), ERR_UNSUPPORTED (naming the key) */
export function parseAdapterConfig(raw: RawAdapterConfig, at: string): { options: LoraOptions; origin: AdapterOrigin } {
  if (raw.peft_type !== 'LORA') {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `peft_type expected "LORA", received ${JSON.stringify(raw.peft_type) ?? 'none'}`,
      { at, remedy: 'only LoRA adapters are supported; merge the adapter with PEFT first' },
    );
  }
  const options: Record<string, unknown> = { taskType: null };
  for (const [key, value] of Object.entries(raw)) {
    if (INFORMATIVE.has(key)) continue;
    const known = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (!known) {
      if (isOff(key, value)) continue;
      throw new LatheError(
        'ERR_UNSUPPORTED',
        `adapter option '${key}' is ${JSON.stringify(value)}, which is not supported`,
        { at, remedy: 'train the adapter without it, or merge it with PEFT first' },
      );
    }
    if (value === null) continue;
    const [expected, test] = CHECKS[known[1]];
    if (!test(value))
      throw new LatheError(
        'ERR_FORMAT',
        `adapter option '${key}' expected ${expected}, received ${JSON.stringify(value)}`,
        { at },
      );
    options[known[0]] = known[1] === 'names' && typeof value === 'string' ? [value] : value;
  }
  const init = raw.init_lora_weights ?? true;
  if (!HARMLESS_INIT.includes(init as never)) {
    throw new LatheError(
      'ERR_UNSUPPORTED',
      `adapter option 'init_lora_weights' is ${JSON.stringify(init)}, whose base weights differ from the checkpoint's`,
      {
        at,
        remedy: 'save it with PEFT as a plain adapter (path_initial_model_for_weight_conversion)',
      },
    );
  }
  if (typeof init === 'string' && init !== 'gaussian') options.initLoraWeights = true;
  if (options.targetModules === undefined)
    throw new LatheError('ERR_FORMAT', "expected the key 'target_modules', found none", {
      at,
      remedy: 'the adapter was saved without its targets; add them',
    });
  const text = (key: string): string | null => (typeof raw[key] === 'string' && raw[key] !== '' ? raw[key] : null);
  return { options, origin: { baseModel: text('base_model_name_or_path'), revision: text('revision') } };
}

const sorted = (names: readonly string[] | string | null): readonly string[] | string | null =>
  names === null || typeof names === 'string' ? names : [...names].sort();

/** The object PEFT would write, keys sorted. */
export function adapterConfigJson(config: LoraConfig, origin: AdapterOrigin): Record<string, unknown> {
  const json: Record<string, unknown> = {
    alpha_pattern: { ...config.alphaPattern },
    auto_mapping: null,
    base_model_name_or_path: origin.baseModel,
    bias: config.bias,
    fan_in_fan_out: config.fanInFanOut,
    inference_mode: true,
    init_lora_weights: config.initLoraWeights,
    layer_replication: null,
    layers_pattern: config.layersPattern,
    layers_to_transform: config.layersToTransform,
    loftq_config: {},
    lora_alpha: config.loraAlpha,
    lora_dropout: config.loraDropout,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: config.modulesToSave,
    peft_type: 'LORA',
    r: config.r,
    rank_pattern: { ...config.rankPattern },
    revision: origin.revision,
    target_modules: sorted(config.targetModules),
    task_type: config.taskType,
    use_dora: false,
    use_rslora: config.useRslora,
  };
  // Younger than the rest, so only when they say something.
  if (config.excludeModules) json.exclude_modules = sorted(config.excludeModules);
  if (config.ensureWeightTying) json.ensure_weight_tying = true;
  return Object.fromEntries(Object.entries(json).sort(([a], [b]) => (a < b ? -1 : 1)));
}
