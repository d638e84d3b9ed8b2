/** Keys about the length of a run, the optimizer and the schedule (TrainingArguments). */

import { ignored, supported, unsupported } from './key';
import { choice, dictionary, either, flag, integer, nullable, number, text, textList } from './value-types';

const T = 'TrainingArguments';

/** Every optimizer name of transformers; `OPTIMIZERS` says which of them run and as what. */
// prettier-ignore
const OPTIMIZER_NAMES = [
  'adamw_torch', 'adamw_torch_fused', 'adamw_torch_xla', 'adamw_torch_npu_fused', 'adafactor', 'adamw_anyprecision',
  'adamw_torch_4bit', 'adamw_torch_8bit', 'ademamix', 'sgd', 'adagrad', 'adamw_bnb_8bit', 'adamw_8bit', 'ademamix_8bit',
  'lion_8bit', 'lion_32bit', 'paged_adamw_32bit', 'paged_adamw_8bit', 'paged_ademamix_32bit', 'paged_ademamix_8bit',
  'paged_lion_32bit', 'paged_lion_8bit', 'rmsprop', 'rmsprop_bnb', 'rmsprop_bnb_8bit', 'rmsprop_bnb_32bit', 'galore_adamw',
  'galore_adamw_8bit', 'galore_adafactor', 'galore_adamw_layerwise', 'galore_adamw_8bit_layerwise', 'galore_adafactor_layerwise',
  'lomo', 'adalomo', 'grokadamw', 'schedule_free_radam', 'schedule_free_adamw', 'schedule_free_sgd', 'apollo_adamw',
  'apollo_adamw_layerwise', 'stable_adamw', 'adamw_hf',
] as const;

export type OptimizerName = (typeof OPTIMIZER_NAMES)[number];
export type OptimizerKind = 'adamw' | 'adamw_8bit';

const paged = 'optimizer state is in the plan from the start, so nothing is paged';

/** Names that run, the optimizer they run as, and a note where the name promised something else. */
export const OPTIMIZERS: Readonly<Partial<Record<OptimizerName, { kind: OptimizerKind; note?: string }>>> = {
  adamw_torch: { kind: 'adamw' },
  adamw_torch_fused: { kind: 'adamw' },
  adamw_torch_xla: { kind: 'adamw', note: 'runs as adamw_torch' },
  adamw_torch_npu_fused: { kind: 'adamw', note: 'runs as adamw_torch' },
  adamw_hf: { kind: 'adamw', note: 'retired in transformers; runs as adamw_torch' },
  adamw_8bit: { kind: 'adamw_8bit' },
  adamw_bnb_8bit: { kind: 'adamw_8bit' },
  paged_adamw_32bit: { kind: 'adamw', note: `runs as adamw_torch: ${paged}` },
  paged_adamw_8bit: { kind: 'adamw_8bit', note: `runs as adamw_8bit: ${paged}` },
};

const refusedOptimizers = Object.fromEntries(
  OPTIMIZER_NAMES.filter((name) => !(name in OPTIMIZERS)).map((name) => [
    name,
    `use one of ${Object.keys(OPTIMIZERS).join(', ')}`,
  ]),
);

// prettier-ignore
export const trainingKeys = {
  output_dir: supported(nullable(text()), null, T, 'Folder for checkpoints, logs and the result; null: trainer_output.'),
  per_device_train_batch_size: supported(integer({ min: 1 }), 8, T, 'Rows (or packed blocks) per micro-batch and device.'),
  per_device_eval_batch_size: supported(integer({ min: 1 }), 8, T, 'Rows per evaluation batch and device.'),
  gradient_accumulation_steps: supported(integer({ min: 1 }), 1, T, 'Micro-batches per optimizer step. The loss is exact over all their tokens, however they are split.'),
  num_train_epochs: supported(number({ above: 0 }), 3, T, 'Passes over the training split; fractions are fine.'),
  max_steps: supported(integer({ min: -1 }), -1, T, 'Optimizer steps; above 0 it overrides num_train_epochs.'),
  seed: supported(integer({ min: 0 }), 42, T, 'Seed of everything random.'),
  data_seed: supported(nullable(integer({ min: 0 })), null, T, 'Seed of the data order; null: seed.'),
  full_determinism: ignored(flag(), false, T, 'Use deterministic kernels only.', 'runs are always deterministic'),
  do_train: ignored(flag(), false, T, 'Read by scripts only.', 'the command says whether to train'),
  do_eval: supported(flag(), false, T, 'Evaluate; set by eval_strategy.'),
  do_predict: ignored(flag(), false, T, 'Read by scripts only.', 'the command says what to run'),
  average_tokens_across_devices: ignored(flag(), true, T, 'Count tokens over all devices when averaging the loss.', 'the token count is always over all devices'),
  resume_from_checkpoint: supported(nullable(either(flag(), text())), null, T, 'Checkpoint folder to go on from, or true for the newest in output_dir.'),
  ignore_data_skip: supported(flag(), false, T, 'Do not skip to the row where the resumed run stopped.'),
  restore_callback_states_from_checkpoint: ignored(flag(), false, T, 'Restore the callbacks\' states.', 'the trainer\'s own state is always restored'),
} as const;

// prettier-ignore
export const optimizerKeys = {
  learning_rate: supported(number({ min: 0 }), 2e-5, 'SFTConfig', 'Peak learning rate.', { trainingDefault: 5e-5 }),
  lr_scheduler_type: supported(
    choice(['linear', 'cosine', 'cosine_with_restarts', 'polynomial', 'constant', 'constant_with_warmup', 'inverse_sqrt', 'reduce_lr_on_plateau', 'cosine_with_min_lr', 'cosine_warmup_with_min_lr', 'warmup_stable_decay', 'greedy']),
    'linear',
    T,
    'Shape of the learning rate over the run.',
    {
      refused: {
        reduce_lr_on_plateau: 'use a schedule that is a function of the step, such as cosine',
        greedy: 'use a schedule that is a function of the step, such as cosine',
      },
    },
  ),
  lr_scheduler_kwargs: supported(nullable(dictionary()), null, T, 'Parameters of the schedule, e.g. {num_cycles: 2} or {num_decay_steps: 100}.'),
  warmup_steps: supported(number({ min: 0 }), 0, T, 'Steps of warm-up; below 1 a fraction of all steps.'),
  optim: supported(choice(OPTIMIZER_NAMES), 'adamw_torch_fused', T, `Optimizer: ${Object.keys(OPTIMIZERS).join(', ')}.`, { refused: refusedOptimizers }),
  optim_args: unsupported(nullable(text()), null, T, 'Extra optimizer arguments.', 'use adam_beta1, adam_beta2, adam_epsilon and weight_decay'),
  optim_target_modules: unsupported(nullable(either(textList(), text())), null, T, 'Modules that GaLore and APOLLO work on.', 'use one of the AdamW optimizers'),
  weight_decay: supported(number({ min: 0 }), 0, T, 'Decoupled weight decay; biases and norm weights are left out.'),
  adam_beta1: supported(number({ min: 0, below: 1 }), 0.9, T, 'Decay rate of the first moment.'),
  adam_beta2: supported(number({ min: 0, below: 1 }), 0.999, T, 'Decay rate of the second moment.'),
  adam_epsilon: supported(number({ min: 0 }), 1e-8, T, 'Added to the denominator.'),
  max_grad_norm: supported(number({ min: 0 }), 1, T, 'Global gradient norm is clipped to this; 0: no clipping.'),
  label_smoothing_factor: unsupported(number({ min: 0, max: 1 }), 0, T, 'Label smoothing.', 'set it to 0'),
  neftune_noise_alpha: unsupported(nullable(number({ min: 0 })), null, T, 'NEFTune noise on the embeddings.', 'leave it out'),
} as const;
