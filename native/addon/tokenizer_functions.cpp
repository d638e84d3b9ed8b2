// createBpeTrainer: byte-level BPE training (native/tokenizer) for JavaScript.
//
// Idea: JavaScript reads texts and hands them over in batches; each batch is copied and counted on a background thread,
// so the next one can be read meanwhile. Training reports how far it is through two atomics that JavaScript polls: no
// callback crosses threads.
//
// Invariants: one call at a time per trainer (a second one is refused, not queued); the trainer lives until the last
// call on it has ended, also when JavaScript forgets it; training stops at its next report when the environment goes
// away.
#include <atomic>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "addon/convert.h"
#include "addon/environment.h"
#include "addon/functions.h"
#include "addon/texts.h"
#include "engine/system.h"
#include "tokenizer/bpe_train.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace lathe::addon {

namespace {

using tokenizer::BpeModel;
using tokenizer::BpeTrainer;
using tokenizer::BpeTrainerOptions;

constexpr uint64_t kMostThreads = 1024;

// What one JavaScript trainer holds; shared with the thread that works on it.
struct Training {
  std::unique_ptr<BpeTrainer> trainer;
  std::atomic<bool> busy{false};
  std::atomic<uint64_t> merges{0};
  std::atomic<uint64_t> tokens{0};
  std::shared_ptr<Gate> gate;

  bool is_abandoned() const {
    std::lock_guard<std::mutex> lock(gate->mutex);
    return gate->closed;
  }
};

BpeTrainerOptions read_options(Napi::Env env, Napi::Value value) {
  if (!value.IsObject()) throw_status(env, {"ERR_CONFIG", "createBpeTrainer: expected an object of options"});
  Napi::Object from = value.As<Napi::Object>();
  BpeTrainerOptions options;
  options.vocab_size = read_size(env, from.Get("vocabSize"), "vocabSize");
  options.min_frequency = read_size(env, from.Get("minFrequency"), "minFrequency");
  options.special_tokens = read_strings(env, from.Get("specialTokens"), "specialTokens");
  options.pre_tokenizer = read_pre_tokenizer(env, from.Get("preTokenizer"));
  options.threads = read_size(env, from.Get("threads"), "threads");
  options.memory_cap_bytes = read_size(env, from.Get("memoryCapBytes"), "memoryCapBytes");
  const ArrayView alphabet = read_array(env, from.Get("initialAlphabet"), "initialAlphabet");
  if (alphabet.kind != napi_uint8_array) throw_status(env, {"ERR_DTYPE", "initialAlphabet: expected a Uint8Array"});
  options.initial_alphabet.assign(alphabet.data, alphabet.data + alphabet.bytes);
  if (options.vocab_size > UINT32_MAX) throw_status(env, {"ERR_CONFIG", "vocabSize: expected less than 2^32"});
  if (options.threads > kMostThreads) throw_status(env, {"ERR_CONFIG", "threads: expected 0 (all cores) to 1024"});
  if (options.threads == 0) {
    int threads = 0;
    check(env, default_threads(&threads));
    options.threads = static_cast<size_t>(threads);
  }
  return options;
}

// The right to work on a trainer. Given back before the promise settles, or when no thread could be started.
class Claim {
 public:
  Claim(Napi::Env env, std::shared_ptr<Training> training) : training_(std::move(training)) {
    if (!training_->busy.exchange(true)) return;
    training_.reset();
    throw_status(env, {"ERR_CONFIG", "the BPE trainer is at work: await what was called before"});
  }
  ~Claim() { release(); }
  void release() {
    if (auto training = std::move(training_)) training->busy = false;
  }

 private:
  std::shared_ptr<Training> training_;
};

// Reading texts leaves freed blocks behind in every thread's arena: they go back to the system before merging takes its own.
void release_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

Napi::Value feed(const Napi::CallbackInfo& info, const std::shared_ptr<Training>& training) {
  Napi::Env env = info.Env();
  std::shared_ptr<TextBatch> batch = read_texts(env, info);
  auto claim = std::make_shared<Claim>(env, training);
  return run_in_background(
      env,
      [training, batch, claim] {
        Status status = training->trainer->feed(batch->texts);
        claim->release();
        return status;
      },
      [](Napi::Env done) { return done.Undefined(); });
}

double number(uint64_t value) { return static_cast<double>(value); }

Napi::Value model_object(Napi::Env env, const BpeModel& model) {
  Napi::Array tokens = Napi::Array::New(env, model.tokens.size());
  for (size_t i = 0; i < model.tokens.size(); i++) {
    Napi::HandleScope scope(env);
    tokens.Set(static_cast<uint32_t>(i), Napi::String::New(env, model.tokens[i]));
  }
  Napi::Uint32Array merges = Napi::Uint32Array::New(env, model.merges.size() * 2);
  for (size_t i = 0; i < model.merges.size(); i++) {
    merges[2 * i] = model.merges[i].first;
    merges[2 * i + 1] = model.merges[i].second;
  }
  Napi::Object stats = Napi::Object::New(env);
  stats.Set("words", number(model.stats.words));
  stats.Set("occurrences", number(model.stats.occurrences));
  stats.Set("prunedWords", number(model.stats.pruned_words));
  stats.Set("prunedOccurrences", number(model.stats.pruned_occurrences));
  stats.Set("textBytes", number(model.stats.text_bytes));
  Napi::Object out = Napi::Object::New(env);
  out.Set("tokens", tokens);
  out.Set("merges", merges);
  out.Set("stats", stats);
  return out;
}

Napi::Value train(const Napi::CallbackInfo& info, const std::shared_ptr<Training>& training) {
  auto claim = std::make_shared<Claim>(info.Env(), training);
  training->merges = 0;
  training->tokens = 0;
  auto model = std::make_shared<BpeModel>();
  return run_in_background(
      info.Env(),
      [training, model, claim] {
        release_free_memory();
        Status status = training->trainer->train(*model);
        claim->release();
        return status;
      },
      [model](Napi::Env env) { return model_object(env, *model); });
}

Napi::Value progress(const Napi::CallbackInfo& info, const std::shared_ptr<Training>& training) {
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("merges", number(training->merges));
  out.Set("tokens", number(training->tokens));
  return out;
}

Napi::Value create_bpe_trainer(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  BpeTrainerOptions options = read_options(env, info[0]);
  auto training = std::make_shared<Training>();
  training->gate = Environment::of(env)->gate();
  // The trainer owns this function and is owned by the training: a weak pointer would be no safer, only longer.
  options.progress = [self = training.get()](size_t merges, size_t tokens) {
    self->merges = merges;
    self->tokens = tokens;
    return !self->is_abandoned();
  };
  training->trainer = std::make_unique<BpeTrainer>(std::move(options));
  Napi::Object out = Napi::Object::New(env);
  const auto method = [&](const char* name, Napi::Value (*call)(const Napi::CallbackInfo&, const std::shared_ptr<Training>&)) {
    out.Set(name, Napi::Function::New(env, [training, call](const Napi::CallbackInfo& i) { return call(i, training); }, name));
  };
  method("feed", feed);
  method("train", train);
  method("progress", progress);
  return out;
}

LATHE_ADDON_FUNCTION("createBpeTrainer", create_bpe_trainer);

}  // namespace

}  // namespace lathe::addon
