// Cuts text into the words that merges never cross, as the pre-tokenizers of four model families do.
//
// Idea: the families' regular expressions have no nesting, so each is a short hand-written matcher that tries the
// alternatives in the order in which the expression names them. A matcher walks the UTF-8 bytes; words are views.
//
// Invariant: the words of a text are non-empty and their concatenation is the text.
// Source: the patterns in src/tokenizers/byte-level.ts, which are those of the published tokenizers.
#pragma once

#include <cstddef>
#include <string_view>

#include "unicode_classes.h"

namespace lathe::tokenizer {

enum class PreTokenizerKind : uint8_t {
  kGpt2,        // ByteLevel with its regular expression
  kGpt2Digits,  // every digit alone, then ByteLevel (SmolLM, StarCoder)
  kLlama3,      // digits in threes
  kQwen2,       // digits alone
};

/* Length in bytes of the word at the start of `text` (not empty). */
size_t next_word(std::string_view text, PreTokenizerKind kind, CharClasses classes);

/* Calls sink(std::string_view word) for every word of `text`. */
template <class Sink>
void for_each_word(std::string_view text, PreTokenizerKind kind, Sink&& sink) {
  const CharClasses classes = char_classes();
  while (!text.empty()) {
    const size_t length = next_word(text, kind, classes);
    sink(text.substr(0, length));
    text.remove_prefix(length);
  }
}

/* The last place in `text` before `limit` where every kind ends a word whatever follows: between an ASCII letter and a
   blank that an ASCII letter follows. 0 when there is none. Lets threads share one long text. */
size_t safe_split(std::string_view text, size_t limit);

}  // namespace lathe::tokenizer
