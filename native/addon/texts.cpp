// See texts.h.
#include "addon/texts.h"

#include <cstring>
#include <string>
#include <utility>

#include "addon/convert.h"

namespace lathe::addon {

using tokenizer::PreTokenizerKind;

PreTokenizerKind read_pre_tokenizer(Napi::Env env, Napi::Value value) {
  constexpr std::pair<const char*, PreTokenizerKind> kKinds[] = {{"gpt2", PreTokenizerKind::kGpt2},
                                                                 {"gpt2-digits", PreTokenizerKind::kGpt2Digits},
                                                                 {"llama3", PreTokenizerKind::kLlama3},
                                                                 {"qwen2", PreTokenizerKind::kQwen2}};
  const std::string name = read_string(env, value, "preTokenizer");
  for (const auto& [known, kind] : kKinds) {
    if (name == known) return kind;
  }
  throw_status(env, {"ERR_CONFIG", "preTokenizer: expected gpt2, gpt2-digits, llama3 or qwen2, received '" + name + "'"});
}

std::shared_ptr<TextBatch> read_texts(Napi::Env env, const Napi::CallbackInfo& info) {
  const ArrayView utf8 = read_array(env, info[0], "utf8");
  const ArrayView lengths = read_array(env, info[1], "lengths");
  if (utf8.kind != napi_uint8_array) throw_status(env, {"ERR_DTYPE", "utf8: expected a Uint8Array"});
  if (lengths.kind != napi_uint32_array) throw_status(env, {"ERR_DTYPE", "lengths: expected a Uint32Array"});
  auto batch = std::make_shared<TextBatch>();
  try {
    batch->bytes.assign(utf8.data, utf8.data + utf8.bytes);
    batch->texts.reserve(lengths.bytes / sizeof(uint32_t));
  } catch (const std::bad_alloc&) {
    throw_status(env, {"ERR_PLAN_MEMORY", "a batch of texts cannot be copied: hand over smaller ones"});
  }
  size_t at = 0;
  for (size_t i = 0; i < lengths.bytes; i += sizeof(uint32_t)) {
    uint32_t length = 0;
    std::memcpy(&length, lengths.data + i, sizeof length);
    if (length > batch->bytes.size() - at) throw_status(env, {"ERR_SHAPE", "lengths: expected a sum equal to the bytes of utf8, received more"});
    batch->texts.emplace_back(batch->bytes.data() + at, length);
    at += length;
  }
  if (at != batch->bytes.size()) throw_status(env, {"ERR_SHAPE", "lengths: expected a sum equal to the bytes of utf8, received less"});
  return batch;
}

}  // namespace lathe::addon
