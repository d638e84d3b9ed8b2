/**
 * Trains the tokenizer of the small base model with this project's own trainer: byte-level BPE, 4,096 tokens.
 *
 *   npx ts-node scripts/assets/tokenizer.ts        (after scripts/assets/corpus.ts)
 *
 * Reads data/corpus/train.jsonl, writes tokenizer.json and tokenizer_config.json to data/base-model/. The base model
 * has to be trained again when the tokenizer changes: ids are what its weights know.
 */
import { createReadStream, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { loadNative } from '../../src/runtime/binding';
import type { NativeTokenizerTraining } from '../../src/tokenizers/native-training';
import { trainNewFromIterator } from '../../src/tokenizers/train';

const data = join(__dirname, '../../data');
const SPECIAL_TOKENS = ['<|endoftext|>', '<|pad|>', '<|im_start|>', '<|im_end|>', '<|reserved_0|>', '<|reserved_1|>'];

async function* corpus(): AsyncGenerator<string> {
  const lines = createInterface({
    input: createReadStream(join(data, 'corpus/train.jsonl'), 'utf8'),
    crlfDelay: Infinity,
  });
  for await (const line of lines) yield (JSON.parse(line) as { text: string }).text;
}

/** Trains and writes; gives the number of distinct words that were counted. */
async function trainTokenizer(native: NativeTokenizerTraining): Promise<number> {
  const { tokenizer, stats } = await trainNewFromIterator(null, corpus(), {
    native,
    vocabSize: 4096,
    specialTokens: SPECIAL_TOKENS,
    bosToken: '<|endoftext|>',
    eosToken: '<|endoftext|>',
    padToken: '<|pad|>',
    preTokenizer: 'gpt2',
  });
  const target = join(data, 'base-model');
  tokenizer.savePretrained(target);
  // A base model adds nothing of its own; the trainer appends EOS to each document.
  const config = {
    add_bos_token: false,
    add_prefix_space: false,
    bos_token: '<|endoftext|>',
    clean_up_tokenization_spaces: false,
    eos_token: '<|endoftext|>',
    model_max_length: 512,
    pad_token: '<|pad|>',
    tokenizer_class: 'PreTrainedTokenizerFast',
  };
  writeFileSync(join(target, 'tokenizer_config.json'), `${JSON.stringify(config, null, 2)}\n`);
  return stats.words;
}

if (require.main === module) {
  void trainTokenizer(loadNative() as unknown as NativeTokenizerTraining).then((words) =>
    console.log(`data/base-model/tokenizer.json: 4,096 tokens from ${words} distinct words`),
  );
}
