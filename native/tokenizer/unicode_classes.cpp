// Fills the class table from the generated ranges, once.
#include "unicode_classes.h"

#include <vector>

namespace lathe::tokenizer {
namespace {

struct CodeRange {
  uint32_t first;
  uint32_t last;
};

#include "unicode_classes.inc"

template <size_t N>
void fill(std::vector<uint8_t>& table, const CodeRange (&ranges)[N], uint8_t bits) {
  for (const CodeRange& range : ranges) {
    for (uint32_t code = range.first; code <= range.last; ++code) table[code] |= bits;
  }
}

std::vector<uint8_t> build() {
  std::vector<uint8_t> table(0x110000, 0);
  fill(table, kLetterRanges, static_cast<uint8_t>(CharClass::kLetter));
  fill(table, kNumberRanges, static_cast<uint8_t>(CharClass::kNumber));
  fill(table, kSpaceRanges, static_cast<uint8_t>(CharClass::kSpace));
  fill(table, kDigitRanges, 4);
  return table;
}

}  // namespace

CharClasses char_classes() {
  // Leaked on purpose: threads may still read it while the process exits.
  static const auto* table = new std::vector<uint8_t>(build());
  return CharClasses(table->data());
}

}  // namespace lathe::tokenizer
