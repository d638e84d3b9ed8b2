/**
 * The seam between a tokenizer and its training. Training needs the addon, which nothing in this folder may know; so a
 * layer above provides it (src/pretrained/auto-tokenizer.ts) and `tokenizer.trainNewFromIterator` finds it here.
 */
import { LatheError } from '../errors';
import type { TextSource, TrainTokenizerOptions } from './train';
import type { Tokenizer } from './tokenizer';

/** Options of the public calls: all but the native side. */
export type TrainOptions = Omit<TrainTokenizerOptions, 'native'>;

export type TokenizerTrainer = (
  model: Tokenizer | null,
  texts: TextSource,
  options: TrainOptions,
) => Promise<Tokenizer>;

let provided: TokenizerTrainer | null = null;

export function provideTokenizerTrainer(trainer: TokenizerTrainer): void {
  provided = trainer;
}

export function tokenizerTrainer(): TokenizerTrainer {
  if (provided) return provided;
  throw new LatheError('ERR_CONFIG', 'training a tokenizer needs the native addon, which this import does not bring', {
    remedy: "import AutoTokenizer from 'lathe', or call trainNewFromIterator of tokenizers/train with `native`",
  });
}
