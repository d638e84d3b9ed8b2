/** Our own keys. Each has a default with which a file written for TRL keeps its meaning. */

import type { z } from 'zod';
import { FINDING_CODES } from '../../data/doctor';
import { supported } from './key';
import { choice, choices, either, flag, integer, nullable, structured, text, textList, zod } from './value-types';

function condition() {
  const z = zod();
  const scalar = z.union([z.string(), z.number(), z.boolean(), z.null()]);
  return z.union([scalar, z.array(scalar), z.strictObject({ not: z.union([scalar, z.array(scalar)]) })]);
}

/** column -> the value it must have, a list of allowed values, or {not: ...}; all columns must match. */
export type RowFilter = Record<string, z.output<ReturnType<typeof condition>>>;

const L = 'lathe';

// prettier-ignore
export const latheKeys = {
  from_config: supported(flag(), false, L, 'Start from random weights: only config.json of model_name_or_path is read (pretraining).'),
  adapter_name_or_path: supported(nullable(text()), null, L, 'PEFT adapter folder to go on from; implies use_peft, and its own r, alpha and target modules are used.'),
  tokenizer_name_or_path: supported(nullable(text()), null, L, 'Tokenizer folder, if not the model\'s.'),
  added_special_tokens: supported(textList(), [], L, 'Special tokens added to the tokenizer; the embeddings are resized to match. With use_peft, name embed_tokens (and lm_head when untied) in lora_modules_to_save to train the new rows.'),
  resize_to_multiple_of: supported(nullable(integer({ min: 1 })), null, L, 'Round the resized vocabulary up to a multiple of this.'),

  dataset_format: supported(choice(['auto', 'text', 'prompt_completion', 'messages', 'alpaca', 'tokens']), 'auto', L, 'What a row is. auto goes by the columns; alpaca makes a prompt of instruction and input with the Alpaca template and takes output as the completion (loss on the completion only, unless completion_only_loss: false).'),
  formatting: supported(nullable(either(text(), structured(() => zod().strictObject({ prompt: zod().string(), completion: zod().string() }), 'a mapping with prompt and completion'))), null, L, 'Template with {column} placeholders that makes each row a text, or {prompt: ..., completion: ...} templates; {{ and }} stand for braces.'),
  system_prompt: supported(nullable(text()), null, L, 'System message for conversations that have none.'),
  instruction_template: supported(nullable(text()), null, L, 'Text that opens an instruction. With response_template: loss between each response and the next instruction.'),
  response_template: supported(nullable(text()), null, L, 'Text that opens a response: loss only after it (after its last occurrence when there is no instruction_template).'),
  row_filter: supported(
    nullable(structured<RowFilter>(() => zod().record(zod().string(), condition()) as unknown as z.ZodType<RowFilter>, 'a mapping from column to a value, a list of values or {not: ...}')),
    null,
    L,
    'Keep only rows whose columns match: {input: ""} keeps rows with an empty input; a list means any of; {not: ...} the opposite.',
  ),
  split_seed: supported(nullable(integer({ min: 0 })), null, L, 'Seed of the split that test_split_size makes; null: seed.'),
  max_train_samples: supported(nullable(integer({ min: 1 })), null, L, 'Use only the first so many training rows (after filter and split).'),
  max_eval_samples: supported(nullable(integer({ min: 1 })), null, L, 'Use only the first so many test rows.'),

  shuffle_buffer_size: supported(integer({ min: 1 }), 1000, L, 'Rows that a shuffled stream draws from; a checkpoint holds them.'),
  stream_lanes: supported(nullable(integer({ min: 1 })), null, L, 'Parts of a stream that are read each for itself: its files are dealt to this many lanes, and the lanes to the ranks. 1: every rank reads all of it; else a multiple of the ranks, and at most the number of files. The data of a step depends on it. null: that of the checkpoint; for a new run as many as ranks, or 1 where there are fewer files.'),
  on_bad_row: supported(choice(['error', 'skip']), 'error', L, 'A line or row that cannot be read or lacks its columns: stop with its file and line, or leave it out and say so.'),
  token_cache: supported(nullable(text()), null, L, 'Folder in which the tokenised rows of dataset_name are kept: built once, read from disk as they are needed, and used again while files, tokenizer and settings are the same. null: rows are tokenised into memory.'),
  doctor_allow: supported(choices(FINDING_CODES), [], L, 'Findings of the data doctor to accept instead of stopping, e.g. answer_cut.'),
  sample_prompts: supported(textList(), [], L, 'Prompts answered greedily before the first and after the last step; with dataset_format alpaca they are instructions.'),
  logging_dir: supported(nullable(text()), null, L, 'Folder of the TensorBoard files; null: output_dir/runs.'),
  device: supported(text(), 'auto', L, 'auto, cpu, cuda or cuda:N. auto takes the first GPU when there is one (and no other process trains with this one), else the CPU.'),
  threads: supported(nullable(integer({ min: 1, max: 1024 })), null, L, 'CPU threads; null: LATHE_THREADS, else all cores of the process. Results do not depend on it.'),
  zero: supported(integer({ min: 0, max: 1 }), 0, L, 'With several processes (mpirun, srun): 1 keeps the optimizer state of each parameter on one rank only (ZeRO stage 1). Results do not depend on it.'),
  plan_policy: supported(choice(['auto', 'none', 'light', 'smart', 'block']), 'auto', L, 'What the backward pass recomputes: none, light (norms and activations only), smart (keeps attention outputs), block (keeps only block inputs). auto takes the fastest that fits when gradient_checkpointing is on, else none.'),
  memory_limit: supported(nullable(either(integer({ min: 1 }), text())), null, L, 'Most memory the plan may use, in bytes or as 12GiB; null: what the device has free.'),
  plan_only: supported(flag(), false, L, 'Print the plan and stop.'),
} as const;
