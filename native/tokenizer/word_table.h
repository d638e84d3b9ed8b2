// Counts words: a hash table from byte strings to 64-bit counts.
//
// Idea: open addressing over entries whose bytes lie end to end in one arena, so a corpus of any size costs one entry
// and its letters per distinct word. Counts are 64 bits: the reference's are 32 and overflow without a word on corpora
// where a pair occurs more than 2^31 times.
//
// Invariant: `bytes_used` covers everything the table holds. Growth may throw std::bad_alloc; callers catch it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lathe::tokenizer {

struct WordEntry {
  uint64_t offset;  // into the arena
  uint32_t length;
  uint32_t hash;
  uint64_t count;
};

class WordTable {
 public:
  void add(std::string_view word, uint64_t count = 1);

  /* Adds every word of `other` and empties it. */
  void take(WordTable& other);

  /* Drops words that occur at most `limit` times. Returns how many words went, and adds their counts to `lost`. */
  uint64_t prune(uint64_t limit, uint64_t& lost);

  void clear();

  const std::vector<WordEntry>& entries() const { return entries_; }
  std::string_view word(const WordEntry& entry) const { return {arena_.data() + entry.offset, entry.length}; }
  size_t size() const { return entries_.size(); }
  size_t bytes_used() const {
    return arena_.capacity() + entries_.capacity() * sizeof(WordEntry) + slots_.capacity() * sizeof(uint32_t);
  }

 private:
  void grow();
  void index_all();

  std::string arena_;
  std::vector<WordEntry> entries_;
  std::vector<uint32_t> slots_;  // entry index + 1; 0 is empty; a power of two
};

}  // namespace lathe::tokenizer
