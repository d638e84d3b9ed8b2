/**
 * Retired and foreign spellings: what older recipes, older releases of transformers and TRL, and people's habits call a key.
 *
 * Each entry either renames (with an optional conversion of the value), or says that the key no longer does anything, or refuses
 * some values. Every use leaves a note, so that a file can be brought up to date. A current spelling in the same file wins.
 */

import type { KeyName } from './keys';
import { describeValue, flag, number } from './value-types';

export type Retired =
  | { readonly to: KeyName; readonly convert?: (value: unknown) => Converted; readonly note?: string }
  | { readonly dropped: string };

/** `error` says what was expected; `skip` drops the entry (the old default, which needs no new key). */
export type Converted = { value: unknown } | { skip: true } | { error: string };

function whenTrue(value: unknown, replacement: unknown): Converted {
  const asFlag = flag().coerce(value);
  if (asFlag === true) return { value: replacement };
  return asFlag === false || asFlag === null ? { skip: true } : { error: 'expected true or false' };
}

/** A ratio of all steps: today's warmup_steps takes it as a fraction below 1. */
function warmupRatio(value: unknown): Converted {
  const ratio = number().coerce(value);
  if (ratio === 0 || ratio === null) return { skip: true };
  if (typeof ratio !== 'number' || !(ratio > 0 && ratio < 1)) return { error: 'expected a number >= 0 and < 1' };
  return { value: ratio };
}

/** The Trainer and BitsAndBytesConfig spell dtypes as `torch.bfloat16` too. */
function dtypeName(value: unknown): Converted {
  return { value: typeof value === 'string' ? value.replace(/^torch\./, '') : value };
}

const gone = 'it no longer exists in transformers and did nothing that is needed here';
const stream = 'packing: true with packing_strategy: wrapped does what ConstantLengthDataset did';

export const RETIRED: Readonly<Record<string, Retired>> = {
  // transformers
  evaluation_strategy: { to: 'eval_strategy' },
  warmup_ratio: { to: 'warmup_steps', convert: warmupRatio, note: 'a fraction below 1' },
  no_cuda: { to: 'use_cpu' },
  per_gpu_train_batch_size: { to: 'per_device_train_batch_size' },
  per_gpu_eval_batch_size: { to: 'per_device_eval_batch_size' },
  group_by_length: {
    to: 'train_sampling_strategy',
    convert: (v) => whenTrue(v, 'group_by_length'),
    note: 'group_by_length',
  },
  adafactor: { to: 'optim', convert: (v) => whenTrue(v, 'adafactor'), note: 'adafactor' },
  push_to_hub_model_id: { to: 'hub_model_id' },
  push_to_hub_token: { to: 'hub_token' },
  include_inputs_for_metrics: { dropped: 'evaluation keeps no inputs' },
  include_tokens_per_second: { dropped: 'tokens per second are always reported' },
  overwrite_output_dir: { dropped: 'checkpoints are only ever added to output_dir, up to save_total_limit' },
  save_safetensors: { dropped: 'safetensors is the only format written' },
  fp16_opt_level: { dropped: gone },
  fp16_backend: { dropped: gone },
  half_precision_backend: { dropped: gone },
  jit_mode_eval: { dropped: gone },
  use_ipex: { dropped: gone },
  use_mps_device: { dropped: gone },
  mp_parameters: { dropped: gone },
  tpu_num_cores: { dropped: gone },
  tpu_metrics_debug: { dropped: gone },
  past_index: { dropped: gone },
  ray_scope: { dropped: gone },
  torchdynamo: { dropped: 'every step is compiled' },
  fsdp_min_num_params: { dropped: gone },
  fsdp_transformer_layer_cls_to_wrap: { dropped: gone },
  push_to_hub_organization: { dropped: gone },
  dispatch_batches: { dropped: gone },
  split_batches: { dropped: gone },
  gradient_checkpointing_use_reentrant: { dropped: 'recomputation is planned by the compiler; see plan_policy' },
  use_auth_token: { dropped: 'a token for downloads is read from HF_TOKEN' },
  // TRL
  max_seq_length: { to: 'max_length' },
  torch_dtype: { to: 'dtype', convert: dtypeName },
  tokenizer: { to: 'tokenizer_name_or_path' },
  processing_class: { to: 'tokenizer_name_or_path' },
  tokenizer_name: { to: 'tokenizer_name_or_path' },
  use_lora: { to: 'use_peft' },
  lora_rank: { to: 'lora_r' },
  peft_lora_r: { to: 'lora_r' },
  peft_lora_alpha: { to: 'lora_alpha' },
  use_liger: { to: 'use_liger_kernel' },
  dataset_train_name: { to: 'dataset_train_split' },
  dataset_test_name: { to: 'dataset_test_split' },
  dataset_batch_size: { dropped: 'the data is tokenised row by row' },
  preprocessing_num_workers: { to: 'dataset_num_proc' },
  num_of_sequences: { dropped: stream },
  chars_per_token: { dropped: stream },
  // BitsAndBytesConfig, LoraConfig and from_pretrained
  bnb_4bit_use_double_quant: { to: 'use_bnb_nested_quant' },
  bnb_4bit_compute_dtype: { dropped: 'bf16 says what matmuls compute in' },
  target_modules: { to: 'lora_target_modules' },
  modules_to_save: { to: 'lora_modules_to_save' },
  model_name: { to: 'model_name_or_path' },
  model_id: { to: 'model_name_or_path' },
  use_flash_attention_2: { dropped: 'there is one attention here, tiled and of variable length, on every device' },
};

/** Values of current keys that were renamed. */
export const RETIRED_VALUES: Readonly<Partial<Record<KeyName, Readonly<Record<string, string>>>>> = {
  packing_strategy: { 'bfd-requeue': 'bfd_split', ffd: 'bfd' },
};

export function retiredError(name: string, to: string, expected: string, value: unknown): string {
  return `${name} (now ${to}): ${expected}, received ${describeValue(value)}`;
}
