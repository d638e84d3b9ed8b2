/** Keys about logging, evaluation, saving and the Hub (TrainingArguments). */

import { ignored, supported } from './key';
import { choice, either, flag, integer, nullable, number, text, textList } from './value-types';

const T = 'TrainingArguments';
const LEVELS = ['detail', 'debug', 'info', 'warning', 'error', 'critical', 'passive'] as const;
const hub = 'nothing is uploaded; the result lies in output_dir in the layout the Hub takes (hf upload)';
const trackio = 'Trackio is not written to';
const oneLoss = 'evaluation computes loss and token accuracy as it goes and keeps no predictions';

// prettier-ignore
export const loggingKeys = {
  logging_strategy: supported(choice(['no', 'steps', 'epoch']), 'steps', T, 'When to log.'),
  logging_steps: supported(number({ min: 0 }), 10, 'SFTConfig', 'Steps between two logs; below 1 a fraction of all steps.', { trainingDefault: 500 }),
  logging_first_step: supported(flag(), false, T, 'Log the first step too.'),
  logging_nan_inf_filter: ignored(flag(), true, T, 'Hide non-finite losses in the log.', 'a non-finite loss is an error that names its step'),
  log_level: ignored(choice(LEVELS), 'passive', T, 'How much is printed.', 'notes go to standard error, results to standard output'),
  log_level_replica: ignored(choice(LEVELS), 'warning', T, 'How much other processes print.', 'only the first process prints'),
  log_on_each_node: ignored(flag(), true, T, 'Log once per node.', 'only the first process prints'),
  disable_tqdm: supported(nullable(flag()), null, T, 'No progress line.'),
  report_to: supported(either(textList(), text()), 'none', T, 'Where metrics go: tensorboard, all or none. A JSON lines file is always written.'),
  run_name: supported(nullable(text()), null, T, 'Name of the run in the logs.'),
  include_num_input_tokens_seen: ignored(either(text(), flag()), 'no', T, 'Count the tokens seen.', 'tokens are always counted'),
  skip_memory_metrics: ignored(flag(), true, T, 'Leave memory out of the metrics.', 'memory is planned and always reported'),
  debug: supported(either(textList(), text()), '', T, 'underflow_overflow: check every value of every step and name the op where the first non-finite one appears (slow).'),
  project: ignored(text(), 'huggingface', T, 'Trackio project.', trackio),
  trackio_space_id: ignored(nullable(text()), null, T, 'Trackio space.', trackio),
  trackio_bucket_id: ignored(nullable(text()), null, T, 'Trackio bucket.', trackio),
  trackio_static_space_id: ignored(nullable(either(text(), flag())), null, T, 'Trackio static space.', trackio),
} as const;

// prettier-ignore
export const evaluationKeys = {
  eval_strategy: supported(choice(['no', 'steps', 'epoch']), 'no', T, 'When to evaluate.'),
  eval_steps: supported(nullable(number({ min: 0 })), null, T, 'Steps between two evaluations, below 1 a fraction of all steps; null: logging_steps.'),
  eval_delay: supported(number({ min: 0 }), 0, T, 'Steps (or epochs, after eval_strategy) before the first evaluation.'),
  eval_on_start: supported(flag(), false, T, 'Evaluate before the first step.'),
  prediction_loss_only: ignored(flag(), false, T, 'Return the loss only.', oneLoss),
  eval_do_concat_batches: ignored(flag(), true, T, 'Concatenate predictions over batches.', oneLoss),
  eval_use_gather_object: ignored(flag(), false, T, 'Gather nested objects from all devices.', oneLoss),
  eval_accumulation_steps: ignored(nullable(integer({ min: 1 })), null, T, 'Batches between moves of predictions to the host.', oneLoss),
  include_for_metrics: ignored(textList(), [], T, 'What compute_metrics is given.', oneLoss),
  batch_eval_metrics: ignored(flag(), false, T, 'Compute metrics per batch.', oneLoss),
} as const;

// prettier-ignore
export const savingKeys = {
  save_strategy: supported(choice(['no', 'steps', 'epoch', 'best']), 'steps', T, 'When to write a checkpoint.'),
  save_steps: supported(number({ min: 0 }), 500, T, 'Steps between two checkpoints; below 1 a fraction of all steps.'),
  save_total_limit: supported(nullable(integer({ min: 1 })), null, T, 'Checkpoints kept; the best one is never deleted.'),
  save_only_model: supported(flag(), false, T, 'Leave optimizer and schedule out of checkpoints; such a run cannot be resumed.'),
  save_on_each_node: ignored(flag(), false, T, 'Save on every node.', 'the first process saves'),
  load_best_model_at_end: supported(flag(), false, T, 'End with the best checkpoint\'s weights.'),
  metric_for_best_model: supported(nullable(text()), null, T, 'Metric that says which checkpoint is best; null: loss, where one is needed.'),
  greater_is_better: supported(nullable(flag()), null, T, 'Direction of that metric; null: false for names that end in loss.'),
  enable_jit_checkpoint: ignored(flag(), false, T, 'Write a checkpoint on SIGTERM.', 'SIGTERM always saves a checkpoint and stops the run'),
  push_to_hub: ignored(flag(), false, T, 'Upload the result to the Hub.', hub),
  hub_token: ignored(nullable(text()), null, T, 'Token for uploads.', hub),
  hub_private_repo: ignored(nullable(flag()), null, T, 'Upload to a private repository.', hub),
  hub_model_id: ignored(nullable(text()), null, T, 'Repository to upload to.', hub),
  hub_strategy: ignored(choice(['end', 'every_save', 'checkpoint', 'all_checkpoints']), 'every_save', T, 'What is uploaded when.', hub),
  hub_always_push: ignored(flag(), false, T, 'Upload even while another upload runs.', hub),
  hub_revision: ignored(nullable(text()), null, T, 'Branch to upload to.', hub),
} as const;
