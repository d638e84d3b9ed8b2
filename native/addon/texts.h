// What tokenizer training and encoding take from JavaScript: texts end to end, and how words are cut.
#pragma once
#include <napi.h>

#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/pre_tokenize.h"

namespace lathe::addon {

tokenizer::PreTokenizerKind read_pre_tokenizer(Napi::Env env, Napi::Value value);

// A batch of texts, copied: JavaScript may reuse its buffers at once.
struct TextBatch {
  std::vector<char> bytes;
  std::vector<std::string_view> texts;
};

// From (utf8: Uint8Array, lengths: Uint32Array).
std::shared_ptr<TextBatch> read_texts(Napi::Env env, const Napi::CallbackInfo& info);

}  // namespace lathe::addon
