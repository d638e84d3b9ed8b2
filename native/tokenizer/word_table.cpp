// The table behind word counting; see word_table.h.
#include "word_table.h"

#include <cstring>

namespace lathe::tokenizer {
namespace {

uint32_t hash_bytes(std::string_view word) {
  // Eight bytes at a time, multiplied and folded: words are short, so the loop rarely turns twice.
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
  uint64_t h = word.size() * kMultiplier;
  const char* p = word.data();
  size_t left = word.size();
  while (left >= 8) {
    uint64_t part;
    std::memcpy(&part, p, 8);
    h = (h ^ part) * kMultiplier;
    h ^= h >> 29;
    p += 8;
    left -= 8;
  }
  uint64_t part = 0;
  for (size_t i = 0; i < left; ++i) part |= static_cast<uint64_t>(static_cast<unsigned char>(p[i])) << (8 * i);
  h = (h ^ part) * kMultiplier;
  h ^= h >> 32;
  return static_cast<uint32_t>(h * kMultiplier >> 32);
}

}  // namespace

void WordTable::add(std::string_view word, uint64_t count) {
  if ((entries_.size() + 1) * 4 > slots_.size() * 3) grow();
  const uint32_t hash = hash_bytes(word);
  const size_t mask = slots_.size() - 1;
  for (size_t slot = hash & mask;; slot = (slot + 1) & mask) {
    const uint32_t index = slots_[slot];
    if (index == 0) {
      entries_.push_back({arena_.size(), static_cast<uint32_t>(word.size()), hash, count});
      arena_.append(word);
      slots_[slot] = static_cast<uint32_t>(entries_.size());
      return;
    }
    WordEntry& entry = entries_[index - 1];
    if (entry.hash == hash && entry.length == word.size() &&
        std::memcmp(arena_.data() + entry.offset, word.data(), word.size()) == 0) {
      entry.count += count;
      return;
    }
  }
}

void WordTable::take(WordTable& other) {
  for (const WordEntry& entry : other.entries_) add(other.word(entry), entry.count);
  other.clear();
}

uint64_t WordTable::prune(uint64_t limit, uint64_t& lost) {
  std::string arena;
  std::vector<WordEntry> kept;
  for (const WordEntry& entry : entries_) {
    if (entry.count <= limit) {
      lost += entry.count;
      continue;
    }
    kept.push_back({arena.size(), entry.length, entry.hash, entry.count});
    arena.append(word(entry));
  }
  const uint64_t gone = entries_.size() - kept.size();
  arena.shrink_to_fit();
  kept.shrink_to_fit();
  arena_.swap(arena);  // a move of a short string would keep the old capacity
  entries_ = std::move(kept);
  size_t slots = 1024;
  while (entries_.size() * 2 > slots) slots *= 2;
  slots_ = std::vector<uint32_t>(slots, 0);
  index_all();
  return gone;
}

void WordTable::clear() {
  arena_ = std::string();
  entries_ = std::vector<WordEntry>();
  slots_ = std::vector<uint32_t>();
}

void WordTable::grow() {
  slots_ = std::vector<uint32_t>(slots_.empty() ? 1024 : slots_.size() * 2, 0);
  index_all();
}

void WordTable::index_all() {
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t slot = entries_[i].hash & mask;
    while (slots_[slot] != 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<uint32_t>(i + 1);
  }
}

}  // namespace lathe::tokenizer
