// Byte-level BPE training: text in, vocabulary and merges out.
//
// Idea: words are cut and counted as text arrives (in parallel, one table per thread), so memory grows with distinct
// words and not with text. Training keeps, for each pair of neighbouring symbols, its count and the words it occurs in,
// takes the most frequent pair from a heap, merges it in those words, and adjusts only the counts that changed.
//
// Invariants: the merges are those of the `tokenizers` library's BpeTrainer, rank by rank: most frequent first, among
// equals the smaller pair of ids; a heap entry whose count is stale goes back with the current one; a pair's count
// keeps what was merged away, as there. The result does not depend on threads or on the order of the text. What
// differs on purpose: counts have 64 bits.
//
// Nothing throws out of this file; running out of memory is a Status.
// Source: Sennrich et al. 2016; the order of ties after huggingface/tokenizers `models/bpe/trainer.rs`.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../include/lathe/status.h"
#include "pre_tokenize.h"
#include "word_table.h"

namespace lathe::tokenizer {

struct BpeTrainerOptions {
  size_t vocab_size = 30000;   // special tokens and alphabet included
  uint64_t min_frequency = 0;  // pairs below it are not merged
  std::vector<std::string> special_tokens;  // UTF-8; get the first ids, in this order
  std::vector<uint8_t> initial_alphabet;    // bytes that are in the vocabulary even when the text lacks them
  PreTokenizerKind pre_tokenizer = PreTokenizerKind::kGpt2;
  size_t threads = 0;            // 0: as many as the machine has
  size_t memory_cap_bytes = 0;   // for the word counts; 0: none. Above it the rarest words are dropped, see BpeStats
  std::function<bool(size_t merges, size_t tokens)> progress;  // every 256 merges; false stops with an error
};

struct BpeStats {
  uint64_t words = 0;               // distinct
  uint64_t occurrences = 0;
  uint64_t pruned_words = 0;        // not 0: the cap was reached and the result is no longer exact
  uint64_t pruned_occurrences = 0;
  uint64_t text_bytes = 0;
};

struct BpeModel {
  std::vector<std::string> tokens;                       // by id; byte-level characters, UTF-8
  std::vector<std::pair<uint32_t, uint32_t>> merges;     // by rank; ids of the two parts
  BpeStats stats;
};

class BpeTrainer {
 public:
  explicit BpeTrainer(BpeTrainerOptions options);

  /* Counts the words of texts. Each is a sequence of its own: no word spans two. Not thread-safe itself. */
  Status feed(std::span<const std::string_view> texts);
  Status feed(std::string_view text) { return feed(std::span<const std::string_view>(&text, 1)); }

  /* Adds `count` occurrences of a word that is already cut. */
  Status feed_word(std::string_view word, uint64_t count);

  /* Learns the merges. The counts are kept, so it can be called again with more text. */
  Status train(BpeModel& model);

  const BpeStats& stats() const { return stats_; }

 private:
  void count(std::span<const std::string_view> texts);
  void respect_cap();

  BpeTrainerOptions options_;
  std::vector<WordTable> tables_;  // one per thread; the first one collects
  BpeStats stats_;
};

/* The character that stands for a byte, as UTF-8. */
std::string byte_char(uint8_t byte);

}  // namespace lathe::tokenizer
