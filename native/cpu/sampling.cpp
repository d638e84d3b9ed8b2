// Next-token sampling in the order of transformers' logits processors: repetition penalty, temperature, top-k, top-p
// (Holtzman et al., 1904.09751), min-p (Nguyen et al., 2407.01082).
//
// Candidates are ordered by (logit descending, id ascending); every filter keeps a prefix of that order, so the row is
// only sorted as far as a filter or the draw looks. Probabilities are f64. The draw of row b uses word 0 of the Philox
// block (b, 0, step, micro) under key (seed lo, seed hi): u = (word + 0.5) 2^-32, the first candidate whose cumulative
// probability exceeds u. do_sample 0 or temperature 0: the highest logit, lowest id. logprob is under the distribution
// drawn from (greedy: all tokens after the penalty). A NaN logit counts as -inf.
//
// scratch(sample) = 8 * B * V   (per row: V processed logits f32, V candidate ids i32)
#include <cmath>
#include <limits>

#include "common.h"

namespace lathe::cpu {
namespace {

struct Sample {
  int64_t batch = 0, vocab = 0, history = 0;
};
struct Settings {
  double temperature;
  int64_t top_k;
  double top_p, min_p, penalty;
  bool draw;
};

// Candidates of one row, sorted as far as asked for.
class Candidates {
 public:
  Candidates(const float* z, int32_t* order, int64_t vocab) : z_(z), order_(order), n_(vocab) {
    for (int64_t i = 0; i < vocab; i++) order[i] = int32_t(i);
  }
  // Sorts the first `want` places; then only those remain valid candidates if `cut`.
  void sort_to(int64_t want) {
    if (want <= sorted_) return;
    want = std::min(n_, std::max(want, std::max<int64_t>(64, 4 * sorted_)));
    auto before = [this](int32_t a, int32_t b) { return z_[a] != z_[b] ? z_[a] > z_[b] : a < b; };
    if (want < n_) std::nth_element(order_ + sorted_, order_ + want, order_ + n_, before);
    std::sort(order_ + sorted_, order_ + want, before);
    sorted_ = want;
  }
  int32_t id(int64_t i) {
    sort_to(i + 1);
    return order_[i];
  }
  float logit(int64_t i) { return z_[id(i)]; }
  int32_t unordered(int64_t i) const { return order_[i]; }

 private:
  const float* z_;
  int32_t* order_;
  int64_t n_, sorted_ = 0;
};

void penalise(const int32_t* history, int64_t n, const float* logits, float penalty, int64_t vocab, float* z) {
  if (penalty == 1.0f) return;
  for (int64_t i = 0; i < n; i++) {
    int32_t id = history[i];
    if (id < 0 || id >= vocab) continue;
    // From the input logit, so that a token seen twice is penalised once.
    z[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
  }
}

void pick_best(const float* z, int64_t vocab, int32_t* token, float* logprob) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocab; i++)
    if (z[i] > z[best]) best = i;
  double total = 0;
  for (int64_t i = 0; i < vocab; i++) total += std::exp(double(z[i]) - z[best]);
  *token = int32_t(best);
  *logprob = float(-std::log(total));
}

void draw(const float* z, int32_t* order, int64_t vocab, const Settings& s, double u, int32_t* token, float* logprob) {
  Candidates c(z, order, vocab);
  double top = c.logit(0);
  auto weight = [&](float logit) { return std::exp((double(logit) - top) / s.temperature); };
  int64_t keep = vocab;
  if (s.top_k > 0 && s.top_k < vocab) c.sort_to(keep = s.top_k);
  double total = 0;
  for (int64_t i = 0; i < keep; i++) total += weight(z[c.unordered(i)]);
  if (s.top_p < 1) {
    double mass = 0;
    for (int64_t i = 0; i < keep; i++)
      if ((mass += weight(c.logit(i))) >= s.top_p * total) keep = i + 1, total = mass;
  }
  if (s.min_p > 0) {
    double mass = 1;
    int64_t i = 1;
    for (double w; i < keep && (w = weight(c.logit(i))) >= s.min_p; i++) mass += w;
    keep = i, total = mass;
  }
  double mass = 0, target = u * total;
  int64_t chosen = 0;
  while ((mass += weight(c.logit(chosen))) <= target && chosen + 1 < keep) chosen++;
  *token = c.id(chosen);
  *logprob = float((double(c.logit(chosen)) - top) / s.temperature - std::log(total));
}

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
  return expect_scratch(node, 8 * s->batch * s->vocab);
}
Status run_sample(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& s = plan.get<Sample>();
  const float* p = b.in<float>(2);
  Settings settings{p[0], int64_t(p[1]), p[2], p[3], p[4], p[5] != 0 && p[0] > 0};
  uint32_t rng[4];
  std::memcpy(rng, b.inputs[3], sizeof rng);
  auto philox = rows().philox;
  parallel_chunks(stream, s.batch, [&](int64_t row) {
    const float* logits = b.in<float>(0) + row * s.vocab;
    float* z = static_cast<float*>(b.scratch) + row * s.vocab;
    int32_t* order = static_cast<int32_t*>(b.scratch) + (s.batch + row) * s.vocab;
    for (int64_t i = 0; i < s.vocab; i++) z[i] = logits[i];
    penalise(b.in<int32_t>(1) + row * s.history, s.history, logits, float(settings.penalty), s.vocab, z);
    for (int64_t i = 0; i < s.vocab; i++)
      if (z[i] != z[i]) z[i] = -std::numeric_limits<float>::infinity();
    float logprob = 0;
    if (settings.draw) {
      uint32_t words[4];
      philox(rng, uint64_t(row), rng[2], rng[3], words, 1);
      draw(z, order, s.vocab, settings, (words[0] + 0.5) * 0x1p-32, b.out<int32_t>(0) + row, &logprob);
    } else {
      pick_best(z, s.vocab, b.out<int32_t>(0) + row, &logprob);
    }
    if (b.outputs[1]) b.out<float>(1)[row] = logprob;
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(sample, prepare_sample, run_sample);

}  // namespace lathe::cpu
