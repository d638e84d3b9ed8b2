// Counting and merging behind BpeTrainer; see bpe_train.h for the rules it keeps.
#include "bpe_train.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <queue>
#include <thread>
#include <unordered_map>

namespace lathe::tokenizer {
namespace {

constexpr size_t kSegmentBytes = 1 << 20;  // long texts are cut about here so that threads can share them

/* Code point of a byte's character: itself when printable in Latin-1, else numbered from U+0100. */
uint32_t byte_code(uint8_t byte) {
  const auto printable = [](int b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  if (printable(byte)) return byte;
  uint32_t code = 0x100;
  for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  return code;
}

/* A pair of ids as one key; comparing keys compares (first, second). */
uint64_t pair_key(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) << 32 | b; }

struct HeapEntry {
  uint64_t count;
  uint32_t pair;       // index of the pair's state
  uint32_t positions;  // index into the position lists
};

/* Most frequent first, among equals the smaller pair of ids. */
struct HeapOrder {
  const std::vector<uint64_t>* keys;
  bool operator()(const HeapEntry& a, const HeapEntry& b) const {
    return a.count != b.count ? a.count < b.count : (*keys)[a.pair] > (*keys)[b.pair];
  }
};

/* pair key -> index of its state; open addressing over indices into the caller's list of keys, never shrinks. */
class PairIndex {
 public:
  PairIndex() : slots_(1 << 16, 0) {}

  /* The state of a pair, which is keys.size() when it is new; the caller then appends the key. */
  uint32_t find_or_add(uint64_t key, const std::vector<uint64_t>& keys) {
    if ((keys.size() + 1) * 2 > slots_.size()) grow(keys);
    const size_t at = slot_of(key, keys);
    if (slots_[at] == 0) slots_[at] = static_cast<uint32_t>(keys.size()) + 1;
    return slots_[at] - 1;
  }

 private:
  size_t slot_of(uint64_t key, const std::vector<uint64_t>& keys) const {
    const size_t mask = slots_.size() - 1;
    size_t at = (key * 0x9E3779B97F4A7C15u >> 20) & mask;
    while (slots_[at] != 0 && keys[slots_[at] - 1] != key) at = (at + 1) & mask;
    return at;
  }

  void grow(const std::vector<uint64_t>& keys) {
    const size_t size = slots_.size() * 2;
    std::vector<uint32_t>().swap(slots_);  // before the new ones are there
    slots_.assign(size, 0);
    for (size_t i = 0; i < keys.size(); ++i) slots_[slot_of(keys[i], keys)] = static_cast<uint32_t>(i) + 1;
  }

  std::vector<uint32_t> slots_;  // index + 1; 0 is empty
};

/* Words that a pair occurs in. Most pairs occur in one or two: those need no memory of their own. */
class WordList {
 public:
  WordList() = default;
  WordList(WordList&& other) noexcept { swap(other); }
  WordList& operator=(WordList&& other) noexcept {
    swap(other);
    return *this;
  }
  WordList(const WordList&) = delete;
  WordList& operator=(const WordList&) = delete;
  ~WordList() {
    if (capacity_ > kInline) std::free(far_);
  }

  /* Appends a word unless it is the last one. */
  void note(uint32_t word) {
    if (size_ > 0 && data()[size_ - 1] == word) return;
    if (size_ == capacity_) grow();
    data()[size_++] = word;
  }

  const uint32_t* begin() const { return capacity_ > kInline ? far_ : near_; }
  const uint32_t* end() const { return begin() + size_; }

 private:
  static constexpr uint32_t kInline = 2;

  uint32_t* data() { return capacity_ > kInline ? far_ : near_; }

  void grow() {
    const uint32_t capacity = capacity_ + capacity_ / 2 + 2;
    void* const held = capacity_ > kInline ? far_ : nullptr;
    auto* const grown = static_cast<uint32_t*>(std::realloc(held, capacity * sizeof(uint32_t)));
    if (grown == nullptr) throw std::bad_alloc();
    if (held == nullptr) std::copy_n(near_, size_, grown);
    far_ = grown;
    capacity_ = capacity;
  }

  void swap(WordList& other) noexcept {
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    std::swap(bits_, other.bits_);
  }

  uint32_t size_ = 0;
  uint32_t capacity_ = kInline;
  union {
    uint32_t near_[kInline];
    uint32_t* far_;
    uint64_t bits_ = 0;
  };
};

/* One training run over counted words. */
class Merger {
 public:
  Merger(const BpeTrainerOptions& options, const WordTable& words) : options_(options) {
    add_special_tokens();
    add_alphabet(words);
    load_words(words);
  }

  Status run(BpeModel& model) {
    count_pairs();
    std::vector<std::pair<uint64_t, uint32_t>> merges;
    while (ids_.size() < options_.vocab_size && !heap_.empty()) {
      HeapEntry top = heap_.top();
      heap_.pop();
      const int64_t now = counts_[top.pair];
      const uint64_t current = now > 0 ? static_cast<uint64_t>(now) : 0;
      if (top.count != current) {
        top.count = current;
        heap_.push(top);
        continue;
      }
      if (top.count < 1 || top.count < options_.min_frequency) break;
      const uint64_t key = keys_[top.pair];
      const auto left = static_cast<uint32_t>(key >> 32);
      const auto right = static_cast<uint32_t>(key);
      const uint32_t merged = token_id(tokens_[left] + tokens_[right]);
      merges.emplace_back(key, merged);
      merge_in_words(left, right, merged, top.positions);
      if (merges.size() % 256 == 0 && options_.progress && !options_.progress(merges.size(), ids_.size())) {
        return {"ERR_DATA", "training was stopped by its progress callback"};
      }
    }
    finish(model, merges);
    return ok_status();
  }

 private:
  uint32_t token_id(const std::string& token) {
    const auto [it, fresh] = ids_.try_emplace(token, static_cast<uint32_t>(tokens_.size()));
    if (fresh) tokens_.push_back(token);
    return it->second;
  }

  void add_special_tokens() {
    for (const std::string& token : options_.special_tokens) token_id(token);
  }

  /* The bytes of the words and the initial ones, in the order of their characters. */
  void add_alphabet(const WordTable& words) {
    std::vector<bool> present(256, false);
    for (const uint8_t byte : options_.initial_alphabet) present[byte] = true;
    for (const WordEntry& entry : words.entries()) {
      for (const char c : words.word(entry)) present[static_cast<uint8_t>(c)] = true;
    }
    std::vector<uint8_t> bytes;
    for (int b = 0; b < 256; ++b) {
      if (present[b]) bytes.push_back(static_cast<uint8_t>(b));
    }
    std::sort(bytes.begin(), bytes.end(), [](uint8_t a, uint8_t b) { return byte_code(a) < byte_code(b); });
    symbol_.assign(256, 0);
    for (const uint8_t byte : bytes) symbol_[byte] = token_id(byte_char(byte));
  }

  void load_words(const WordTable& words) {
    const auto& entries = words.entries();
    starts_.reserve(entries.size() + 1);
    lengths_.reserve(entries.size());
    word_counts_.reserve(entries.size());
    size_t total = 0;
    for (const WordEntry& entry : entries) total += entry.length;
    symbols_.reserve(total);
    for (const WordEntry& entry : entries) {
      starts_.push_back(symbols_.size());
      lengths_.push_back(entry.length);
      word_counts_.push_back(static_cast<int64_t>(entry.count));
      for (const char c : words.word(entry)) symbols_.push_back(symbol_[static_cast<uint8_t>(c)]);
    }
  }

  void count_pairs() {
    for (uint32_t w = 0; w < lengths_.size(); ++w) {
      const uint32_t* s = symbols_.data() + starts_[w];
      for (uint32_t i = 0; i + 1 < lengths_[w]; ++i) change(s[i], s[i + 1], word_counts_[w], w);
    }
    push_pending();
  }

  /* Adds `delta` to a pair's count; a positive one also notes the word, once. */
  void change(uint32_t a, uint32_t b, int64_t delta, uint32_t word) {
    const uint64_t key = pair_key(a, b);
    const uint32_t pair = index_.find_or_add(key, keys_);
    if (pair == keys_.size()) {
      keys_.push_back(key);
      counts_.push_back(0);
      pending_of_.push_back(kNone);
    }
    counts_[pair] += delta;
    if (delta <= 0) return;
    if (pending_of_[pair] == kNone) {
      pending_of_[pair] = new_positions();
      pending_.push_back(pair);
    }
    positions_[pending_of_[pair]].note(word);
  }

  uint32_t new_positions() {
    if (free_positions_.empty()) {
      positions_.emplace_back();
      return static_cast<uint32_t>(positions_.size() - 1);
    }
    const uint32_t list = free_positions_.back();
    free_positions_.pop_back();
    return list;
  }

  void release_positions(uint32_t list) {
    positions_[list] = WordList();
    free_positions_.push_back(list);
  }

  void push_pending() {
    for (const uint32_t pair : pending_) {
      const uint32_t list = pending_of_[pair];
      pending_of_[pair] = kNone;
      if (counts_[pair] > 0) {
        heap_.push({static_cast<uint64_t>(counts_[pair]), pair, list});
      } else {
        release_positions(list);
      }
    }
    pending_.clear();
  }

  void merge_in_words(uint32_t left, uint32_t right, uint32_t merged, uint32_t list) {
    const WordList words = std::move(positions_[list]);
    release_positions(list);
    for (const uint32_t word : words) merge_in_word(left, right, merged, word);
    push_pending();
  }

  void merge_in_word(uint32_t left, uint32_t right, uint32_t merged, uint32_t word) {
    uint32_t* s = symbols_.data() + starts_[word];
    const uint32_t length = lengths_[word];
    const int64_t count = word_counts_[word];
    uint32_t to = 0;  // symbols before `to` are final, symbols from `from` are still as they were
    for (uint32_t from = 0; from < length; ++to) {
      if (s[from] != left || from + 1 >= length || s[from + 1] != right) {
        s[to] = s[from++];
        continue;
      }
      if (to > 0) {
        change(s[to - 1], left, -count, word);
        change(s[to - 1], merged, count, word);
      }
      from += 2;
      s[to] = merged;
      if (from < length) {
        change(right, s[from], -count, word);
        change(merged, s[from], count, word);
      }
    }
    lengths_[word] = to;
  }

  /* A pair that was merged twice (its parts came together again later) keeps its last rank. */
  void finish(BpeModel& model, const std::vector<std::pair<uint64_t, uint32_t>>& merges) {
    std::unordered_map<uint64_t, size_t> last;
    for (size_t rank = 0; rank < merges.size(); ++rank) last[merges[rank].first] = rank;
    model.tokens = std::move(tokens_);
    model.merges.clear();
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const uint64_t key = merges[rank].first;
      if (last[key] == rank) model.merges.emplace_back(static_cast<uint32_t>(key >> 32), static_cast<uint32_t>(key));
    }
  }

  static constexpr uint32_t kNone = ~uint32_t{0};

  const BpeTrainerOptions& options_;
  std::unordered_map<std::string, uint32_t> ids_;
  std::vector<std::string> tokens_;
  std::vector<uint32_t> symbol_;  // of a byte

  std::vector<uint32_t> symbols_;  // of all words, each at its start, shrinking in place
  std::vector<size_t> starts_;
  std::vector<uint32_t> lengths_;
  std::vector<int64_t> word_counts_;

  PairIndex index_;
  std::vector<int64_t> counts_;  // by pair
  std::vector<uint64_t> keys_;
  std::vector<uint32_t> pending_of_;  // position list that this step fills, or kNone
  std::vector<uint32_t> pending_;     // pairs with one
  std::vector<WordList> positions_;
  std::vector<uint32_t> free_positions_;
  std::priority_queue<HeapEntry, std::vector<HeapEntry>, HeapOrder> heap_{HeapOrder{&keys_}};
};

size_t thread_count(size_t wanted) {
  if (wanted > 0) return wanted;
  return std::max<size_t>(1, std::thread::hardware_concurrency());
}

Status out_of_memory() {
  return {"ERR_PLAN_MEMORY",
          "the word counts of BPE training do not fit into memory: set a memory cap, or train on less text"};
}

}  // namespace

std::string byte_char(uint8_t byte) {
  const uint32_t code = byte_code(byte);
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

BpeTrainer::BpeTrainer(BpeTrainerOptions options)
    : options_(std::move(options)), tables_(thread_count(options_.threads)) {}

Status BpeTrainer::feed(std::span<const std::string_view> texts) {
  try {
    std::vector<std::string_view> segments;
    for (std::string_view text : texts) {
      stats_.text_bytes += text.size();
      while (text.size() > 2 * kSegmentBytes) {
        const size_t cut = safe_split(text, kSegmentBytes);
        if (cut == 0) break;
        segments.push_back(text.substr(0, cut));
        text.remove_prefix(cut);
      }
      if (!text.empty()) segments.push_back(text);
    }
    count(segments);
    respect_cap();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  } catch (const std::exception& error) {
    return {"ERR_DEVICE", std::string("BPE training could not count words: ") + error.what()};
  }
  return ok_status();
}

Status BpeTrainer::feed_word(std::string_view word, uint64_t count) {
  try {
    stats_.text_bytes += word.size() * count;
    tables_[0].add(word, count);
    respect_cap();
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
  return ok_status();
}

void BpeTrainer::count(std::span<const std::string_view> texts) {
  size_t bytes = 0;
  for (const std::string_view text : texts) bytes += text.size();
  // A thread costs more than it saves on a few kilobytes.
  const size_t workers = std::min({tables_.size(), texts.size(), bytes / (64 << 10) + 1});
  std::atomic<size_t> next{0};
  std::vector<std::exception_ptr> failures(workers);
  const auto work = [&](size_t worker) {
    try {
      for (size_t i = next.fetch_add(1); i < texts.size(); i = next.fetch_add(1)) {
        for_each_word(texts[i], options_.pre_tokenizer, [&](std::string_view word) { tables_[worker].add(word); });
      }
    } catch (...) {
      failures[worker] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  // When the system has no thread left, the caller does the rest.
  try {
    for (size_t worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
  } catch (const std::exception&) {
  }
  if (workers > 0) work(0);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

void BpeTrainer::respect_cap() {
  if (options_.memory_cap_bytes == 0) return;
  const auto used = [&] {
    size_t bytes = 0;
    for (const WordTable& table : tables_) bytes += table.bytes_used();
    return bytes;
  };
  if (used() <= options_.memory_cap_bytes) return;
  for (size_t i = 1; i < tables_.size(); ++i) tables_[0].take(tables_[i]);
  // Down to half of the cap, so that not every batch prunes again.
  for (uint64_t limit = 1; used() > options_.memory_cap_bytes / 2 && tables_[0].size() > 0; limit *= 2) {
    stats_.pruned_words += tables_[0].prune(limit, stats_.pruned_occurrences);
  }
}

Status BpeTrainer::train(BpeModel& model) {
  try {
    for (size_t i = 1; i < tables_.size(); ++i) tables_[0].take(tables_[i]);
    stats_.words = tables_[0].size();
    stats_.occurrences = 0;
    for (const WordEntry& entry : tables_[0].entries()) stats_.occurrences += entry.count;
    Merger merger(options_, tables_[0]);
    LATHE_TRY(merger.run(model));
    model.stats = stats_;
  } catch (const std::bad_alloc&) {
    return out_of_memory();
  }
  return ok_status();
}

}  // namespace lathe::tokenizer
