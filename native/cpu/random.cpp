// Dropout and random fills from the counter-based generator Philox4x32-10 (Salmon et al., SC 2011).
//
// Element e takes lane e % 4 of the block with counter (e / 4 low, high, step, micro) and key (seed ^ site): the value
// depends on nothing else, so masks are equal on every device, for any thread count, and when recomputed.
// Normals are Box-Muller in f64: lanes (0, 1) give elements 0 (cosine) and 1 (sine), lanes (2, 3) elements 2 and 3.
//
// scratch(each) = 0
#include <cmath>

#include "common.h"

namespace lathe::cpu {
namespace {

constexpr int64_t kWords = 1024;  // drawn at a time, on the stack

struct Draw {
  int64_t n = 0;
  DType type = DType::F32;
  uint32_t key[2] = {0, 0};  // the site; for fills site ^ seed
  uint64_t threshold = 0;
  float scale = 1;
  double a = 0, b = 1;  // low, high or mean, std
};
Status read_key(NodeView& node, const char* lo, const char* hi, Draw* d) {
  uint32_t word_lo, word_hi;
  LATHE_TRY(word(node, lo, &word_lo));
  LATHE_TRY(word(node, hi, &word_hi));
  d->key[0] ^= word_lo;
  d->key[1] ^= word_hi;
  return ok_status();
}

// body(offset, words, count) over pieces of at most kWords elements.
template <class F>
void over_words(Stream& stream, int64_t n, const uint32_t key[2], uint32_t c2, uint32_t c3, F&& body) {
  auto philox = rows().philox;
  parallel_range(stream, n, kGrain, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t words[kWords];
    for (int64_t i = begin; i < end; i += kWords) {
      int64_t count = std::min(kWords, end - i);
      philox(key, uint64_t(i) / 4, c2, c3, words, (count + 3) / 4);
      body(i, words, count);
    }
  });
}

Status prepare_dropout(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  LATHE_TRY(expect_float(node, node.inputs[0], "x"));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "output"));
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, 4, "rng"));
  auto* d = plan->emplace<Draw>();
  double p;
  LATHE_TRY(node.attributes.number("p", &p));
  LATHE_EXPECT(node, p >= 0 && p < 1, "p must be in [0, 1), got " + std::to_string(p));
  LATHE_TRY(read_key(node, "site_lo", "site_hi", d));
  d->n = node.inputs[0].numel();
  d->type = node.inputs[0].dtype;
  d->threshold = uint64_t(std::floor((1 - p) * 4294967296.0));
  d->scale = float(1 / (1 - p));
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_dropout(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& d = plan.get<Draw>();
  uint32_t rng[4];
  std::memcpy(rng, b.inputs[1], sizeof rng);
  const uint32_t key[2] = {rng[0] ^ d.key[0], rng[1] ^ d.key[1]};
  auto keep = rows().keep[int(d.type)];
  over_words(stream, d.n, key, rng[2], rng[3], [&](int64_t i, const uint32_t* words, int64_t n) {
    keep(at(b.inputs[0], i, d.type), words, d.threshold, d.scale, at(b.outputs[0], i, d.type), n);
  });
  return ok_status();
}

Status prepare_random(NodeView& node, const char* a, const char* b, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 0, 1));
  LATHE_TRY(expect_float(node, node.outputs[0], "output"));
  auto* d = plan->emplace<Draw>();
  LATHE_TRY(node.attributes.number(a, &d->a));
  LATHE_TRY(node.attributes.number(b, &d->b));
  LATHE_TRY(read_key(node, "seed_lo", "seed_hi", d));
  LATHE_TRY(read_key(node, "site_lo", "site_hi", d));
  d->n = node.outputs[0].numel();
  d->type = node.outputs[0].dtype;
  return ok_status();
}
Status prepare_uniform(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  return prepare_random(node, "low", "high", plan);
}
Status prepare_normal(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  return prepare_random(node, "mean", "std", plan);
}

template <class F>
Status run_random(const Draw& d, const Buffers& b, Stream& stream, F&& four) {
  auto round = rows().from_f32[int(d.type)];
  over_words(stream, d.n, d.key, 0, 0, [&](int64_t i, const uint32_t* words, int64_t n) {
    float values[kWords];
    for (int64_t j = 0; j < n; j += 4) four(words + j, values + j);
    round(values, at(b.outputs[0], i, d.type), n);
  });
  return ok_status();
}
Status run_uniform(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& d = plan.get<Draw>();
  return run_random(d, b, stream, [&](const uint32_t* w, float* v) {
    for (int k = 0; k < 4; k++) v[k] = float(d.a + (d.b - d.a) * (double(w[k] >> 8) * 0x1p-24));
  });
}
Status run_normal(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& d = plan.get<Draw>();
  return run_random(d, b, stream, [&](const uint32_t* w, float* v) {
    for (int k = 0; k < 4; k += 2) {
      double radius = std::sqrt(-2 * std::log((w[k] + 0.5) * 0x1p-32));
      double angle = 2 * 3.14159265358979323846 * ((w[k + 1] + 0.5) * 0x1p-32);
      v[k] = float(d.a + d.b * radius * std::cos(angle));
      v[k + 1] = float(d.a + d.b * radius * std::sin(angle));
    }
  });
}

}  // namespace

LATHE_CPU_KERNEL(dropout, prepare_dropout, run_dropout);
LATHE_CPU_KERNEL(random_uniform, prepare_uniform, run_uniform);
LATHE_CPU_KERNEL(random_normal, prepare_normal, run_normal);

}  // namespace lathe::cpu
