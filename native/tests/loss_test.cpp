/*
 * linear_cross_entropy(_grad) and cross_entropy(_grad) against f64, on every instruction set this CPU has.
 *
 * Bounds: fp32 against f64, 2e-6 of a logit's scale per value, gradients 1e-5 of the largest;
 * bf16 within twice a straightforward bf16 version (gradients rounded to bf16, fp32 logits) plus half an ulp.
 * Exact: 1 and 3 threads; rows alone and among others; ignored rows cost and give nothing; dw adds in place.
 */
#include <algorithm>
#include <cmath>

#include "../cpu/gemm/dispatch.h"
#include "kernel_runner.h"

using namespace lathe;
using namespace lathe::test;

namespace {

int failures = 0;
using Data = std::vector<double>;

struct Case {
  const char* name;
  int64_t tokens, width, vocabulary, chunk;
  int ignore_every = 0;  // 0 none, 1 all
  double logit_scale = 1, softcap = 0;
};

void check(bool ok, const Case& c, const char* what, double got = 0, double limit = 0) {
  if (ok) return;
  failures++;
  std::printf("FAIL %s [%s] %s: %.3g, limit %.3g\n", c.name, cpu::isa_name(cpu::active_isa()), what, got, limit);
}

double worst(const Data& a, const Data& b) {
  double e = 0;
  for (size_t i = 0; i < a.size(); i++)
    if (a[i] != b[i]) e = std::max(e, std::isfinite(a[i] - b[i]) ? std::fabs(a[i] - b[i]) : 1e300);
  return e;
}
double largest(const Data& a) {
  double m = 0;
  for (double x : a) m = std::max(m, std::fabs(x));
  return m;
}
Data numbers(const Value& v) {
  Data d(v.type().numel());
  for (size_t i = 0; i < d.size(); i++) d[i] = v.get(i);
  return d;
}

struct Reference {
  Data nll, correct, entropy, dx, dw;
};

template <class Round>
Reference reference(const Case& c, const Data& x, const Data& w, const std::vector<int32_t>& labels, const Data& dnll,
                    const Data& addend, Round round) {
  const int64_t T = c.tokens, D = c.width, V = c.vocabulary;
  Reference r{Data(T), Data(T), Data(T), Data(T * D), addend};
  Data z(V), slope(V);
  for (int64_t i = 0; i < T; i++) {
    if (labels[i] == -100) continue;
    for (int64_t v = 0; v < V; v++) {
      double s = 0;
      for (int64_t d = 0; d < D; d++) s += x[i * D + d] * w[v * D + d];
      s *= c.logit_scale;
      z[v] = c.softcap ? c.softcap * std::tanh(s / c.softcap) : s;
      slope[v] = c.logit_scale * (c.softcap ? 1 - (z[v] / c.softcap) * (z[v] / c.softcap) : 1);
    }
    const auto top = std::max_element(z.begin(), z.end());
    double sum = 0;
    for (double y : z) sum += std::exp(y - *top);
    const double lse = *top + std::log(sum);
    r.nll[i] = lse - z[labels[i]];
    r.correct[i] = top - z.begin() == labels[i];
    r.entropy[i] = lse;
    for (double y : z) r.entropy[i] -= std::exp(y - lse) * y;
    for (int64_t v = 0; v < V; v++) {
      const double g = round((std::exp(z[v] - lse) - (v == labels[i])) * dnll[i] * slope[v]);
      for (int64_t d = 0; d < D; d++) {
        r.dx[i * D + d] += g * w[v * D + d];
        r.dw[v * D + d] += g * x[i * D + d];
      }
    }
    for (int64_t d = 0; d < D; d++) r.dx[i * D + d] = round(r.dx[i * D + d]);
  }
  return r;
}

Attributes attributes_of(const Case& c, int addend) {
  Attributes a;
  set_number(a, "logit_scale", c.logit_scale), set_number(a, "softcap", c.softcap), set_number(a, "chunk", c.chunk);
  if (addend >= 0) set_number(a, "addend", addend), set_number(a, "trained", 1);
  return a;
}

struct Run {
  Value nll, correct, entropy, dx, dw;
};

Run run(const Case& c, Value& x, Value& w, Value& labels, Value& dnll, Value* addend, bool in_place, cpu::Pool& pool) {
  Run r;
  r.nll = Value(DType::F32, {c.tokens}), r.correct = r.nll, r.entropy = r.nll;
  r.dx = Value(x.type().dtype, {c.tokens, c.width});
  r.dw = Value(DType::F32, {c.vocabulary, c.width});
  const std::vector<TensorType> types = {r.nll.type(), r.nll.type(), r.nll.type(), r.dx.type(), r.dw.type()};
  std::vector<Value*> in = {&x, &w, &labels, &dnll};
  if (addend && in_place) r.dw = *addend, addend = &r.dw;
  if (addend) in.push_back(addend);
  Op("linear_cross_entropy_grad", attributes_of(c, addend != nullptr), in,
     {&r.nll, &r.correct, &r.entropy, &r.dx, &r.dw}, types, pool.threads())
      .run(pool);
  return r;
}

void check_case(const Case& c, DType dtype, DType w_dtype, cpu::Pool& one, cpu::Pool& three) {
  Random random(c.vocabulary + c.tokens);
  const int64_t T = c.tokens, D = c.width, V = c.vocabulary;
  Value x = Value::floats(dtype, {T, D}, random.normals(T * D));
  Value w = Value::floats(w_dtype, {V, D}, random.normals(V * D, 2 / std::sqrt(float(D))));
  std::vector<int32_t> wanted(T);
  for (int64_t i = 0; i < T; i++)
    wanted[i] = c.ignore_every && i % c.ignore_every == 0 ? -100 : int32_t(random.next() % V);
  Value labels = Value::ints(wanted), dnll = Value::floats(DType::F32, {T}, random.normals(T));
  Value addend = Value::floats(DType::F32, {V, D}, random.normals(V * D));
  const Run r = run(c, x, w, labels, dnll, nullptr, false, one);

  // bf16 arithmetic rounds w to bf16 on the way in.
  const bool low = dtype == DType::BF16;
  Data wd = numbers(w);
  if (low)
    for (double& y : wd) y = from_bf16(to_bf16(float(y)));
  const Reference ref = reference(c, numbers(x), wd, wanted, numbers(dnll), Data(V * D), [](double y) { return y; });
  const Reference plain = reference(c, numbers(x), wd, wanted, numbers(dnll), Data(V * D),
                                    [low](double y) { return low ? double(from_bf16(to_bf16(float(y)))) : y; });
  const Data got[] = {numbers(r.nll), numbers(r.entropy), numbers(r.dx), numbers(r.dw)};
  const Data* want[] = {&ref.nll, &ref.entropy, &ref.dx, &ref.dw};
  const Data* rounded[] = {&plain.nll, &plain.entropy, &plain.dx, &plain.dw};
  const char* names[] = {"nll", "entropy", "dx", "dw"};
  for (int i = 0; i < 4; i++) {
    const double e = worst(got[i], *want[i]);
    double limit = (i < 2 ? 2e-6 : 1e-5) * std::max(largest(*want[i]), i < 2 ? 1.0 : 0.0);
    if (low && i >= 2) limit = 2 * worst(*rounded[i], *want[i]) + largest(*want[i]) / 512;
    check(e <= limit, c, names[i], e, limit);
  }
  for (int64_t i = 0; i < T; i++) {
    check(r.correct.get(i) == ref.correct[i], c, "correct, row", i);
    if (wanted[i] != -100) continue;
    double sum = std::fabs(r.nll.get(i)) + std::fabs(r.entropy.get(i));
    for (int64_t d = 0; d < D; d++) sum += std::fabs(r.dx.get(i * D + d));
    check(sum == 0, c, "an ignored row is not 0", i);
  }

  // The forward op gives the same losses; absent outputs change nothing.
  Value nll(DType::F32, {T}), correct = nll;
  Op("linear_cross_entropy", attributes_of(c, -1), {&x, &w, &labels}, {&nll, &correct, nullptr},
     {nll.type(), nll.type(), nll.type()}, 3)
      .run(three);
  check(nll.same_bytes(r.nll) && correct.same_bytes(r.correct), c, "forward and gradient op, bits differ");

  const Run r3 = run(c, x, w, labels, dnll, nullptr, false, three);
  check(r3.nll.same_bytes(r.nll) && r3.entropy.same_bytes(r.entropy), c, "1 and 3 threads, losses differ");
  check(r3.dx.same_bytes(r.dx) && r3.dw.same_bytes(r.dw), c, "1 and 3 threads, gradients differ");

  // dw adds to the addend, in place or not.
  const Run apart = run(c, x, w, labels, dnll, &addend, false, one);
  const Run placed = run(c, x, w, labels, dnll, &addend, true, one);
  check(apart.dw.same_bytes(placed.dw), c, "addend in place, bits differ");
  Data sum = numbers(addend);
  for (size_t i = 0; i < sum.size(); i++) sum[i] += r.dw.get(i);
  const double e = worst(numbers(apart.dw), sum), limit = 4e-7 * (largest(sum) + largest(ref.dw));
  check(e <= limit, c, "addend", e, limit);

  // A row alone equals the same row among others, bit for bit.
  if (T > 2) {
    Case alone = c;
    alone.tokens = 1;
    const int64_t i = T - 2, bytes = D * dtype_bytes(dtype);
    Value xi(dtype, {1, D}), li = Value::ints({wanted[i]}), di = Value::floats(DType::F32, {1}, {dnll.get(i)});
    std::memcpy(xi.data(), static_cast<char*>(x.data()) + i * bytes, bytes);
    const Run ri = run(alone, xi, w, li, di, nullptr, false, one);
    check(ri.nll.get(0) == r.nll.get(i) && ri.entropy.get(0) == r.entropy.get(i) &&
              std::memcmp(ri.dx.data(), static_cast<const char*>(r.dx.data()) + i * bytes, bytes) == 0,
          c, "a row alone has other bits");
  }
}

void test_bad_label(cpu::Pool& pool) {
  Case c{"bad label", 3, 8, 5, 2};
  Random random(3);
  Value x = Value::floats(DType::F32, {3, 8}, random.normals(24));
  Value w = Value::floats(DType::F32, {5, 8}, random.normals(40));
  Value labels = Value::ints({1, 5, -7}), dnll = Value::floats(DType::F32, {3}, {1, 1, 1});
  const Run r = run(c, x, w, labels, dnll, nullptr, false, pool);
  check(std::isfinite(r.nll.get(0)) && std::isnan(r.nll.get(1)) && std::isnan(r.nll.get(2)), c, "must give NaN");
  check(std::isnan(r.dx.get(8)) && std::isfinite(r.dx.get(0)), c, "gradient must be NaN in its row only");
}

void test_ties(cpu::Pool& pool) {
  Case c{"ties", 3, 2, 4, 3};
  Value x = Value::floats(DType::F32, {3, 2}, {1, 0, 1, 0, 1, 0});
  Value w = Value::floats(DType::F32, {4, 2}, {0, 1, 2, 0, 1, 0, 2, 5});  // logits 0, 2, 1, 2
  Value labels = Value::ints({1, 3, 2}), dnll = Value::floats(DType::F32, {3}, {1, 1, 1});
  const Run r = run(c, x, w, labels, dnll, nullptr, false, pool);
  check(r.correct.get(0) == 1 && r.correct.get(1) == 0 && r.correct.get(2) == 0, c, "the lowest index wins");
}

void test_small(DType dtype, cpu::Pool& pool) {
  Case c{"cross_entropy", 7, 0, 5, 1};
  const int64_t T = 7, C = 5;
  Random random(11);
  Value z = Value::floats(dtype, {T, C}, random.normals(T * C, 3));
  const std::vector<int32_t> wanted = {0, 4, -100, 2, 1, 3, 4};
  Value labels = Value::ints(wanted), dnll = Value::floats(DType::F32, {T}, random.normals(T));
  Value nll(DType::F32, {T}), correct = nll, dz(dtype, {T, C});
  Op("cross_entropy", {}, {&z, &labels}, {&nll, &correct}, {nll.type(), nll.type()}, 2).run(pool);
  Op("cross_entropy_grad", {}, {&z, &labels, &dnll}, {&dz}, {dz.type()}, 2).run(pool);
  for (int64_t i = 0; i < T; i++) {
    double sum = 0, e = 0;
    int64_t best = 0;
    for (int64_t j = 0; j < C; j++) {
      sum += std::exp(double(z.get(i * C + j)));
      if (z.get(i * C + j) > z.get(i * C + best)) best = j;
    }
    const bool ignored = wanted[i] == -100;
    check(std::fabs(nll.get(i) - (ignored ? 0 : std::log(sum) - z.get(i * C + wanted[i]))) <= 2e-6, c, "nll, row", i);
    check(correct.get(i) == (!ignored && best == wanted[i]), c, "correct, row", i);
    for (int64_t j = 0; j < C; j++) {
      const double g = ignored ? 0 : (std::exp(double(z.get(i * C + j))) / sum - (j == wanted[i])) * dnll.get(i);
      e = std::max(e, std::fabs(dz.get(i * C + j) - g) - (dtype == DType::BF16 ? std::fabs(g) / 256 : 0));
    }
    check(e <= 1e-6, c, "gradient, row", e, 1e-6);
  }
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one row", 1, 16, 10, 4},
      {"chunks", 37, 64, 300, 8},
      {"ignored rows", 40, 48, 300, 16, 3},
      {"all ignored", 9, 16, 20, 4, 1},
      {"odd sizes", 13, 33, 2051, 5, 4},
      {"two blocks", 5, 24, 4500, 64},
      {"scale", 12, 32, 100, 12, 0, 0.25},
      {"softcap", 12, 32, 100, 5, 2, 2.0, 3.0},
  };
  cpu::Pool one(1), three(3);
  const cpu::Isa best = cpu::active_isa();
  for (int i = static_cast<int>(best); i >= 0; i--) {
    if (!cpu::force_isa(static_cast<cpu::Isa>(i))) continue;
    for (const Case& c : cases) {
      check_case(c, DType::F32, DType::F32, one, three);
      check_case(c, DType::BF16, DType::BF16, one, three);
      check_case(c, DType::BF16, DType::F32, one, three);
      check_case(c, DType::F32, DType::BF16, one, three);
    }
    test_bad_label(one);
    test_ties(one);
    test_small(DType::F32, three), test_small(DType::BF16, three);
    std::printf("loss: %zu cases x 4 dtypes on %s\n", cases.size(), cpu::isa_name(static_cast<cpu::Isa>(i)));
  }
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures > 0 ? 1 : 0;
}
