// createBpeEncoder: byte-level BPE encoding (native/tokenizer) for JavaScript.
//
// Each call copies its texts and works on a background thread of its own; several calls at once are several threads.
#include <memory>
#include <utility>
#include <vector>

#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/functions.h"
#include "addon/texts.h"
#include "tokenizer/bpe_encode.h"

namespace lathe::addon {

namespace {

using tokenizer::BpeEncoder;
using tokenizer::BpeMerge;

struct Encoded {
  std::vector<int32_t> ids;
  std::vector<uint32_t> counts;
};

template <class Array, class T>
Napi::Value to_array(Napi::Env env, const std::vector<T>& values) {
  Array out = Array::New(env, values.size());
  std::copy(values.begin(), values.end(), out.Data());
  return out;
}

Napi::Value encode(const Napi::CallbackInfo& info, const std::shared_ptr<BpeEncoder>& encoder) {
  std::shared_ptr<TextBatch> batch = read_texts(info.Env(), info);
  auto result = std::make_shared<Encoded>();
  return run_in_background(
      info.Env(), [encoder, batch, result] { return encoder->encode(batch->texts, result->ids, result->counts); },
      [result](Napi::Env env) {
        Napi::Object out = Napi::Object::New(env);
        out.Set("ids", to_array<Napi::Int32Array>(env, result->ids));
        out.Set("counts", to_array<Napi::Uint32Array>(env, result->counts));
        return out;
      });
}

Napi::Value create_bpe_encoder(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsObject()) throw_status(env, {"ERR_CONFIG", "createBpeEncoder: expected an object of options"});
  Napi::Object from = info[0].As<Napi::Object>();
  const auto ints = [&](const char* name, size_t multiple) {
    const ArrayView view = read_array(env, from.Get(name), name);
    const size_t count = view.bytes / sizeof(int32_t);
    if (view.kind != napi_int32_array) throw_status(env, {"ERR_DTYPE", std::string(name) + ": expected an Int32Array"});
    if (count % multiple != 0) throw_status(env, {"ERR_SHAPE", std::string(name) + ": expected a multiple of " + std::to_string(multiple) + " numbers, received " + std::to_string(count)});
    return std::span<const int32_t>(reinterpret_cast<const int32_t*>(view.data), count);
  };
  const auto kind = read_pre_tokenizer(env, from.Get("preTokenizer"));
  const std::span<const int32_t> bytes = ints("byteIds", 256);
  const std::span<const int32_t> triples = ints("merges", 3);
  if (bytes.size() != 256) throw_status(env, {"ERR_SHAPE", "byteIds: expected 256 numbers"});
  std::shared_ptr<BpeEncoder> encoder;
  try {
    std::vector<BpeMerge> merges(triples.size() / 3);
    for (size_t i = 0; i < merges.size(); ++i) merges[i] = {triples[3 * i], triples[3 * i + 1], triples[3 * i + 2]};
    encoder = std::make_shared<BpeEncoder>(kind, bytes.first<256>(), merges);
  } catch (const std::bad_alloc&) {
    throw_status(env, {"ERR_PLAN_MEMORY", "there is no memory for the merges of the tokenizer"});
  }
  Napi::Object out = Napi::Object::New(env);
  out.Set("encode", Napi::Function::New(env, [encoder](const Napi::CallbackInfo& i) { return encode(i, encoder); }, "encode"));
  return out;
}

LATHE_ADDON_FUNCTION("createBpeEncoder", create_bpe_encoder);

}  // namespace

}  // namespace lathe::addon
