/** Keys about the model, its weights, quantisation and adapters (TRL's ModelConfig, and the model part of SFTConfig). */

import { ignored, supported, unsupported } from './key';
import { choice, dictionary, either, flag, integer, nullable, number, text, textList } from './value-types';

// prettier-ignore
export const modelKeys = {
  model_name_or_path: supported(nullable(text()), null, 'ModelConfig', 'Folder of a checkpoint in the Hugging Face layout, a GGUF file, or a name on the Hub.'),
  model_revision: supported(text(), 'main', 'ModelConfig', 'Branch, tag or commit when the model comes from the Hub.'),
  dtype: supported(
    nullable(choice(['auto', 'bfloat16', 'float16', 'float32'])),
    'float32',
    'ModelConfig',
    'dtype the base weights are loaded in; auto takes the one in config.json. float16 runs as bfloat16.',
  ),
  attn_implementation: ignored(nullable(text()), null, 'ModelConfig', 'Attention implementation.', 'there is one attention here, tiled and of variable length, on every device'),
  trust_remote_code: ignored(flag(), false, 'SFTConfig', 'Run Python code that ships with a checkpoint.', 'no Python code is ever run; an architecture that needs it is refused by name'),
  model_init_kwargs: supported(
    nullable(dictionary()),
    null,
    'SFTConfig',
    'Arguments for loading the model. dtype (or torch_dtype) and revision are honoured; attn_implementation, use_cache, device_map, low_cpu_mem_usage and use_kernels change nothing here; anything else is refused.',
  ),
  router_aux_loss_coef: unsupported(nullable(number()), null, 'SFTConfig', 'Weight of the load-balancing loss of mixture-of-experts models.', 'mixture-of-experts models are not supported'),
  use_cache: ignored(flag(), false, 'TrainingArguments', 'Use a key/value cache during training.', 'training never uses a cache'),
  chat_template_path: supported(nullable(text()), null, 'SFTConfig', 'Tokenizer folder or .jinja file whose chat template replaces the tokenizer\'s.'),
} as const;

// prettier-ignore
export const loraKeys = {
  use_peft: supported(flag(), false, 'ModelConfig', 'Train a LoRA adapter instead of the weights themselves.'),
  lora_r: supported(integer({ min: 1 }), 16, 'ModelConfig', 'Rank of the adapter.'),
  lora_alpha: supported(integer({ min: 1 }), 32, 'ModelConfig', 'Scale numerator: the adapter is multiplied by lora_alpha / lora_r.'),
  lora_dropout: supported(number({ min: 0, below: 1 }), 0.05, 'ModelConfig', 'Dropout on the adapter\'s input.'),
  lora_target_modules: supported(
    nullable(textList()),
    null,
    'ModelConfig',
    'Names (or name endings) of the linear layers that get an adapter; `all-linear` for every one but the head; one regular expression over whole paths. null: the defaults PEFT has for the architecture.',
  ),
  lora_target_parameters: unsupported(nullable(textList()), null, 'ModelConfig', 'Parameters (not modules) that get an adapter.', 'name the modules in lora_target_modules'),
  lora_modules_to_save: supported(nullable(textList()), null, 'ModelConfig', 'Modules trained in full and saved with the adapter, e.g. embed_tokens and lm_head.'),
  lora_task_type: supported(choice(['CAUSAL_LM', 'SEQ_CLS', 'SEQ_2_SEQ_LM', 'TOKEN_CLS', 'QUESTION_ANS', 'FEATURE_EXTRACTION']), 'CAUSAL_LM', 'ModelConfig', 'Task type written into adapter_config.json.'),
  use_rslora: supported(flag(), false, 'ModelConfig', 'Rank-stabilised scale: lora_alpha / sqrt(lora_r).'),
  use_dora: unsupported(flag(), false, 'ModelConfig', 'Weight-decomposed adaptation (DoRA).', 'set use_dora: false'),
  load_in_8bit: unsupported(flag(), false, 'ModelConfig', 'Load the base weights in 8 bit.', 'use load_in_4bit: true'),
  load_in_4bit: supported(flag(), false, 'ModelConfig', 'Quantise the frozen base weights to 4 bit while loading; needs use_peft.'),
  bnb_4bit_quant_type: supported(choice(['fp4', 'nf4']), 'nf4', 'ModelConfig', '4-bit data type.'),
  use_bnb_nested_quant: supported(flag(), false, 'ModelConfig', 'Double quantisation: the block scales are quantised to 8 bit as well.'),
  bnb_4bit_quant_storage: ignored(nullable(text()), null, 'ModelConfig', 'dtype the packed codes are stored as.', 'codes are stored as uint8, which every reader of the format takes'),
} as const;

// prettier-ignore
export const precisionKeys = {
  bf16: supported(nullable(flag()), null, 'SFTConfig', 'bfloat16 activations and matmuls (adapters, norms\' sums, loss and optimizer stay fp32). null: true unless fp16 is set.', { trainingDefault: false }),
  fp16: supported(flag(), false, 'TrainingArguments', 'float16 mixed precision; run as bf16, which needs no loss scaling.'),
  bf16_full_eval: ignored(flag(), false, 'TrainingArguments', 'Evaluate in full bf16.', 'evaluation uses the precision of training'),
  fp16_full_eval: ignored(flag(), false, 'TrainingArguments', 'Evaluate in full fp16.', 'evaluation uses the precision of training'),
  tf32: ignored(nullable(flag()), null, 'TrainingArguments', 'TF32 matmuls on NVIDIA GPUs.', 'precision is explicit here: fp32 stays fp32; choose bf16 for speed'),
  gradient_checkpointing: supported(nullable(flag()), true, 'SFTConfig', 'Allow activations to be recomputed in the backward pass. true lets the plan choose (see plan_policy), false never recomputes; results are the same bit for bit.', { trainingDefault: null }),
  gradient_checkpointing_kwargs: ignored(nullable(either(dictionary(), text())), null, 'TrainingArguments', 'Options of PyTorch\'s checkpointing.', 'recomputation is planned by the compiler; see plan_policy'),
  activation_checkpointing: supported(nullable(flag()), null, 'TrainingArguments', 'The new name of gradient_checkpointing; when set it wins.'),
  activation_checkpointing_kwargs: ignored(nullable(either(dictionary(), text())), null, 'TrainingArguments', 'Options of activation checkpointing.', 'recomputation is planned by the compiler; see plan_policy'),
  activation_offloading: ignored(flag(), false, 'SFTConfig', 'Move activations to host memory.', 'the plan is refused before the run starts if activations do not fit; then see plan_policy'),
  torch_compile: ignored(flag(), false, 'TrainingArguments', 'Compile the model.', 'every step is compiled'),
  torch_compile_backend: ignored(nullable(text()), null, 'TrainingArguments', 'Backend of torch.compile.', 'every step is compiled'),
  torch_compile_mode: ignored(nullable(text()), null, 'TrainingArguments', 'Mode of torch.compile.', 'every step is compiled'),
  use_liger_kernel: ignored(flag(), false, 'TrainingArguments', 'Patch the model with fused kernels.', 'fused kernels are always used'),
  liger_kernel_config: ignored(nullable(dictionary()), null, 'TrainingArguments', 'Options of the fused kernels.', 'fused kernels are always used'),
  torch_empty_cache_steps: ignored(nullable(integer({ min: 1 })), null, 'TrainingArguments', 'Empty the allocator\'s cache every so many steps.', 'memory is planned; there is no cache to empty'),
  auto_find_batch_size: ignored(flag(), false, 'TrainingArguments', 'Halve the batch until it fits.', 'the plan knows before the run whether the batch fits, and says what would'),
} as const;
