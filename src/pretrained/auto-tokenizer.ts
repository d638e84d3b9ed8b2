/**
 * AutoTokenizer as users know it: loading, which is src/tokenizers' own, and training, which needs the addon. Importing
 * this file also gives every tokenizer its `trainNewFromIterator` and its native `encodeIds`.
 */
import { createBpeEncoder, tokenizerTraining } from '../runtime/tokenizer-training';
import { AutoTokenizer as Loader } from '../tokenizers/auto-tokenizer';
import { provideBpeEncoder } from '../tokenizers/id-encoder';
import type { Tokenizer } from '../tokenizers/tokenizer';
import { trainNewFromIterator, type TextSource, type TrainedTokenizer } from '../tokenizers/train';
import { provideTokenizerTrainer, type TrainOptions } from '../tokenizers/training-hook';

/**
 * Trains and tells how it went (words counted, words dropped under the memory cap).
 * @param model keeps this tokenizer's pipeline; null starts from nothing
 */
export function trainTokenizer(
  model: Tokenizer | null,
  texts: TextSource,
  options: TrainOptions,
): Promise<TrainedTokenizer> {
  return trainNewFromIterator(model, texts, { ...options, native: tokenizerTraining });
}

async function trained(model: Tokenizer | null, texts: TextSource, options: TrainOptions): Promise<Tokenizer> {
  const { tokenizer, stats } = await trainTokenizer(model, texts, options);
  if (stats.prunedWords > 0) {
    const message = `tokenizer training reached its memory cap: ${stats.prunedWords} rare words (${stats.prunedOccurrences} occurrences) were dropped, so the merges may differ from an exact run`;
    process.emitWarning(message, 'LatheWarning');
  }
  return tokenizer;
}

provideTokenizerTrainer(trained);
provideBpeEncoder(createBpeEncoder);

export const AutoTokenizer = {
  ...Loader,
  /**
   * Learns a byte-level BPE vocabulary from single texts or batches of them, from nothing. To keep another tokenizer's
   * pipeline and special tokens, call `trainNewFromIterator` on that one.
   * Errors: ERR_CONFIG for a vocabulary smaller than its fixed part; ERR_DATA for no text, or an item that is none.
   */
  trainNewFromIterator: (texts: TextSource, options: TrainOptions): Promise<Tokenizer> => trained(null, texts, options),
};
