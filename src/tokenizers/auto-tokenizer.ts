/**
 * AutoTokenizer: the door through which a saved tokenizer comes in.
 *
 * tokenizer.json describes the whole pipeline, so there is one class for every model family and nothing to look up
 * by name; `tokenizer_class` in the config is kept for other programs and not used.
 */
import { Tokenizer } from './tokenizer';
import { readTokenizerFolder } from './tokenizer-files';

export const AutoTokenizer = {
  /**
   * Loads the tokenizer of a model folder (or a path to its tokenizer.json).
   * Errors: ERR_CONFIG when the folder does not exist; ERR_FORMAT, naming the file and the remedy, when
   * tokenizer.json is missing, truncated or not one.
   */
  fromPretrained(folder: string): Tokenizer {
    return new Tokenizer(readTokenizerFolder(folder));
  },
};
