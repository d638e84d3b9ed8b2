// Merging behind BpeEncoder; see bpe_encode.h.
#include "bpe_encode.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <queue>

namespace lathe::tokenizer {
namespace {

constexpr uint32_t kNoRank = UINT32_MAX;
constexpr uint64_t kNoPair = UINT64_MAX;
constexpr size_t kShortWord = 64;  // bytes; looking at every pair again after each merge is quicker up to here

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t spread(uint64_t key) { return static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> 20); }

uint64_t hash_word(std::string_view word) {
  uint64_t hash = 0x9E3779B97F4A7C15u ^ word.size();
  size_t at = 0;
  for (; at + 8 <= word.size(); at += 8) {
    uint64_t part;
    std::memcpy(&part, word.data() + at, 8);
    hash = (hash ^ part) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
  }
  uint64_t rest = 0;
  std::memcpy(&rest, word.data() + at, word.size() - at);
  hash = (hash ^ rest) * 0xD6E8FEB86659FD93u;
  return hash ^ hash >> 32;
}

}  // namespace

// One cache line a word.
struct BpeEncoder::Cache {
  static constexpr size_t kSlots = 1 << 16;
  static constexpr size_t kMostBytes = 22;
  static constexpr size_t kMostIds = 10;
  struct Slot {
    uint8_t bytes = 0;
    uint8_t count = 0;
    char word[kMostBytes];
    int32_t ids[kMostIds];
  };
  std::vector<Slot> slots{kSlots};
};

BpeEncoder::BpeEncoder(PreTokenizerKind kind, std::span<const int32_t, 256> byte_ids, std::span<const BpeMerge> merges) : kind_(kind) {
  std::copy(byte_ids.begin(), byte_ids.end(), byte_ids_);
  size_t size = 16;
  while (size < merges.size() * 2) size *= 2;
  rules_.assign(size, {kNoPair, kNoRank, 0});
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t pair = pair_key(merges[rank].left, merges[rank].right);
    size_t at = spread(pair) & (size - 1);
    while (rules_[at].pair != kNoPair && rules_[at].pair != pair) at = (at + 1) & (size - 1);
    rules_[at] = {pair, static_cast<uint32_t>(rank), merges[rank].result};
  }
}

BpeEncoder::~BpeEncoder() = default;

const BpeEncoder::Rule& BpeEncoder::rule(int32_t left, int32_t right) const {
  const uint64_t pair = pair_key(left, right);
  size_t at = spread(pair) & (rules_.size() - 1);
  while (rules_[at].pair != pair && rules_[at].pair != kNoPair) at = (at + 1) & (rules_.size() - 1);
  return rules_[at];  // an empty one has no rank
}

void BpeEncoder::merge_short(std::string_view word, std::vector<int32_t>& ids) const {
  int32_t symbols[kShortWord];
  uint32_t ranks[kShortWord];  // of symbols i and i + 1
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  for (size_t i = 0; i + 1 < count; ++i) ranks[i] = rule(symbols[i], symbols[i + 1]).rank;
  while (count > 1) {
    const size_t best = static_cast<size_t>(std::min_element(ranks, ranks + count - 1) - ranks);
    if (ranks[best] == kNoRank) break;
    symbols[best] = rule(symbols[best], symbols[best + 1]).result;
    --count;
    std::copy(symbols + best + 2, symbols + count + 1, symbols + best + 1);
    if (best + 1 < count) std::copy(ranks + best + 2, ranks + count, ranks + best + 1);
    if (best > 0) ranks[best - 1] = rule(symbols[best - 1], symbols[best]).rank;
    if (best + 1 < count) ranks[best] = rule(symbols[best], symbols[best + 1]).rank;
  }
  ids.insert(ids.end(), symbols, symbols + count);
}

void BpeEncoder::merge_long(std::string_view word, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;
    size_t previous;
    size_t next;  // word.size(): none
    bool merged_away;
  };
  struct Candidate {
    uint32_t rank;
    size_t at;
    uint64_t pair;
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  const size_t none = word.size();
  std::vector<Symbol> symbols(word.size());
  for (size_t i = 0; i < word.size(); ++i) symbols[i] = {byte_ids_[static_cast<uint8_t>(word[i])], i == 0 ? none : i - 1, i + 1, false};
  std::priority_queue<Candidate> queue;
  const auto consider = [&](size_t at) {
    if (at == none || symbols[at].next == none) return;
    const auto [left, right] = std::pair{symbols[at].id, symbols[symbols[at].next].id};
    if (const uint32_t rank = rule(left, right).rank; rank != kNoRank) queue.push({rank, at, pair_key(left, right)});
  };
  for (size_t i = 0; i < word.size(); ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.at];
    if (left.merged_away || left.next == none) continue;
    Symbol& right = symbols[left.next];
    if (pair_key(left.id, right.id) != best.pair) continue;  // one of the two has changed since
    left.id = rule(left.id, right.id).result;
    right.merged_away = true;
    left.next = right.next;
    if (left.next != none) symbols[left.next].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  for (size_t at = 0; at != none; at = symbols[at].next) ids.push_back(symbols[at].id);
}

void BpeEncoder::encode_word(std::string_view word, Cache& cache, std::vector<int32_t>& ids) const {
  if (word.size() == 1) {
    ids.push_back(byte_ids_[static_cast<uint8_t>(word[0])]);
    return;
  }
  if (word.size() > kShortWord) return merge_long(word, ids);
  if (word.size() > Cache::kMostBytes) return merge_short(word, ids);
  Cache::Slot& slot = cache.slots[hash_word(word) & (Cache::kSlots - 1)];
  if (slot.bytes == word.size() && std::memcmp(slot.word, word.data(), word.size()) == 0) {
    ids.insert(ids.end(), slot.ids, slot.ids + slot.count);
    return;
  }
  const size_t before = ids.size();
  merge_short(word, ids);
  const size_t count = ids.size() - before;
  if (count > Cache::kMostIds) return;
  slot.bytes = static_cast<uint8_t>(word.size());
  slot.count = static_cast<uint8_t>(count);
  std::memcpy(slot.word, word.data(), word.size());
  std::copy(ids.end() - static_cast<ptrdiff_t>(count), ids.end(), slot.ids);
}

std::unique_ptr<BpeEncoder::Cache> BpeEncoder::borrow() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      auto cache = std::move(idle_.back());
      idle_.pop_back();
      return cache;
    }
  }
  return std::make_unique<Cache>();
}

Status BpeEncoder::encode(std::span<const std::string_view> texts, std::vector<int32_t>& ids, std::vector<uint32_t>& counts) {
  try {
    auto cache = borrow();
    counts.reserve(counts.size() + texts.size());
    for (const std::string_view text : texts) {
      const size_t before = ids.size();
      for_each_word(text, kind_, [&](std::string_view word) { encode_word(word, *cache, ids); });
      counts.push_back(static_cast<uint32_t>(ids.size() - before));
    }
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(cache));
  } catch (const std::bad_alloc&) {
    return {"ERR_PLAN_MEMORY", "tokenising ran out of memory: encode fewer texts at a time"};
  }
  return ok_status();
}

}  // namespace lathe::tokenizer
