/**
 * Reserved words of programming languages, and which of them a tokenizer cannot say in one token: the quick look at
 * whether a vocabulary was learned from that language. Sources: Python's keyword.kwlist (3.12); ECMA-262 section 12.7.2.
 */
import { LatheError, nearest } from '../errors';
import type { Tokenizer } from './tokenizer';

const words = (text: string): readonly string[] => text.trim().split(/\s+/);

export const RESERVED_WORDS: Readonly<Record<string, readonly string[]>> = {
  python:
    words(`False None True and as assert async await break class continue def del elif else except finally for from
    global if import in is lambda nonlocal not or pass raise return try while with yield`),
  javascript:
    words(`await break case catch class const continue debugger default delete do else enum export extends false
    finally for function if import in instanceof new null return super switch this throw true try typeof var void while
    with yield`),
};

export interface ReservedWords {
  language: string;
  words: number;
  /** Not one token at the beginning of a text. */
  missing: string[];
  /** Not one token after a blank. */
  missingAfterBlank: string[];
}

/** Which reserved words of `language` are split. Errors: ERR_CONFIG for a language without a list. */
export async function reservedWords(tokenizer: Tokenizer, language: string): Promise<ReservedWords> {
  const list = RESERVED_WORDS[language];
  if (!list) {
    const known = Object.keys(RESERVED_WORDS);
    const close = nearest(language, known);
    throw new LatheError('ERR_CONFIG', `expected a language with a list of reserved words, received '${language}'`, {
      remedy: close ? `did you mean '${close}'?` : `use one of ${known.join(', ')}`,
    });
  }
  const split = async (prefix: string): Promise<string[]> => {
    const encoded = await tokenizer.encodeBatch(
      list.map((word) => prefix + word),
      { addSpecialTokens: false },
    );
    return list.filter((_, i) => encoded[i].ids.length !== 1);
  };
  return { language, words: list.length, missing: await split(''), missingAfterBlank: await split(' ') };
}
