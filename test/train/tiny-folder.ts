/** A model folder with weights and tokenizer, rows and a configuration on disk: what commands and bad-input tests start from. */
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AutoModelForCausalLM } from '../../src/pretrained/auto';

const TOKENIZER = join(__dirname, '../../data/base-model');

export const TINY_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 4096,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
  pad_token_id: 1,
  dtype: 'float32',
};

/** Saves a random model of 4096 x 32 with the bundled tokenizer. */
export async function writeModel(dir: string, config: Record<string, unknown> = TINY_CONFIG): Promise<string> {
  const model = AutoModelForCausalLM.fromConfig(config, { threads: 1 });
  await model.savePretrained(dir);
  await model.close();
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) copyFileSync(join(TOKENIZER, file), join(dir, file));
  return dir;
}

export const ALPACA_ROWS = [
  'red',
  'tall',
  'a rabbit',
  'Malta',
  'seven',
  'the sea',
  'rain',
  'bread',
  'wool',
  'a king',
  'the moon',
  'salt',
].map((word, i) => ({
  instruction: `Say something about ${word}.`,
  input: i % 3 === 2 ? 'Be short.' : '',
  output: `This is about ${word}.`,
}));

/** `train.jsonl` and `test.jsonl` in Alpaca's columns. */
export function writeRows(
  dir: string,
  train: readonly object[] = ALPACA_ROWS.slice(0, 9),
  test: readonly object[] | null = ALPACA_ROWS.slice(9),
): string {
  mkdirSync(dir, { recursive: true });
  const lines = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  writeFileSync(join(dir, 'train.jsonl'), lines(train));
  if (test) writeFileSync(join(dir, 'test.jsonl'), lines(test));
  return dir;
}

/** A YAML file of a short LoRA run of that model on those rows; `extra` comes last. */
export function writeConfig(
  file: string,
  paths: { model: string; data: string; out: string; format?: string },
  extra = '',
): string {
  writeFileSync(
    file,
    `# A small run.
model_name_or_path: ${paths.model}
dataset_name: ${paths.data}
dataset_format: ${paths.format ?? 'alpaca'}
output_dir: ${paths.out}
use_peft: true
lora_r: 4
lora_target_modules: [q_proj, v_proj]
max_steps: 4
per_device_train_batch_size: 2
learning_rate: 1.0e-3
bf16: false
threads: 1
logging_steps: 2
${extra}`,
  );
  return file;
}
