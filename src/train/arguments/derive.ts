/**
 * Values that follow from other values, and the checks across keys: what TrainingArguments, SFTConfig and ModelConfig do in
 * their __post_init__, plus what our own keys add. Applying it twice changes nothing, so a saved configuration resolves to itself.
 */

import { LatheError } from '../../errors';
import type { KeyName, KeyValues } from './keys';
import type { OptimizerKind } from './keys-training';
import { OPTIMIZERS } from './keys-training';
import type { Where } from './resolve';

/** Keys whose resolved type is narrower than what a file may say. */
export interface DerivedValues {
  outputDir: string;
  bf16: boolean;
  dtype: 'auto' | 'bfloat16' | 'float32';
  gradientCheckpointing: boolean;
  activationCheckpointing: boolean;
  reportTo: readonly string[];
  debug: readonly string[];
  lossType: 'nll' | 'dft';
  evalPacking: boolean;
  loggingDir: string;
  /** cpu, cuda or cuda:N, or auto. */
  device: string;
  memoryLimit: number | null;
}

type Values = { -readonly [K in KeyName]: KeyValues[K] };

interface Context {
  values: Values;
  given: ReadonlySet<KeyName>;
  where: Where;
  notes: string[];
}

export function applyDerivedValues(
  values: KeyValues,
  given: ReadonlySet<KeyName>,
  where: Where,
  notes: string[],
): Record<string, unknown> {
  const context: Context = { values: { ...values }, given, where, notes };
  applyModelArguments(context);
  applyPrecision(context);
  applyAdapters(context);
  applyReporting(context);
  applyIntervals(context);
  applyData(context);
  applyDevice(context);
  return { ...context.values };
}

function refuse(context: Context, keys: KeyName[], message: string, remedy: string): never {
  throw new LatheError('ERR_CONFIG', message, { at: context.where(...keys), remedy });
}

const HARMLESS_MODEL_ARGUMENTS = [
  'attn_implementation',
  'use_cache',
  'device_map',
  'low_cpu_mem_usage',
  'use_kernels',
  'trust_remote_code',
];

/** model_init_kwargs overrides the ModelConfig keys of the same meaning, as TRL's script merges them. */
function applyModelArguments(context: Context): void {
  const { values, where, notes } = context;
  for (const [name, value] of Object.entries(values.model_init_kwargs ?? {})) {
    if (name === 'dtype' || name === 'torch_dtype') {
      const dtype = String(value).replace(/^torch\./, '');
      if (dtype !== 'auto' && dtype !== 'bfloat16' && dtype !== 'float16' && dtype !== 'float32') {
        refuse(
          context,
          ['model_init_kwargs'],
          `model_init_kwargs.${name}: expected auto, bfloat16, float16 or float32, received ${dtype}`,
          'write one of these',
        );
      }
      values.dtype = dtype;
    } else if (name === 'revision') {
      values.model_revision = String(value);
    } else if (HARMLESS_MODEL_ARGUMENTS.includes(name)) {
      notes.push(`model_init_kwargs.${name} has no effect`);
    } else {
      throw new LatheError('ERR_UNSUPPORTED', `model_init_kwargs.${name} is not supported`, {
        at: where('model_init_kwargs'),
        remedy: 'remove it; only dtype and revision change how a model is loaded',
      });
    }
  }
}

function applyPrecision(context: Context): void {
  const { values, notes, given } = context;
  if (values.fp16 && values.bf16 === true) {
    refuse(context, ['fp16', 'bf16'], 'expected at most one of fp16 and bf16, received both', 'keep bf16');
  }
  if (values.fp16) {
    notes.push('fp16 runs as bf16: the same width, no loss scaling');
    values.fp16 = false;
    values.bf16 = true;
  }
  values.bf16 = values.bf16 ?? true;
  if (values.dtype === null) values.dtype = 'auto';
  if (values.dtype === 'float16') {
    notes.push('dtype float16 runs as bfloat16');
    values.dtype = 'bfloat16';
  }
  // The new spelling wins only where it was given; afterwards both say the same, as in TrainingArguments.
  const checkpointing = values.activation_checkpointing ?? values.gradient_checkpointing ?? false;
  values.activation_checkpointing = checkpointing;
  values.gradient_checkpointing = checkpointing;
  if (!checkpointing && values.plan_policy !== 'auto' && values.plan_policy !== 'none' && given.has('plan_policy')) {
    refuse(
      context,
      ['plan_policy'],
      `expected plan_policy none with gradient_checkpointing: false, received ${values.plan_policy}`,
      'set gradient_checkpointing: true',
    );
  }
  const optimizer = OPTIMIZERS[values.optim];
  if (optimizer?.note) notes.push(`optim ${values.optim} ${optimizer.note}`);
  if (values.loss_type === 'chunked_nll') {
    notes.push('loss_type chunked_nll is a retired spelling: write nll (logits are never materialised either way)');
    values.loss_type = 'nll';
  }
}

function applyAdapters(context: Context): void {
  const { values, given } = context;
  if (values.adapter_name_or_path !== null) {
    if (given.has('use_peft') && !values.use_peft) {
      refuse(
        context,
        ['use_peft'],
        'expected use_peft: true with adapter_name_or_path, received false',
        'remove one of the two',
      );
    }
    values.use_peft = true;
  }
  if (values.load_in_4bit && !values.use_peft) {
    refuse(
      context,
      ['load_in_4bit'],
      'expected an adapter on top of 4-bit weights (they cannot be trained themselves), received use_peft: false',
      'set use_peft: true',
    );
  }
  if (
    values.use_peft &&
    values.optim &&
    values.lora_modules_to_save === null &&
    values.added_special_tokens.length > 0
  ) {
    context.notes.push(
      'the rows of added_special_tokens stay as initialised: name embed_tokens in lora_modules_to_save to train them',
    );
  }
}

function applyReporting(context: Context): void {
  const { values, notes } = context;
  if (values.output_dir?.trim() === '')
    refuse(
      context,
      ['output_dir'],
      'output_dir: expected the path of a folder, received empty text',
      'name a folder, or leave it out',
    );
  values.output_dir ??= 'trainer_output';
  values.logging_dir ??= `${values.output_dir.replace(/[/\\]+$/, '')}/runs`;
  values.report_to = reporters(values.report_to, notes);
  values.debug = (typeof values.debug === 'string' ? values.debug.split(/\s+/) : values.debug).filter(
    (word) => word !== '',
  );
  for (const word of values.debug) {
    if (word !== 'underflow_overflow') notes.push(`debug ${word} has no effect`);
  }
}

function reporters(value: string | string[], notes: string[]): string[] {
  const names = (typeof value === 'string' ? [value] : value).filter((name) => name !== 'none' && name !== '');
  if (names.includes('all')) return ['tensorboard'];
  for (const name of names) {
    if (name !== 'tensorboard')
      notes.push(`report_to ${name} has no effect: metrics go to TensorBoard files and a JSON lines file`);
  }
  return names.filter((name) => name === 'tensorboard');
}

function applyIntervals(context: Context): void {
  const { values } = context;
  if (values.logging_strategy === 'steps' && values.logging_steps === 0) {
    refuse(
      context,
      ['logging_steps'],
      'logging_steps: expected a number > 0 with logging_strategy: steps, received 0',
      'set logging_strategy: no',
    );
  }
  if (values.eval_strategy === 'steps' && !values.eval_steps) {
    values.eval_steps = values.logging_steps;
    if (values.eval_steps === 0)
      refuse(
        context,
        ['eval_steps', 'eval_strategy'],
        'eval_steps: expected a number > 0, received 0',
        'set eval_steps',
      );
  }
  if (values.save_strategy === 'steps' && values.save_steps === 0) {
    refuse(
      context,
      ['save_steps'],
      'save_steps: expected a number > 0 with save_strategy: steps, received 0',
      'set save_strategy: no',
    );
  }
  if (values.eval_strategy !== 'no') values.do_eval = true;
  for (const key of ['logging_steps', 'eval_steps', 'save_steps'] as const) {
    const value = values[key];
    if (value !== null && value > 1 && !Number.isInteger(value)) {
      refuse(
        context,
        [key],
        `${key}: expected an integer above 1 or a fraction below 1, received ${value}`,
        'round it',
      );
    }
  }
  applyBestModel(context);
}

function applyBestModel(context: Context): void {
  const { values } = context;
  if (values.load_best_model_at_end || values.save_strategy === 'best') values.metric_for_best_model ??= 'loss';
  if (values.metric_for_best_model !== null)
    values.greater_is_better ??= !values.metric_for_best_model.endsWith('loss');
  if (values.save_strategy === 'best' && values.eval_strategy === 'no') {
    refuse(
      context,
      ['save_strategy'],
      'expected an eval_strategy with save_strategy: best, received no',
      'set eval_strategy: steps',
    );
  }
  if (!values.load_best_model_at_end || values.save_strategy === 'best') return;
  if (values.eval_strategy !== values.save_strategy) {
    refuse(
      context,
      ['load_best_model_at_end'],
      `expected equal eval_strategy and save_strategy with load_best_model_at_end, received ${values.eval_strategy} and ${values.save_strategy}`,
      'make them equal',
    );
  }
  const every = values.eval_steps;
  if (values.eval_strategy === 'steps' && every !== null) {
    const ratio = values.save_steps / every;
    if (every < 1 !== values.save_steps < 1 || Math.abs(ratio - Math.round(ratio)) > 1e-6) {
      refuse(
        context,
        ['save_steps', 'eval_steps'],
        `save_steps: expected a multiple of eval_steps (${every}) with load_best_model_at_end, received ${values.save_steps}`,
        'make it a multiple',
      );
    }
  }
}

const DATASET_ARGUMENTS = ['skip_prepare_dataset', 'add_special_tokens', 'append_concat_token'];

function applyData(context: Context): void {
  const { values, notes, where } = context;
  values.eval_packing ??= values.packing;
  if (values.datasets.length > 0 && values.dataset_name !== null) {
    notes.push('dataset_name is left aside because datasets is given');
  }
  const fractions = values.datasets.filter((member) => member.fraction !== null).length;
  if (fractions !== 0 && fractions !== values.datasets.length) {
    refuse(
      context,
      ['datasets'],
      `datasets: expected a fraction for every member or for none, received ${fractions} of ${values.datasets.length}`,
      'set them all',
    );
  }
  if (values.instruction_template !== null && values.response_template === null) {
    refuse(
      context,
      ['instruction_template'],
      'expected response_template with instruction_template, received none',
      'set response_template',
    );
  }
  if (values.packing && values.max_length === null) {
    refuse(
      context,
      ['packing', 'max_length'],
      'expected a max_length with packing: true, received null',
      'set max_length',
    );
  }
  if (values.token_cache !== null && values.shuffle_dataset) {
    refuse(
      context,
      ['shuffle_dataset', 'token_cache'],
      'shuffle_dataset: expected false with token_cache, received true',
      'remove it: rows are visited in a new random order in each epoch anyway',
    );
  }
  if (values.datasets.length > 0 && values.streaming) values.dataset_streaming = true;
  if (values.dataset_streaming) applyStreaming(context);
  else if (values.stream_lanes !== null)
    refuse(
      context,
      ['stream_lanes', 'dataset_streaming'],
      'stream_lanes: expected dataset_streaming: true, received false',
      'remove it: lanes are parts of a stream',
    );
  for (const name of Object.keys(values.dataset_kwargs ?? {})) {
    if (!DATASET_ARGUMENTS.includes(name)) {
      throw new LatheError('ERR_UNSUPPORTED', `dataset_kwargs.${name} is not supported`, {
        at: where('dataset_kwargs'),
        remedy: 'remove it',
      });
    }
    if (name !== 'skip_prepare_dataset')
      notes.push(`dataset_kwargs.${name} has no effect: it belongs to older releases of TRL`);
  }
}

/** A stream has no length and no order of its own to draw from. */
function applyStreaming(context: Context): void {
  const { values, notes } = context;
  if (values.max_length === null) {
    refuse(
      context,
      ['max_length', 'dataset_streaming'],
      'max_length: expected a number with dataset_streaming: true (batches have one shape before any row is read), received null',
      'set max_length',
    );
  }
  if (values.max_steps <= 0) {
    refuse(
      context,
      ['max_steps', 'dataset_streaming'],
      `max_steps: expected a positive number with dataset_streaming: true, since the length of a stream is unknown, received ${values.max_steps}`,
      'set max_steps',
    );
  }
  if (values.test_split_size !== null && values.test_split_size < 1) {
    refuse(
      context,
      ['test_split_size'],
      `test_split_size: expected a number of rows with dataset_streaming: true, received ${values.test_split_size}`,
      'give a number of rows: the first ones of the stream become the test split',
    );
  }
  if (values.token_cache !== null)
    refuse(
      context,
      ['token_cache'],
      'expected one of token_cache and dataset_streaming, received both',
      'a stream is tokenised as it is read: remove token_cache',
    );
  if (values.train_sampling_strategy === 'group_by_length') {
    notes.push(
      'train_sampling_strategy group_by_length has no effect on a stream: the rows of a window come in random order',
    );
  }
}

function applyDevice(context: Context): void {
  const { values } = context;
  if (!/^(auto|cpu|cuda(:\d+)?)$/.test(values.device)) {
    refuse(
      context,
      ['device'],
      `device: expected auto, cpu, cuda or cuda:N, received ${values.device}`,
      'write one of these',
    );
  }
  if (values.use_cpu && values.device.startsWith('cuda')) {
    refuse(
      context,
      ['use_cpu', 'device'],
      `expected device: cpu with use_cpu: true, received ${values.device}`,
      'remove one of the two',
    );
  }
  if (values.use_cpu) values.device = 'cpu';
  if (typeof values.memory_limit === 'string') values.memory_limit = memoryBytes(context, values.memory_limit);
}

const UNITS: Readonly<Record<string, number>> = { '': 0, k: 10, m: 20, g: 30, t: 40 };

/** `12GiB`, `12 GB` and `12g` are all binary units: a limit is a round number of memory, not of disk. */
function memoryBytes(context: Context, written: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?b)?\s*$/i.exec(written);
  if (!match)
    refuse(
      context,
      ['memory_limit'],
      `memory_limit: expected bytes or a size such as 12GiB, received ${JSON.stringify(written)}`,
      'write 12GiB',
    );
  return Math.floor(Number(match[1]) * 2 ** UNITS[match[2].toLowerCase()]);
}

/** The optimizer that runs for a name of `optim` (refused names never get this far). */
export function optimizerKind(optim: KeyValues['optim']): OptimizerKind {
  const optimizer = OPTIMIZERS[optim];
  if (!optimizer)
    throw new LatheError('ERR_UNSUPPORTED', `optim: ${optim} is not supported`, {
      remedy: `use one of ${Object.keys(OPTIMIZERS).join(', ')}`,
    });
  return optimizer.kind;
}
