// Byte-level BPE encoding: text in, ids out.
//
// Idea: text is cut into words (pre_tokenize.h); words repeat, so the ids of short ones are kept in a table of fixed size
// that a word's hash points into, the newer word replacing the older. A word that is not there starts as its bytes and the
// neighbouring pair of the lowest rank is merged until no pair has one.
//
// Invariants: ids are those of the `tokenizers` library's BPE without dropout, prefixes and suffixes; memory does not grow
// with the text (tables are lent to calls and come back); `encode` may be called from several threads at once.
//
// Nothing throws out of this file; running out of memory is a Status.
// Source: Sennrich et al. 2016; the order of merges after huggingface/tokenizers `models/bpe/word.rs`.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "../include/lathe/status.h"
#include "pre_tokenize.h"

namespace lathe::tokenizer {

struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t result;
};

class BpeEncoder {
 public:
  /* `byte_ids`: the token of each byte. `merges` by rank; of equal pairs the last one counts. May throw std::bad_alloc. */
  BpeEncoder(PreTokenizerKind kind, std::span<const int32_t, 256> byte_ids, std::span<const BpeMerge> merges);
  ~BpeEncoder();

  /* Appends the ids of every text to `ids`, and how many they are to `counts`. */
  Status encode(std::span<const std::string_view> texts, std::vector<int32_t>& ids, std::vector<uint32_t>& counts);

 private:
  struct Cache;
  struct Rule {
    uint64_t pair;
    uint32_t rank;
    int32_t result;
  };

  const Rule& rule(int32_t left, int32_t right) const;
  void encode_word(std::string_view word, Cache& cache, std::vector<int32_t>& ids) const;
  void merge_short(std::string_view word, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view word, std::vector<int32_t>& ids) const;
  std::unique_ptr<Cache> borrow();

  PreTokenizerKind kind_;
  int32_t byte_ids_[256];
  std::vector<Rule> rules_;  // open addressing; a power of two, at most half full
  std::mutex mutex_;         // idle_
  std::vector<std::unique_ptr<Cache>> idle_;
};

}  // namespace lathe::tokenizer
