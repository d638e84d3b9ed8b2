// The matchers behind next_word; see pre_tokenize.h.
#include "pre_tokenize.h"

namespace lathe::tokenizer {
namespace {

/* A position in the text with the class of the character there. */
class Scanner {
 public:
  Scanner(std::string_view text, CharClasses classes) : text_(text), classes_(classes) {}

  bool at_end(size_t at) const { return at >= text_.size(); }
  DecodedChar decode(size_t at) const { return decode_char(text_.data() + at, text_.size() - at); }
  unsigned char byte(size_t at) const { return static_cast<unsigned char>(text_[at]); }

  bool is(size_t at, CharClass wanted) const { return !at_end(at) && classes_.of(decode(at).code) == wanted; }
  bool digit(size_t at) const { return !at_end(at) && classes_.digit(decode(at).code); }

  /* End of the run of `wanted` that starts at `at`; at most `most` characters. */
  size_t run(size_t at, CharClass wanted, size_t most = SIZE_MAX) const {
    while (!at_end(at) && most > 0) {
      const DecodedChar c = decode(at);
      if (classes_.of(c.code) != wanted) break;
      at += c.bytes;
      --most;
    }
    return at;
  }

  bool newline(size_t at) const { return !at_end(at) && (text_[at] == '\n' || text_[at] == '\r'); }

 private:
  std::string_view text_;
  CharClasses classes_;
};

/* 's 't 're 've 'm 'll 'd at `at`; returns the end or 0. U+017F folds to s when case is ignored. */
size_t contraction(const Scanner& s, size_t at, bool ignore_case) {
  if (s.at_end(at) || s.byte(at) != '\'' || s.at_end(at + 1)) return 0;
  const auto lower = [&](size_t i) -> unsigned char {
    if (s.at_end(i)) return 0;
    const unsigned char b = s.byte(i);
    return ignore_case && b >= 'A' && b <= 'Z' ? static_cast<unsigned char>(b + 32) : b;
  };
  const unsigned char first = lower(at + 1);
  if (ignore_case && s.decode(at + 1).code == 0x17F) return at + 3;
  switch (first) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return at + 2;
    case 'r':
    case 'v':
      return lower(at + 2) == 'e' ? at + 3 : 0;
    case 'l':
      return lower(at + 2) == 'l' ? at + 3 : 0;
    default:
      return 0;
  }
}

/* \s+(?!\S)|\s+ : the run, without its last character when something else follows; a single one stays. */
size_t blanks(const Scanner& s, size_t at) {
  size_t last = at;
  size_t end = at;
  while (s.is(end, CharClass::kSpace)) {
    last = end;
    end += s.decode(end).bytes;
  }
  return s.at_end(end) || last == at ? end : last;
}

size_t gpt2_word(const Scanner& s) {
  if (const size_t end = contraction(s, 0, false)) return end;
  const size_t start = s.byte(0) == ' ' ? 1 : 0;
  for (const CharClass wanted : {CharClass::kLetter, CharClass::kNumber, CharClass::kOther}) {
    if (s.is(start, wanted)) return s.run(start, wanted);
  }
  return blanks(s, 0);
}

/* \s*[\r\n]+ : up to the last line break of the run of white space; 0 when it has none. */
size_t line_breaks(const Scanner& s) {
  size_t end = 0;
  for (size_t at = 0; s.is(at, CharClass::kSpace); at += s.decode(at).bytes) {
    if (s.newline(at)) end = at + 1;
  }
  return end;
}

size_t llama3_word(const Scanner& s, size_t digits) {
  if (const size_t end = contraction(s, 0, true)) return end;
  // [^\r\n\p{L}\p{N}]?\p{L}+
  if (s.is(0, CharClass::kLetter)) return s.run(0, CharClass::kLetter);
  if (s.is(0, CharClass::kNumber)) return s.run(0, CharClass::kNumber, digits);
  const size_t second = s.decode(0).bytes;
  if (!s.newline(0) && s.is(second, CharClass::kLetter)) return s.run(second, CharClass::kLetter);
  //  ?[^\s\p{L}\p{N}]+[\r\n]*
  const size_t start = s.byte(0) == ' ' ? 1 : 0;
  if (s.is(start, CharClass::kOther)) {
    size_t end = s.run(start, CharClass::kOther);
    while (s.newline(end)) ++end;
    return end;
  }
  if (const size_t end = line_breaks(s)) return end;
  return blanks(s, 0);
}

bool ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

size_t next_word(std::string_view text, PreTokenizerKind kind, CharClasses classes) {
  const Scanner scanner(text, classes);
  switch (kind) {
    case PreTokenizerKind::kGpt2:
      return gpt2_word(scanner);
    case PreTokenizerKind::kGpt2Digits: {
      if (scanner.digit(0)) return scanner.decode(0).bytes;
      // Pieces end where a digit starts: white space before one stays whole, and a run stops at one that the
      // expression would not stop at.
      const size_t blank = scanner.run(0, CharClass::kSpace);
      if (blank > 0 && scanner.digit(blank)) return blank;
      const size_t word = gpt2_word(scanner);
      for (size_t at = scanner.decode(0).bytes; at < word; at += scanner.decode(at).bytes) {
        if (scanner.digit(at)) return gpt2_word(Scanner(text.substr(0, at), classes));
      }
      return word;
    }
    case PreTokenizerKind::kLlama3:
      return llama3_word(scanner, 3);
    case PreTokenizerKind::kQwen2:
      return llama3_word(scanner, 1);
  }
  return text.size();
}

size_t safe_split(std::string_view text, size_t limit) {
  if (limit > text.size()) limit = text.size();
  for (size_t at = limit; at-- > 1;) {
    if (text[at] == ' ' && at + 1 < text.size() && ascii_letter(text[at - 1]) && ascii_letter(text[at + 1])) return at;
  }
  return 0;
}

}  // namespace lathe::tokenizer
