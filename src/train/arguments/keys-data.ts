/** Keys about the data (TRL's ScriptArguments and DatasetMixtureConfig, and the data part of SFTConfig). */

import type { z } from 'zod';
import { ignored, supported } from './key';
import {
  choice,
  dictionary,
  either,
  flag,
  integer,
  nullable,
  number,
  structured,
  text,
  textList,
  zod,
} from './value-types';

/** One member of `datasets`, as in TRL's DatasetConfig. */
function mixtureMember() {
  const z = zod();
  return z.strictObject({
    path: z.string(),
    name: z.string().nullable().default(null),
    data_dir: z.string().nullable().default(null),
    data_files: z
      .union([z.string(), z.array(z.string()), z.record(z.string(), z.union([z.string(), z.array(z.string())]))])
      .nullable()
      .default(null),
    split: z.string().default('train'),
    columns: z.array(z.string()).nullable().default(null),
    fraction: z.number().gt(0).nullable().default(null),
  });
}

export type MixtureMember = z.output<ReturnType<typeof mixtureMember>>;

const always = 'data is read and tokenised ahead of the step on its own thread';

// prettier-ignore
export const dataKeys = {
  dataset_name: supported(nullable(text()), null, 'ScriptArguments', 'A data file (.jsonl, .json, .csv, .tsv, .parquet, .txt), a folder with train and test files, or a name on the Hub. Left aside when datasets is given.'),
  dataset_config: supported(nullable(text()), null, 'ScriptArguments', 'Subset of the dataset: a folder inside a local dataset folder, a configuration name on the Hub.'),
  dataset_train_split: supported(text(), 'train', 'ScriptArguments', 'Split to train on.'),
  dataset_test_split: supported(text(), 'test', 'ScriptArguments', 'Split to evaluate on.'),
  dataset_streaming: supported(flag(), false, 'ScriptArguments', 'Read, tokenise and pack rows while training instead of ahead of it: memory does not grow with the data. Needs max_steps and max_length; files come in their order unless shuffle_dataset is set, the blocks of 64 steps in random order unless train_sampling_strategy is sequential.'),
  datasets: supported(
    structured<MixtureMember[]>(() => zod().array(mixtureMember()) as unknown as z.ZodType<MixtureMember[]>, 'a list of mappings with a path'),
    [],
    'DatasetMixtureConfig',
    'Several datasets, one after the other: path, name, data_dir, data_files, split, columns, fraction. Fractions are shares of the mixture: the first rows of each are taken, as many as fit without repeating any; of streams, rows are drawn by these weights until one ends.',
  ),
  streaming: supported(flag(), false, 'DatasetMixtureConfig', 'dataset_streaming, for datasets.'),
  test_split_size: supported(nullable(either(integer({ min: 1 }), number({ above: 0, below: 1 }))), null, 'DatasetMixtureConfig', 'Rows set aside for the test split: a fraction below 1, or a number of rows. In TRL for datasets only; here also for dataset_name. Of a stream: a number of rows, the first ones.'),
  ignore_bias_buffers: ignored(flag(), false, 'ScriptArguments', 'Work around a problem of distributed PyTorch.', 'there is no such problem here'),

  dataset_text_field: supported(text(), 'text', 'SFTConfig', 'Column of plain text.'),
  dataset_kwargs: supported(nullable(dictionary()), null, 'SFTConfig', 'skip_prepare_dataset: true says that rows already hold input_ids (found by itself as well); add_special_tokens and append_concat_token of older releases are noted.'),
  dataset_num_proc: ignored(nullable(integer({ min: 1 })), null, 'SFTConfig', 'Processes for preparing the data.', always),
  eos_token: supported(nullable(text()), null, 'SFTConfig', 'Token that ends a row, if not the tokenizer\'s.'),
  pad_token: supported(nullable(text()), null, 'SFTConfig', 'Padding token, if not the tokenizer\'s. Rows lie end to end here, so it only matters for what is saved.'),
  max_length: supported(nullable(integer({ min: 1 })), 1024, 'SFTConfig', 'Longest row in tokens; longer ones are cut. null: no limit. With packing: the block length.'),
  truncation_mode: supported(choice(['keep_end', 'keep_start', 'drop', 'error']), 'keep_start', 'SFTConfig', 'Which end of a long row is kept; ours: drop leaves the row out, error stops.'),
  shuffle_dataset: supported(flag(), false, 'SFTConfig', 'Shuffle the rows once before anything else. A stream: through a buffer of shuffle_buffer_size rows and with its files in random order, anew in each epoch.'),
  packing: supported(flag(), false, 'SFTConfig', 'Lay several rows into one block of max_length. Attention never crosses a row.'),
  packing_strategy: supported(choice(['bfd', 'bfd_split', 'wrapped']), 'bfd', 'SFTConfig', 'bfd: best fit, long rows cut; bfd_split: best fit, long rows split; wrapped: one stream cut every max_length tokens.'),
  eval_packing: supported(nullable(flag()), null, 'SFTConfig', 'Packing of the test split; null: as packing.'),
  padding_free: ignored(flag(), false, 'SFTConfig', 'Flatten batches instead of padding them.', 'batches are always flat; padding costs nothing'),
  pad_to_multiple_of: ignored(nullable(either(integer({ min: 1 }), text())), 'auto', 'SFTConfig', 'Pad rows to a multiple of this.', 'batches are flat; sizes come from the plan\'s buckets'),
  completion_only_loss: supported(nullable(flag()), null, 'SFTConfig', 'Loss on completions only. null: yes for rows with prompt and completion, no for text.'),
  assistant_only_loss: supported(flag(), false, 'SFTConfig', 'Loss on the assistant\'s turns only (conversations).'),
  loss_type: supported(choice(['nll', 'dft', 'chunked_nll']), 'nll', 'SFTConfig', 'nll: negative log-likelihood; dft: each token\'s loss weighted by its own probability; chunked_nll: the same as nll.'),

  remove_unused_columns: ignored(flag(), true, 'TrainingArguments', 'Drop columns the model does not take.', 'only the columns that are needed are read'),
  label_names: ignored(nullable(textList()), null, 'TrainingArguments', 'Columns that hold labels.', 'labels are made with the batch'),
  train_sampling_strategy: supported(choice(['random', 'sequential', 'group_by_length', 'batch_rebalance']), 'random', 'TrainingArguments', 'Order of the rows within an epoch.', {
    refused: { batch_rebalance: 'use random or group_by_length' },
  }),
  length_column_name: ignored(text(), 'length', 'TrainingArguments', 'Column with precomputed lengths.', 'lengths are known once rows are tokenised'),
  dataloader_drop_last: supported(flag(), false, 'TrainingArguments', 'Drop the last incomplete batch of an epoch.'),
  dataloader_num_workers: ignored(integer({ min: 0 }), 0, 'TrainingArguments', 'Processes that load data.', always),
  dataloader_pin_memory: ignored(flag(), true, 'TrainingArguments', 'Pin host memory.', always),
  dataloader_persistent_workers: ignored(flag(), false, 'TrainingArguments', 'Keep loader processes between epochs.', always),
  dataloader_prefetch_factor: ignored(nullable(integer({ min: 1 })), null, 'TrainingArguments', 'Batches loaded ahead by each process.', always),
  dataloader_multiprocessing_context: ignored(nullable(choice(['fork', 'spawn', 'forkserver'])), null, 'TrainingArguments', 'How loader processes start.', always),
  dataloader_in_order: ignored(flag(), true, 'TrainingArguments', 'Yield batches in the order they were asked for.', 'batches always come in order'),
} as const;
