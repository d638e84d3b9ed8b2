/**
 * What tokenizer training needs of the addon (native/tokenizer): texts go in batch by batch, tokens and merges come out.
 * Tests put an implementation in TypeScript in its place.
 */
import type { PreTokenizerKind } from './byte-level';

export interface NativeBpeOptions {
  vocabSize: number;
  minFrequency: number;
  specialTokens: string[];
  /** Bytes that are in the vocabulary even when the text lacks them. */
  initialAlphabet: Uint8Array;
  preTokenizer: PreTokenizerKind;
  /** 0: all cores. */
  threads: number;
  /** Bound on the word counts; 0: none. */
  memoryCapBytes: number;
}

export interface BpeTrainingStats {
  /** Distinct words. */
  words: number;
  occurrences: number;
  /** Not 0: the memory cap was reached, rare words were dropped and the result is not exact. */
  prunedWords: number;
  prunedOccurrences: number;
  textBytes: number;
}

export interface NativeBpeResult {
  /** By id, in byte-level characters. */
  tokens: string[];
  /** By rank: ids of the left and the right part, alternating. */
  merges: Uint32Array;
  stats: BpeTrainingStats;
}

export interface NativeBpeTrainer {
  /**
   * Texts as UTF-8, end to end; `lengths[i]` is the number of bytes of text i. Both are read before this returns, and
   * used again afterwards.
   */
  feed(utf8: Uint8Array, lengths: Uint32Array): void | Promise<void>;
  train(progress?: (merges: number, tokens: number) => void): NativeBpeResult | Promise<NativeBpeResult>;
}

/** The part of the addon that training needs. */
export interface NativeTokenizerTraining {
  createBpeTrainer(options: NativeBpeOptions): NativeBpeTrainer;
}
