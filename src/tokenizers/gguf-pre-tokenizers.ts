/**
 * What the names in a GGUF's `tokenizer.ggml.pre` say: how text is cut into words, and whether it begins with BOS.
 *
 * A name decides right or silently wrong ids, so it stands here only when its pattern is one of byte-level.ts.
 * Source: llama.cpp's vocabulary loader, which treats many names alike.
 */
import type { PreTokenizerKind } from './byte-level';

/** llama.cpp adds BOS to these byte-level vocabularies unless the file says otherwise; all of them cut as Llama 3 does. */
export const BOS_BY_DEFAULT = new Set([
  'llama-bpe',
  'llama3',
  'llama-v3',
  'falcon3',
  'falcon-h1',
  'pixtral',
  'midm-2.0',
  'lfm2',
]);

/** `tokenizer.ggml.pre` -> how it cuts. Names that llama.cpp treats alike share a row. */
export const PRE_TOKENIZERS: Record<string, PreTokenizerKind> = {};
for (const name of [
  'gpt-2',
  'phi-2',
  'jina-es',
  'jina-de',
  'jina-v2-es',
  'jina-v2-de',
  'mpt',
  'olmo',
  'jais',
  'roberta-bpe',
  'modern-bert',
])
  PRE_TOKENIZERS[name] = 'gpt2';
for (const name of ['smollm', 'starcoder', 'refact', 'command-r', 'codeshell', 'exaone', 'minerva-7b'])
  PRE_TOKENIZERS[name] = 'gpt2-digits';
for (const name of [...BOS_BY_DEFAULT, 'dbrx', 'smaug-bpe']) PRE_TOKENIZERS[name] = 'llama3';
for (const name of ['qwen2', 'deepseek-r1-qwen', 'kormo', 'megrez']) PRE_TOKENIZERS[name] = 'qwen2';

/** Every `tokenizer.ggml.pre` that is known; `default` has a pattern of its own. */
export const KNOWN_GGUF_PRE_TOKENIZERS: readonly string[] = [...Object.keys(PRE_TOKENIZERS), 'default'];
