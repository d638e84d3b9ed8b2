// Next-token sampling in the order of transformers' logits processors: repetition penalty, temperature, top-k, top-p
// (Holtzman et al., 1904.09751), min-p (Nguyen et al., 2407.01082). Same rules and draws as native/cpu/sampling.cpp.
//
// Candidates are ordered by (logit descending, id ascending); every filter keeps a prefix of that order. Nothing is
// sorted: a candidate's place is a 64-bit key, and "the shortest prefix with enough of something" (rows for top-k,
// probability for top-p and for the draw) is found digit by digit from the top, one pass over the row per 4 bits, in which
// only candidates that share the digits found so far are weighed. Probabilities are f64, added in a fixed tree. One thread
// block per row.
//
// scratch(sample) = 4 * B * V (processed logits)
#include "cuda/common.cuh"
#include "cuda/philox.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kDigits = 16;

// Larger for a larger logit, then for a smaller id. -0 and 0 are one value.
__device__ __forceinline__ uint64_t key_of(float logit, int64_t id) {
  uint32_t u = float_bits(logit == 0 ? 0.0f : logit);
  u = u & 0x80000000u ? ~u : u | 0x80000000u;
  return uint64_t(u) << 32 | uint32_t(~uint32_t(id));
}
__device__ __forceinline__ int64_t id_of(uint64_t key) { return int64_t(uint32_t(~uint32_t(key))); }

struct Row {
  const float* z;
  int64_t vocab;
  double* sums;    // shared, one per warp
  double* mass;    // shared, one per digit and thread
  double* digits;  // shared, one per digit
  double top, temperature;
  __device__ double weight(int64_t i) const { return exp((double(z[i]) - top) / temperature); }
  // Sum of value(i) over candidates with key >= floor; all threads get it.
  template <class Value>
  __device__ double sum(uint64_t floor, Value value) const {
    double s = 0;
    for (int64_t i = threadIdx.x; i < vocab; i += kThreads)
      if (key_of(z[i], i) >= floor) s += value(i);
    return block_reduce(s, sums, Sum{});
  }
  // The largest key whose prefix has `enough(sum)`; 0 (everything) when none has.
  template <class Value, class Enough>
  __device__ uint64_t shortest(uint64_t floor, Value value, Enough enough) const {
    uint64_t key = 0;
    double above = 0;  // of candidates whose leading digits are larger than those of `key`
    for (int shift = 60; shift >= 0; shift -= 4) {
      // Ids have no more bits than the vocabulary's size: their complements start with ones.
      if (shift < 32 && vocab - 1 < int64_t(1) << shift) {
        key |= uint64_t(kDigits - 1) << shift;
        continue;
      }
      for (int d = 0; d < kDigits; d++) mass[d * int(kThreads) + int(threadIdx.x)] = 0;
      for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
        const uint64_t k = key_of(z[i], i);
        if (k >= floor && (shift == 60 || k >> (shift + 4) == key >> (shift + 4))) mass[int(k >> shift & (kDigits - 1)) * int(kThreads) + int(threadIdx.x)] += value(i);
      }
      block_sync();
      for (int d = int(threadIdx.x / 32); d < kDigits; d += int(kThreads / 32)) {
        double s = 0;
        for (int i = int(threadIdx.x % 32); i < int(kThreads); i += 32) s += mass[d * int(kThreads) + i];
        s = warp_reduce(s, Sum{});
        if (threadIdx.x % 32 == 0) digits[d] = s;
      }
      block_sync();
      int digit = kDigits - 1;
      while (digit > 0 && !enough(above + digits[digit])) above += digits[digit--];
      key |= uint64_t(digit) << shift;
      block_sync();  // the sums have been read
    }
    return key > floor ? key : floor;
  }
};

__global__ void __launch_bounds__(kThreads, 2) sample_kernel(const float* logits_all, const int32_t* history_all, const float* params, const uint32_t* rng, float* processed, int64_t vocab, int64_t history, int32_t* token, float* logprob) {
  LATHE_SHARED(double, sums, 32);
  LATHE_SHARED(uint64_t, keys, 32);
  LATHE_SHARED(double, mass, kDigits * int(kThreads));
  LATHE_SHARED(double, digits, kDigits);
  const int64_t row = blockIdx.x;
  const float* logits = logits_all + row * vocab;
  float* z = processed + row * vocab;
  const float penalty = params[4];
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) z[i] = logits[i] != logits[i] ? -INFINITY : logits[i];
  block_sync();
  // A token that stands in the history twice: both threads would write the same value, so the first one does it alone.
  if (penalty != 1.0f)
    for (int64_t i = threadIdx.x; i < history; i += kThreads) {
      const int32_t id = history_all[row * history + i];
      bool first = id >= 0 && id < vocab;
      for (int64_t j = 0; first && j < i; j++) first = history_all[row * history + j] != id;
      if (!first) continue;
      const float x = logits[id];
      const float y = x < 0 ? mul_rn(x, penalty) : div_rn(x, penalty);
      z[id] = y != y ? -INFINITY : y;
    }
  block_sync();

  uint64_t best = 0;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const uint64_t key = key_of(z[i], i);
    best = key > best ? key : best;
  }
  best = block_reduce(best, keys, Max{});
  Row r{z, vocab, sums, mass, digits, double(z[id_of(best)]), 1.0};
  const bool draw = params[5] != 0 && params[0] > 0;
  if (!draw) {
    const double total = r.sum(0, [&](int64_t i) { return r.weight(i); });
    if (threadIdx.x == 0) {
      token[row] = int32_t(id_of(best));
      if (logprob) logprob[row] = float(-log(total));
    }
    return;
  }

  r.temperature = params[0];
  const auto weight = [&](int64_t i) { return r.weight(i); };
  const int64_t top_k = int64_t(params[1]);
  const double top_p = params[2], min_p = params[3];
  uint64_t floor = 0;  // candidates with at least this key remain
  if (top_k > 0 && top_k < vocab)
    floor = r.shortest(0, [](int64_t) { return 1.0; }, [&](double count) { return count >= double(top_k); });
  double total = r.sum(floor, weight);
  if (top_p < 1) {
    const double target = top_p * total;
    floor = r.shortest(floor, weight, [&](double mass) { return mass >= target; });
    total = r.sum(floor, weight);
  }
  if (min_p > 0) {
    // Weights fall along the order, so those that are high enough are a prefix: its last key is the smallest.
    uint64_t last = best;
    for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
      const uint64_t key = key_of(z[i], i);
      if (key >= floor && r.weight(i) >= min_p && key < last) last = key;
    }
    floor = block_reduce(last, keys, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
    total = r.sum(floor, weight);
  }
  const Words words = philox(rng[0], rng[1], uint64_t(row), rng[2], rng[3]);
  const double target = (words.at[0] + 0.5) * 2.3283064365386963e-10 * total;
  uint64_t chosen = r.shortest(floor, weight, [&](double mass) { return mass > target; });
  // `chosen` may be a bound below the last candidate when rounding kept the mass under the target: take the smallest
  // key that is there.
  uint64_t found = best;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const uint64_t key = key_of(z[i], i);
    if (key >= chosen && key < found) found = key;
  }
  found = block_reduce(found, keys, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
  if (threadIdx.x > 0) return;
  token[row] = int32_t(id_of(found));
  if (logprob) logprob[row] = float((double(z[id_of(found)]) - r.top) / r.temperature - log(total));
}

struct Sample { int64_t batch = 0, vocab = 0, history = 0; };
Status prepare_sample(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 4, 2));
  auto &logits = node.inputs[0], &history = node.inputs[1];
  auto* s = plan->emplace<Sample>();
  s->batch = logits.rows();
  s->vocab = logits.cols();
  s->history = history.numel() / std::max<int64_t>(1, s->batch);
  LATHE_EXPECT(node, s->vocab > 0 && s->vocab <= std::numeric_limits<int32_t>::max(), "logits have no columns");
  LATHE_TRY(expect_vector(node, logits, DType::F32, s->batch * s->vocab, "logits"));
  LATHE_TRY(expect_vector(node, history, DType::I32, s->batch * s->history, "history"));
  LATHE_TRY(expect_vector(node, node.inputs[2], DType::F32, 8, "params"));
  LATHE_TRY(expect_vector(node, node.inputs[3], DType::I32, 4, "rng"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::I32, s->batch, "token"));
  if (has_output(node, 1)) LATHE_TRY(expect_vector(node, node.outputs[1], DType::F32, s->batch, "logprob"));
  return expect_scratch(node, 4 * s->batch * s->vocab);
}
Status run_sample(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& s = plan.get<Sample>();
  if (s.batch == 0) return ok_status();
  return launch(stream, sample_kernel, Grid(s.batch), kThreads, 0, b.in<float>(0), b.in<int32_t>(1), b.in<float>(2), b.in<uint32_t>(3),
                static_cast<float*>(b.scratch), s.vocab, s.history, b.out<int32_t>(0), b.out<float>(1));
}

}  // namespace

LATHE_CUDA_KERNEL(sample, prepare_sample, run_sample);

}  // namespace lathe::cuda
