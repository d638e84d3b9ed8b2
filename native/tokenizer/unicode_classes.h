// Character classes that pre-tokenizers ask for: letters, numbers, white space, everything else; and digits.
//
// Idea: one byte per code point in a table filled once from the generated ranges. 1.1 MB, of which ordinary text
// touches a few pages. The classes are those of the tokenizers library (see scripts/generate-unicode-classes.js), so
// that training cuts text where encoding will.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lathe::tokenizer {

enum class CharClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };

/* What is known of every code point. */
class CharClasses {
 public:
  explicit CharClasses(const uint8_t* table) : table_(table) {}
  CharClass of(uint32_t code) const { return static_cast<CharClass>(table_[code] & 3); }
  /* What the Digits pre-tokenizer isolates: nearly \p{N}, but of another Unicode version. */
  bool digit(uint32_t code) const { return (table_[code] & 4) != 0; }

 private:
  const uint8_t* table_;
};

/* Thread-safe; valid for ever. */
CharClasses char_classes();

/* One decoded character: its code point and the number of bytes it takes (at least 1). */
struct DecodedChar {
  uint32_t code;
  uint32_t bytes;
};

/* Decodes the character at `text`, `size` >= 1 bytes left. A malformed byte is a character of its own, U+FFFD. */
inline DecodedChar decode_char(const char* text, size_t size) {
  const auto* s = reinterpret_cast<const unsigned char*>(text);
  const uint32_t lead = s[0];
  if (lead < 0x80) return {lead, 1};
  const auto tail = [&](size_t i) { return i < size && (s[i] & 0xC0) == 0x80; };
  if (lead >= 0xC2 && lead < 0xE0 && tail(1)) return {(lead & 0x1F) << 6 | (s[1] & 0x3Fu), 2};
  if (lead >= 0xE0 && lead < 0xF0 && tail(1) && tail(2)) {
    return {(lead & 0x0F) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu), 3};
  }
  if (lead >= 0xF0 && lead < 0xF5 && tail(1) && tail(2) && tail(3)) {
    const uint32_t code = (lead & 0x07) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
    if (code < 0x110000) return {code, 4};
  }
  return {0xFFFD, 1};
}

}  // namespace lathe::tokenizer
