/*
 * The arithmetic of the row primitives, on every instruction set this CPU can run, against f64: elementwise operations,
 * reductions, sums of columns, norms, rope. Formats, random numbers and optimizers: row_formats_test.cpp.
 *
 * The idea: each primitive is run on rows of 0 to 70 elements and one long one, from unaligned addresses, between guard
 * bytes. Elementwise primitives must give an element the same bits alone as inside a row (so chunking cannot change
 * results). Accuracy of exp, tanh, sigmoid and the normal CDF is measured over a sweep of floats and held to the bounds
 * that rows.h states.
 */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "row_checks.h"

using namespace lathe::cpu;
using namespace lathe::test;

namespace {

// An elementwise primitive with up to three inputs; truth in f64. `tolerance` is relative, on top of half an ulp, with
// `floor` absolute for values that come from a cancellation.
using Call = std::function<void(int64_t n, void* a, void* b, void* c, void* y)>;
using Truth = std::function<double(double a, double b, double c)>;
void check_map(const std::string& name, int type, int out_type, const Call& call, const Truth& truth, double tolerance,
               double floor = 0, float spread = 2) {
  for (int64_t n : sizes()) {
    Row a(type, normals(n, spread)), b(type, normals(n)), c(type, normals(n)), y(out_type, n);
    call(n, a.at(), b.at(), c.at(), y.at());
    bool close = true, alone = true;
    for (int64_t i = 0; i < n; i++) {
      double want = truth(a.get(i), b.get(i), c.get(i)), off = std::fabs(y.get(i) - want);
      if (!(off <= (tolerance + kHalfUlp[out_type]) * std::fabs(want) + floor)) close = false;
      Row one(out_type, 1);
      call(1, a.at(i), b.at(i), c.at(i), one.at());
      alone = alone && !std::memcmp(one.at(), y.at(i), out_type ? 2 : 4);
    }
    std::string at = name + " " + kTypes[type] + " n " + std::to_string(n);
    check(close, at + " is far from f64");
    check(alone, at + " depends on the place in the row");
    check(y.guarded(), at + " wrote outside its row");
  }
}

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double act(int kind, double x) {
  double u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
  switch (kind) {
    case kGelu: return x * normal_cdf(x);
    case kGeluTanh: return x * sigmoid(2 * u);
    case kRelu: return x > 0 ? x : 0;
    case kSilu: return x * sigmoid(x);
    case kTanh: return std::tanh(x);
    case kExp: return std::exp(x);
    default: return sigmoid(x);
  }
}
double act_slope(int kind, double x) {
  double u = 0.7978845608028654 * (x + 0.044715 * x * x * x), s;
  switch (kind) {
    case kGelu: return normal_cdf(x) + x * 0.3989422804014327 * std::exp(-x * x / 2);
    case kGeluTanh:
      s = sigmoid(2 * u);
      return s + x * s * sigmoid(-2 * u) * 2 * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
    case kRelu: return x > 0 ? 1 : 0;
    case kSilu: return sigmoid(x) + x * sigmoid(x) * sigmoid(-x);
    case kTanh: return 1 / (std::cosh(x) * std::cosh(x));
    case kExp: return std::exp(x);
    default: return sigmoid(x) * sigmoid(-x);
  }
}

void test_elementwise(const RowOps& r) {
  for (int t = 0; t < 2; t++) {
    check_map("add", t, t, [&](int64_t n, void* a, void* b, void*, void* y) { r.add[t](a, b, y, n); },
              [](double a, double b, double) { return a + b; }, 0);
    check_map("mul", t, t, [&](int64_t n, void* a, void* b, void*, void* y) { r.mul[t](a, b, y, n); },
              [](double a, double b, double) { return a * b; }, 0);
    for (int o = 0; o < 2; o++)
      check_map("scale", t, o, [&](int64_t n, void* a, void*, void*, void* y) { r.scale[t][o](a, 0.75f, y, n); },
                [](double a, double, double) { return 0.75 * a; }, 0);
    for (int kind = 0; kind < kActivations; kind++) {
      std::string k = " kind " + std::to_string(kind);
      double floor = kind == kGeluTanh ? 1e-7 : 0;  // its tail is e^(2u): the rounding of u is magnified there
      check_map("activation" + k, t, t,
                [&](int64_t n, void* a, void*, void*, void* y) { r.activation[kind][t](a, y, n); },
                [&](double a, double, double) { return act(kind, a); }, 4e-7, floor);
      check_map("activation_grad" + k, t, t,
                [&](int64_t n, void* a, void* b, void*, void* y) { r.activation_grad[kind][t](b, a, y, n); },
                [&](double a, double b, double) { return b * act_slope(kind, a); }, 1e-6, 1e-6);
      if (!r.glu[kind][t]) continue;
      check_map("glu" + k, t, t, [&](int64_t n, void* a, void* b, void*, void* y) { r.glu[kind][t](a, b, y, n); },
                [&](double a, double b, double) { return act(kind, a) * b; }, 5e-7, 4 * floor);
      std::vector<uint8_t> spare(1027 * 4);
      check_map("glu_grad gate" + k, t, t,
                [&](int64_t n, void* a, void* b, void* c, void* y) { r.glu_grad[kind][t](c, a, b, y, spare.data(), n); },
                [&](double a, double b, double c) { return c * b * act_slope(kind, a); }, 1e-6, 2e-6);
      check_map("glu_grad up" + k, t, t,
                [&](int64_t n, void* a, void* b, void* c, void* y) { r.glu_grad[kind][t](c, a, b, spare.data(), y, n); },
                [&](double a, double, double c) { return c * act(kind, a); }, 5e-7, 4 * floor);
    }
  }
  check_map("softcap", 0, 0,
            [&](int64_t n, void* a, void*, void*, void* y) { r.softcap((float*)a, 3.0f, (float*)y, n); },
            [](double a, double, double) { return 3 * std::tanh(a / 3); }, 4e-7);
  check_map("softcap_grad", 0, 0,
            [&](int64_t n, void* a, void* b, void*, void* y) { r.softcap_grad((float*)b, (float*)a, 30.0f, (float*)y, n); },
            [](double a, double b, double) { return b * (1 - a * a / 900); }, 4e-7);
}

// The largest relative error of `call` over floats spread evenly in bits of their exponent and mantissa.
void check_sweep(const std::string& name, double lo, double hi, double bound, const std::function<void(float*, float*)>& call,
                 const std::function<double(double)>& truth) {
  constexpr int kN = 1024;
  double worst = 0;
  std::uniform_real_distribution<double> flat(lo, hi), exponent(-30, 0);
  for (int pass = 0; pass < 200; pass++) {
    float x[kN], y[kN];
    for (float& v : x) v = pass % 2 ? float(flat(g_random)) : float(std::exp2(exponent(g_random)) * (pass % 4 ? hi : lo));
    call(x, y);
    for (int i = 0; i < kN; i++) {
      double want = truth(x[i]);
      if (std::fabs(want) < 1.2e-38) continue;  // denormal results carry fewer bits
      worst = std::max(worst, std::fabs(y[i] - want) / std::fabs(want));
    }
  }
  std::printf("  %-10s max relative error %.2e (bound %.1e)\n", name.c_str(), worst, bound);
  check(worst <= bound, name + " exceeds its accuracy bound");
}

void test_accuracy(const RowOps& r) {
  check_sweep("exp", -87.3, 88.7, 2.5e-7, [&](float* x, float* y) { r.exp_sum(x, 1, 0, y, 1024); },
              [](double x) { return std::exp(x); });
  check_sweep("tanh", -9.5, 9.5, 2.5e-7, [&](float* x, float* y) { r.activation[kTanh][0](x, y, 1024); },
              [](double x) { return std::tanh(x); });
  check_sweep("sigmoid", -87.3, 87.3, 2.5e-7, [&](float* x, float* y) { r.activation[kSigmoid][0](x, y, 1024); }, sigmoid);
  // gelu(x) is one product away from the CDF. The bound holds for all floats; a sweep meets the worst by chance only.
  check_sweep("gelu", -12.9, 12.9, 4.0e-7, [&](float* x, float* y) { r.activation[kGelu][0](x, y, 1024); },
              [](double x) { return x * normal_cdf(x); });
  float special[4] = {INFINITY, -INFINITY, NAN, 0}, y[4];
  r.exp_sum(special, 1, 0, y, 4);
  check(y[0] == INFINITY && y[1] == 0 && y[2] != y[2] && y[3] == 1, "exp of inf, -inf, NaN, 0");
  r.activation[kTanh][0](special, y, 4);
  check(y[0] == 1 && y[1] == -1 && y[2] != y[2] && y[3] == 0, "tanh of inf, -inf, NaN, 0");
  r.activation[kSigmoid][0](special, y, 4);
  check(y[0] == 1 && y[1] == 0 && y[2] != y[2] && y[3] == 0.5f, "sigmoid of inf, -inf, NaN, 0");
}

void test_reductions(const RowOps& r) {
  for (int t = 0; t < 2; t++)
    for (int64_t n : sizes()) {
      Row a(t, normals(n)), b(t, normals(n));
      double dot = 0, sum = 0, squares = 0, size = 0, size_sum = 0, top = 0;
      for (int64_t i = 0; i < n; i++) {
        double x = a.get(i), y = b.get(i);
        dot += x * y, sum += x, squares += x * x, size += std::fabs(x * y), size_sum += std::fabs(x);
        top = std::max(top, std::fabs(x));
      }
      std::string at = std::string(kTypes[t]) + " n " + std::to_string(n);
      // At most 64 + 8 additions in a chain: a bound from the terms' sizes, not a guess.
      double u = 80 * 6e-8;
      check(std::fabs(r.dot[t](a.at(), b.at(), n) - dot) <= u * size, "dot " + at);
      check(std::fabs(r.sum[t](a.at(), n) - sum) <= u * size_sum, "sum " + at);
      check(std::fabs(r.sum_squares[t](a.at(), n) - squares) <= u * squares, "sum_squares " + at);
      check(double(r.abs_max[t](a.at(), n)) == top, "abs_max " + at);
      Row y(0, normals(n)), before = y;
      r.axpy[t](1.5f, a.at(), (float*)y.at(), n);
      bool ok = true;
      for (int64_t i = 0; i < n; i++)
        ok = ok && std::fabs(y.get(i) - (before.get(i) + 1.5 * a.get(i))) <= 2e-7 * (std::fabs(before.get(i)) + 2 * top);
      check(ok && y.guarded(), "axpy " + at);
    }
  for (int64_t n : sizes()) {
    Row x(0, normals(n, 5)), y(0, n);
    double sum = 0, top = -INFINITY;
    if (n > 3) x.set(1, -INFINITY);
    for (int64_t i = 0; i < n; i++) sum += std::exp(0.5 * x.get(i) - 2), top = std::max(top, double(x.get(i)));
    float a = r.exp_sum((float*)x.at(), 0.5f, 2, (float*)y.at(), n), b = r.exp_sum((float*)x.at(), 0.5f, 2, nullptr, n);
    check(std::fabs(a - sum) <= 5e-6 * sum && bits_of(a) == bits_of(b) && y.guarded(), "exp_sum n " + std::to_string(n));
    check(n <= 3 || y.get(1) == 0, "exp_sum of -inf");
    check(double(r.max((float*)x.at(), n)) == top, "max n " + std::to_string(n));
  }
}

// Against the definition: blocks of kRowBlock rows, each from 0 in row order. To the bit where an addition rounds alone.
void test_columns(const RowOps& r) {
  for (int t = 0; t < 2; t++)
    for (int64_t rows : {1, 7, 8, 64, 65, 203})
      for (int64_t n : {1, 15, 16, 33, 100, 513}) {
        int64_t stride = n + 3;
        Row x(t, normals(rows * stride)), dy(t, normals(rows * stride)), mean(0, normals(rows)), rstd(0, normals(rows));
        Row sum(0, n), dw(0, n), db(0, n), only(0, n);
        r.sum_columns[t](dy.at(), stride, rows, (float*)sum.at(), n);
        r.norm_columns[t](dy.at(), x.at(), stride, (float*)mean.at(), (float*)rstd.at(), rows, (float*)dw.at(), (float*)db.at(), n);
        bool sums = true, weights = true, same = true;
        for (int64_t j = 0; j < n; j++) {
          float total = 0;
          double weight = 0, size = 0;
          for (int64_t block = 0; block < rows; block += kRowBlock) {
            float part = 0;
            for (int64_t i = block; i < std::min(rows, block + kRowBlock); i++) {
              part += float(dy.get(i * stride + j));
              double term = dy.get(i * stride + j) * (x.get(i * stride + j) - mean.get(i)) * rstd.get(i);
              weight += term, size += std::fabs(dy.get(i * stride + j) * rstd.get(i)) * (std::fabs(x.get(i * stride + j)) + std::fabs(mean.get(i)));
            }
            total += part;
          }
          sums = sums && sum.get(j) == double(total) && db.get(j) == double(total);
          weights = weights && std::fabs(dw.get(j) - weight) <= 80 * 6e-8 * size;
        }
        r.norm_columns[t](dy.at(), x.at(), stride, (float*)mean.at(), (float*)rstd.at(), rows, (float*)only.at(), nullptr, n);
        for (int64_t j = 0; j < n; j++) same = same && only.get(j) == dw.get(j);
        r.norm_columns[t](dy.at(), x.at(), stride, nullptr, (float*)rstd.at(), rows, nullptr, (float*)only.at(), n);
        for (int64_t j = 0; j < n; j++) same = same && only.get(j) == db.get(j);
        std::string at = std::string(kTypes[t]) + " rows " + std::to_string(rows) + " n " + std::to_string(n);
        check(sums && sum.guarded() && db.guarded(), "sums of columns " + at);
        check(weights && dw.guarded(), "a norm's weights " + at);
        check(same && only.guarded(), "either of a norm's sums alone " + at);
      }
}

void test_norms(const RowOps& r) {
  for (int t = 0; t < 2; t++)
    for (int w = 0; w < 2; w++)
      for (int64_t n : {1, 2, 15, 16, 17, 64, 576, 4099}) {
        Row x(t, normals(n, 3)), dy(t, normals(n)), add(t, normals(n)), y(t, n), weight(w, normals(n)), bias(w, normals(n));
        auto near = [&](Row& got, const std::function<double(int64_t)>& want, double scale) {
          for (int64_t i = 0; i < n; i++)
            if (!(std::fabs(got.get(i) - want(i)) <= (kHalfUlp[t] + 2e-6) * std::fabs(want(i)) + 2e-6 * scale)) return false;
          return got.guarded();
        };
        std::string at = std::string(kTypes[t]) + " weight " + kTypes[w] + " n " + std::to_string(n);
        double square = 0, mean = 0, variance = 0;
        for (int64_t i = 0; i < n; i++) square += double(x.get(i)) * x.get(i) / double(n), mean += x.get(i) / double(n);
        for (int64_t i = 0; i < n; i++) variance += (x.get(i) - mean) * (x.get(i) - mean) / double(n);
        double rstd = 1 / std::sqrt(square + 1e-5);
        float got = r.rms_norm[t][w](x.at(), weight.at(), 1, 1e-5f, y.at(), n);
        check(std::fabs(got - rstd) <= 1e-6 * rstd, "rms_norm rstd " + at);
        check(near(y, [&](int64_t i) { return x.get(i) * rstd * (weight.get(i) + 1.0); }, 0.1), "rms_norm " + at);
        double gx = 0, g_size = 0;
        for (int64_t i = 0; i < n; i++) {
          double term = dy.get(i) * (weight.get(i) + 1.0) * x.get(i);
          gx += term, g_size += std::fabs(term);
        }
        auto dx = [&](int64_t i) {
          return rstd * dy.get(i) * (weight.get(i) + 1.0) - rstd * rstd * rstd * gx / double(n) * x.get(i) + add.get(i);
        };
        Row aliased = add;
        r.rms_norm_grad[t][w](dy.at(), x.at(), weight.at(), 1, got, add.at(), y.at(), n);
        check(near(y, dx, 10 * rstd), "rms_norm_grad " + at);
        r.rms_norm_grad[t][w](dy.at(), x.at(), weight.at(), 1, got, aliased.at(), aliased.at(), n);
        check(!std::memcmp(aliased.at(), y.at(), size_t(n) * (t ? 2 : 4)), "rms_norm_grad in place " + at);

        float m, s;
        r.layer_norm[t][w](x.at(), weight.at(), bias.at(), 1e-5f, y.at(), &m, &s, n);
        double ls = 1 / std::sqrt(variance + 1e-5);
        check(std::fabs(m - mean) <= 2e-6 && std::fabs(s - ls) <= 2e-6 * ls, "layer_norm statistics " + at);
        if (n == 1) continue;  // the variance is 0: y is the bias plus rounding noise times 316
        check(near(y, [&](int64_t i) { return (x.get(i) - mean) * ls * weight.get(i) + bias.get(i); }, 2), "layer_norm " + at);
        double sg = 0, sgx = 0;
        for (int64_t i = 0; i < n; i++) {
          double g = dy.get(i) * double(weight.get(i));
          sg += g, sgx += g * (x.get(i) - mean) * ls;
        }
        r.layer_norm_grad[t][w](dy.at(), x.at(), weight.at(), m, s, nullptr, y.at(), n);
        check(near(y, [&](int64_t i) {
                return ls * (dy.get(i) * double(weight.get(i)) - sg / double(n) - (x.get(i) - mean) * ls * sgx / double(n));
              }, 10 * ls), "layer_norm_grad " + at);
      }
}

void test_rope(const RowOps& r) {
  for (int t = 0; t < 2; t++)
    for (int64_t half : {1, 3, 16, 32, 40}) {
      int64_t head = 2 * half + (half == 40 ? 16 : 0), n = 3 * head;
      Row x(t, normals(n)), y(t, n), c(0, normals(half)), s(0, normals(half));
      bool ok = true;
      for (float sign : {1.0f, -1.0f}) {
        r.rope[t](x.at(), (float*)c.at(), (float*)s.at(), sign, 3, head, half, y.at());
        for (int64_t i = 0; i < n; i++) {
          int64_t j = i % head, base = i - j;
          double want = x.get(i);
          if (j < half) want = double(x.get(i)) * c.get(j) - sign * x.get(i + half) * double(s.get(j));
          else if (j < 2 * half) want = double(x.get(i)) * c.get(j - half) + sign * x.get(base + j - half) * double(s.get(j - half));
          ok = ok && std::fabs(y.get(i) - want) <= (kHalfUlp[t] + 1e-6) * std::fabs(want) + 1e-6;
        }
      }
      check(ok && y.guarded(), std::string("rope ") + kTypes[t] + " half " + std::to_string(half));
    }
}

}  // namespace

int main() {
  return run_on_every_table([](const RowOps& r) {
    test_elementwise(r);
    test_accuracy(r);
    test_reductions(r);
    test_columns(r);
    test_norms(r);
    test_rope(r);
  });
}
