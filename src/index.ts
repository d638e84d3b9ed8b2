/** The public API, by explicit re-export; nothing else. */
export { LatheError, hasCode, type ErrorCode } from './errors';

export { AutoModelForCausalLM, type FromPretrainedOptions } from './pretrained/auto';
export { PreTrainedModel } from './pretrained/model';
export { AutoPeftModelForCausalLM, getPeftModel, PeftModel } from './pretrained/peft-model';
export { mergeAndUnload } from './pretrained/merge';
export { saveMerged } from './pretrained/save';
export { convertGguf } from './pretrained/convert';
export { LoraConfig, type LoraOptions } from './peft/lora-config';
export { BitsAndBytesConfig, type BitsAndBytesOptions } from './quantization/bitsandbytes';

export { AutoTokenizer } from './pretrained/auto-tokenizer';
export type { Tokenizer } from './tokenizers/tokenizer';
export { tokenizerFromGguf } from './tokenizers/gguf-tokenizer';

export {
  Dataset,
  loadDataset,
  interleave,
  IterableDataset,
  DataCollatorForLanguageModeling,
  alpacaPrompt,
  type Row,
} from './data';

export { SFTTrainer, type SFTTrainerOptions } from './train/sft-trainer';
export { currentWorld, type World } from './runtime/world';
export { SFTConfig, TrainingArguments, loadConfig, type ResolvedConfig } from './train/arguments';
export { EarlyStoppingCallback, type TrainerCallback, type TrainEvent } from './train/events';

export { generate, generateAll, type GenerateOptions } from './generation/generate';
export { pipeline } from './pipelines/pipeline';

export { planRun, type RunPlan } from './train/plan-run';
