/*
 * The row primitives of every instruction set this CPU can run, against f64.
 *
 * The idea: each primitive is run on rows of 0 to 70 elements and one long one, from unaligned addresses, between guard
 * bytes. Elementwise primitives must give an element the same bits alone as inside a row (so chunking cannot change
 * results). Accuracy of exp, tanh, sigmoid and the normal CDF is measured over a sweep of floats and held to the bounds
 * that rows.h states. Formats (bf16, f16, NF4, FP4, dynamic maps, Philox) are compared with independent scalar code.
 */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../cpu/isa/rows.h"

using namespace lathe::cpu;

namespace {

int g_passed = 0, g_failed = 0;
std::mt19937 g_random(7);

void check(bool ok, const std::string& what) {
  ok ? ++g_passed : ++g_failed;
  if (!ok && g_failed <= 40) std::printf("FAILED %s\n", what.c_str());
}

float from_bits(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
uint32_t bits_of(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
float from_bf16(uint16_t h) { return from_bits(uint32_t(h) << 16); }
uint16_t to_bf16(float f) {
  uint32_t u = bits_of(f);
  if (f != f) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
double from_f16(uint16_t h) {
  int e = (h >> 10) & 31, m = h & 1023;
  double v = e == 31 ? (m ? NAN : INFINITY) : e ? std::ldexp(1024 + m, e - 25) : std::ldexp(m, -24);
  return h & 0x8000 ? -v : v;
}

// A row of f32 or bf16 at an odd address between guards.
class Row {
 public:
  Row(int type, int64_t n) : type_(type), n_(n), bytes_(size_t(n) * (type ? 2 : 4) + 2 * kGuard, 0xA5) {}
  Row(int type, const std::vector<float>& v) : Row(type, int64_t(v.size())) {
    for (int64_t i = 0; i < n_; i++) set(i, v[size_t(i)]);
  }
  void* at(int64_t i = 0) { return bytes_.data() + kGuard + i * (type_ ? 2 : 4); }
  float get(int64_t i) {
    uint32_t u = 0;
    std::memcpy(&u, at(i), type_ ? 2 : 4);
    return type_ ? from_bf16(uint16_t(u)) : from_bits(u);
  }
  void set(int64_t i, float f) {
    uint32_t u = type_ ? to_bf16(f) : bits_of(f);
    std::memcpy(at(i), &u, type_ ? 2 : 4);
  }
  bool guarded() const {
    for (size_t i = 0; i < kGuard; i++)
      if (bytes_[i] != 0xA5 || bytes_[bytes_.size() - 1 - i] != 0xA5) return false;
    return true;
  }

 private:
  static constexpr size_t kGuard = 67;
  int type_;
  int64_t n_;
  std::vector<uint8_t> bytes_;
};

std::vector<float> normals(int64_t n, float scale = 1) {
  std::normal_distribution<float> d(0, scale);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = d(g_random);
  return v;
}

std::vector<int64_t> sizes() {
  std::vector<int64_t> s;
  for (int64_t n = 0; n <= 70; n++) s.push_back(n);
  s.push_back(1027);
  return s;
}

const double kHalfUlp[2] = {6.0e-8, 0.00391};
const char* const kTypes[2] = {"f32", "bf16"};

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
  // gelu(x) is one product away from the CDF.
  check_sweep("gelu", -12.9, 12.9, 3.6e-7, [&](float* x, float* y) { r.activation[kGelu][0](x, y, 1024); },
              [](double x) { return x * normal_cdf(x); });
  float special[4] = {INFINITY, -INFINITY, NAN, 0}, y[4];
  r.exp_sum(special, 1, 0, y, 4);
  check(y[0] == INFINITY && y[1] == 0 && y[2] != y[2] && y[3] == 1, "exp of inf, -inf, NaN, 0");
  r.activation[kTanh][0](special, y, 4);
  check(y[0] == 1 && y[1] == -1 && y[2] != y[2] && y[3] == 0, "tanh of inf, -inf, NaN, 0");
  r.activation[kSigmoid][0](special, y, 4);
  check(y[0] == 1 && y[1] == 0 && y[2] != y[2] && y[3] == 0.5f, "sigmoid of inf, -inf, NaN, 0");
}

void test_conversions(const RowOps& r) {
  std::vector<uint16_t> half(65536), back(65536);
  std::vector<float> wide(65536);
  for (int i = 0; i < 65536; i++) half[size_t(i)] = uint16_t(i);
  r.to_f32[1](half.data(), wide.data(), 65536);
  bool bf = true, f = true, f_back = true;
  for (size_t i = 0; i < 65536; i++) bf = bf && bits_of(wide[i]) == uint32_t(i) << 16;
  check(bf, "bf16 to f32");
  r.to_f32[2](half.data(), wide.data(), 65536);
  r.from_f32[2](wide.data(), back.data(), 65536);
  for (size_t i = 0; i < 65536; i++) {
    double want = from_f16(uint16_t(i));
    bool nan = want != want;
    f = f && (nan ? wide[i] != wide[i] : double(wide[i]) == want);
    f_back = f_back && (nan ? (back[i] & 0x7fff) > 0x7c00 : back[i] == i);
  }
  check(f, "f16 to f32, all values");
  check(f_back, "f16 to f32 and back, all values");

  constexpr int kN = 100003;
  std::vector<float> x(kN);
  std::vector<uint16_t> y(kN);
  for (float& v : x) v = from_bits(g_random());
  for (int i = 0; i < 1000; i++) x[size_t(i)] = from_bits((uint32_t(g_random()) & 0xffff0000) | 0x8000);  // ties
  r.from_f32[1](x.data(), y.data(), kN);
  bool ok = true;
  for (size_t i = 0; i < kN; i++) ok = ok && (x[i] != x[i] ? from_bf16(y[i]) != from_bf16(y[i]) : y[i] == to_bf16(x[i]));
  check(ok, "f32 to bf16: nearest even, denormals, NaN");
  // f16 rounding: the nearest neighbour, ties to the even code.
  std::uniform_real_distribution<double> e(-27, 17);
  for (float& v : x) v = float(std::exp2(e(g_random))) * (g_random() & 1 ? 1 : -1);
  for (int i = 0; i < 1000; i++) {
    int h = int(g_random() % 31743);
    x[size_t(i)] = float((from_f16(uint16_t(h)) + from_f16(uint16_t(h + 1))) / 2);
  }
  r.from_f32[2](x.data(), y.data(), kN);
  ok = true;
  for (size_t i = 0; i < kN; i++) {
    uint16_t m = y[i] & 0x7fff;
    double v = std::fabs(double(x[i])), got = m == 0x7c00 ? 65536 : from_f16(m);
    double below = m ? from_f16(uint16_t(m - 1)) : -1, above = m >= 0x7bff ? 65536 : from_f16(uint16_t(m + 1));
    double off = std::fabs(v - got);
    bool nearest = m == 0x7c00 ? v >= 65520
                               : off <= std::fabs(v - below) && off <= std::fabs(above - v) &&
                                     ((off < std::fabs(v - below) && off < std::fabs(above - v)) || m % 2 == 0);
    ok = ok && nearest && (y[i] >> 15) == (bits_of(x[i]) >> 31);
  }
  check(ok, "f32 to f16: nearest even");
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

// ---- quantisation

int scalar_code(float v, bool fp4) {
  static const double nf4[15] = {-0.8480964004993439,  -0.6106329262256622,   -0.4599952697753906, -0.33967943489551544,
                                 -0.23460740596055984, -0.13791173323988914,  -0.045525018125772476, 0.03979014977812767,
                                 0.1202552504837513,   0.2035212516784668,    0.2920137718319893,   0.3893125355243683,
                                 0.5016634166240692,   0.6427869200706482,    0.8614784181118011};
  static const double steps[7] = {0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333};
  static const int codes[8] = {0, 1, 6, 7, 4, 5, 2, 3};
  int n = 0;
  if (!fp4) {
    for (double t : nf4) n += v > float(t);
    return n;
  }
  for (double t : steps) n += std::fabs(v) > float(t);
  return codes[n] + (v < 0 ? 8 : 0);
}

void test_four_bit(const RowOps& r) {
  for (int fp4 = 0; fp4 < 2; fp4++)
    for (int t = 0; t < 2; t++)
      for (int64_t n : {1, 2, 31, 63, 64, 65, 100, 128, 1000, 64000}) {
        auto values = normals(n, 0.02f);
        for (size_t i = 0; i + 1 < values.size(); i += 64) values[i] = (i / 64) % 3 ? values[i] : 1.0f;
        for (size_t i = 64; i < std::min<size_t>(128, values.size()); i++) values[i] = 0;
        if (n == 64000)  // around every threshold, one ulp each way, under absmax 1
          for (size_t i = 6400; i < 12800; i++) {
            float b = fp4 ? std::fabs(values[i]) : kNf4Table[i % 15] / 2 + kNf4Table[i % 15 + 1] / 2;
            values[i] = i % 64 == 0 ? 1.0f : std::nextafter(b, float(int(i % 3) - 1) * 2);
          }
        Row x(t, values);
        std::vector<uint8_t> packed(size_t(n + 1) / 2 + 8, 0xEE);
        std::vector<float> absmax(size_t(n + 63) / 64 + 1, -7);
        r.quantize_4bit[t](x.at(), fp4, packed.data(), absmax.data(), n);
        Row y(t, n);
        r.dequantize_4bit[t](packed.data(), absmax.data(), fp4, y.at(), n);
        bool codes = true, exact = true;
        for (int64_t i = 0; i < n; i++) {
          float top = 0;
          for (int64_t j = i / 64 * 64; j < std::min(n, i / 64 * 64 + 64); j++) top = std::max(top, std::fabs(x.get(j)));
          int code = (packed[size_t(i / 2)] >> (i % 2 ? 0 : 4)) & 15;
          codes = codes && absmax[size_t(i / 64)] == top && code == scalar_code(x.get(i) * (1.0f / std::max(top, 1e-38f)), fp4);
          Row want(t, 1);
          want.set(0, (fp4 ? kFp4Table : kNf4Table)[code] * top);
          exact = exact && !std::memcmp(want.at(), y.at(i), t ? 2 : 4);
        }
        std::string at = std::string(fp4 ? "fp4 " : "nf4 ") + kTypes[t] + " n " + std::to_string(n);
        check(codes && packed[size_t(n + 1) / 2] == 0xEE && absmax.back() == -7, "quantize " + at);
        check(exact && y.guarded(), "dequantize " + at);
      }
}

// The map as its definition derives it: linspace evaluated from both ends, one fp32 rounding per point.
std::vector<float> derive_map(bool is_signed) {
  std::vector<float> map = {0, 1};
  for (int i = 0; i < 7; i++) {
    int n = (1 << (is_signed ? i : i + 1)) + 1;
    float step = (1.0f - 0.1f) / float(n - 1);
    std::vector<float> edge(static_cast<size_t>(n));
    for (int j = 0; j < n; j++) edge[size_t(j)] = j < n / 2 ? std::fma(step, float(j), 0.1f) : std::fma(-step, float(n - 1 - j), 1.0f);
    for (size_t j = 0; j + 1 < edge.size(); j++) {
      float v = (edge[j] + edge[j + 1]) / 2 * float(std::pow(10.0, i - 6));
      map.push_back(v);
      if (is_signed) map.push_back(-v);
    }
  }
  std::sort(map.begin(), map.end());
  return map;
}

void test_dynamic(const RowOps& r) {
  for (int is_signed = 0; is_signed < 2; is_signed++) {
    const float* map = is_signed ? kDynamicSigned : kDynamicUnsigned;
    auto derived = derive_map(is_signed);
    check(derived.size() == 256 && !std::memcmp(derived.data(), map, 1024), "dynamic map as derived");
    check(map[is_signed ? 127 : 0] == 0, "zero's code");
    std::vector<float> x;
    for (int i = 0; i < 255; i++) {
      float middle = (map[i] + map[i + 1]) * 0.5f;
      for (float v : {map[i], middle, std::nextafter(middle, 2.0f), std::nextafter(middle, -2.0f)}) x.push_back(v);
    }
    for (float v : normals(1000, 0.3f)) x.push_back(v);
    std::vector<uint8_t> code(x.size() + 1, 0xEE);
    r.quantize_dynamic(x.data(), 1.0f, is_signed, code.data(), int64_t(x.size()));
    bool ok = code.back() == 0xEE;
    for (size_t i = 0; i < x.size(); i++) {
      int c = 0;  // nearest by fp32 midpoints, ties to the even code
      for (int j = 0; j < 255; j++) {
        float middle = (map[j] + map[j + 1]) * 0.5f;
        if (x[i] > middle || (x[i] == middle && j % 2)) c = j + 1;
      }
      ok = ok && code[i] == c;
    }
    check(ok, is_signed ? "signed dynamic codes" : "unsigned dynamic codes");
  }
}

void test_random(const RowOps& r) {
  struct Known { uint32_t key[2]; uint64_t first; uint32_t c2, c3, want[4]; };
  const Known known[] = {
      {{0, 0}, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u}, ~0ull, ~0u, ~0u, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0xa4093822, 0x299f31d0}, 0x85a308d3243f6a88ull, 0x13198a2e, 0x03707344, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (auto& k : known) {
    uint32_t words[5] = {0, 0, 0, 0, 77};
    r.philox(k.key, k.first, k.c2, k.c3, words, 1);
    check(!std::memcmp(words, k.want, 16) && words[4] == 77, "philox known answer");
  }
  const uint32_t key[2] = {1, 2};
  std::vector<uint32_t> all(4 * 37);
  r.philox(key, 0xfffffff0, 3, 4, all.data(), 37);
  bool ok = true;
  for (uint64_t i = 0; i < 37; i++) {
    uint32_t one[4];
    r.philox(key, 0xfffffff0 + i, 3, 4, one, 1);
    ok = ok && !std::memcmp(one, &all[4 * i], 16);
  }
  check(ok, "philox block by block, across the counter's carry");
  for (int t = 0; t < 2; t++)
    for (int64_t n : sizes()) {
      Row x(t, normals(n)), y(t, n);
      std::vector<uint32_t> words(static_cast<size_t>(n));
      for (auto& w : words) w = uint32_t(g_random());
      if (n) words[0] = 0xE0000000u;
      r.keep[t](x.at(), words.data(), 0xE0000000u, 1.25f, y.at(), n);
      bool good = true;
      for (int64_t i = 0; i < n; i++) {
        Row want(t, 1);
        want.set(0, words[size_t(i)] < 0xE0000000u ? x.get(i) * 1.25f : 0.0f);
        good = good && !std::memcmp(want.at(), y.at(i), t ? 2 : 4);
      }
      check(good && y.guarded(), "keep n " + std::to_string(n));
    }
}

void test_optimizers(const RowOps& r) {
  AdamwScalars a{0.5f, 0.999f, 0.9f, 0.95f, 0.1f, 0.05f, 0.6f, 0.02f, 1e-8f};
  for (int t = 0; t < 2; t++)
    for (int64_t n : {1, 7, 16, 33, 256}) {
      Row p(t, normals(n)), p8(t, n), y(t, n), g(0, normals(n)), m(0, normals(n)), v(0, n), m2(0, n), v2(0, n);
      std::vector<uint8_t> c1(256), c2(256), d1(256), d2(256);
      for (int64_t i = 0; i < n; i++) {
        c1[size_t(i)] = uint8_t(g_random()), c2[size_t(i)] = uint8_t(g_random());
        v.set(i, m.get(i) * m.get(i));
      }
      if (n > 9) g.set(9, NAN);
      r.adamw[t](&a, p.at(), (float*)g.at(), (float*)m.at(), (float*)v.at(), y.at(), (float*)m2.at(), (float*)v2.at(), n);
      float top1 = 0, top2 = 0;
      r.adamw_8bit[t](&a, p.at(), (float*)g.at(), c1.data(), c2.data(), 0.7f, 0.3f, p8.at(), d1.data(), d2.data(), &top1,
                      &top2, n);
      bool ok = y.guarded() && m2.guarded() && v2.guarded(), ok8 = p8.guarded();
      double want1 = 0, want2 = 0;
      std::vector<double> ms, vs;
      auto step = [&](int64_t i, double mm, double vv) {
        return p.get(i) * double(a.decay) - double(a.step_size) * mm / (std::sqrt(vv) / a.root_correction2 + a.eps);
      };
      for (int64_t i = 0; i < n; i++) {
        double grad = 0.5 * g.get(i), mm = 0.9 * m.get(i) + 0.1 * grad, vv = 0.95 * v.get(i) + 0.05 * grad * grad;
        double at = step(i, mm, vv), slack = kHalfUlp[t] * std::fabs(at) + 3e-7;
        if (grad == grad)
          ok = ok && std::fabs(y.get(i) - at) <= slack && std::fabs(m2.get(i) - mm) <= 3e-7 * 3 && std::fabs(v2.get(i) - vv) <= 1e-6 * vv + 1e-9;
        else
          ok = ok && y.get(i) != y.get(i);
        mm = 0.9 * kDynamicSigned[c1[size_t(i)]] * 0.7 + 0.1 * grad;
        vv = 0.95 * kDynamicUnsigned[c2[size_t(i)]] * 0.3 + 0.05 * grad * grad;
        if (grad != grad) {
          ok8 = ok8 && !std::memcmp(p8.at(i), p.at(i), t ? 2 : 4);
          mm = vv = 0;
        } else {
          at = step(i, mm, vv);
          ok8 = ok8 && std::fabs(p8.get(i) - at) <= kHalfUlp[t] * std::fabs(at) + 2e-6;
        }
        ms.push_back(mm), vs.push_back(vv);
        want1 = std::max(want1, std::fabs(mm)), want2 = std::max(want2, vv);
      }
      ok8 = ok8 && std::fabs(top1 - want1) <= 1e-6 * want1 && std::fabs(top2 - want2) <= 1e-6 * want2;
      for (size_t i = 0; i < size_t(n); i++) {
        auto nearest = [](const float* map, uint8_t code, double x) {
          double best = 9;
          for (int j = 0; j < 256; j++) best = std::min(best, std::fabs(map[j] - x));
          return std::fabs(map[code] - x) <= best + 2e-6;
        };
        ok8 = ok8 && nearest(kDynamicSigned, d1[i], ms[i] / want1) && nearest(kDynamicUnsigned, d2[i], vs[i] / want2);
        ok8 = ok8 && !(ms[i] < 0 && kDynamicSigned[d1[i]] >= 0) && !(ms[i] > 0 && kDynamicSigned[d1[i]] < 0);
      }
      check(ok, std::string("adamw ") + kTypes[t] + " n " + std::to_string(n));
      check(ok8, std::string("adamw_8bit ") + kTypes[t] + " n " + std::to_string(n));
      std::vector<float> zero(256, 0.0f);
      r.adamw_8bit[t](&a, p.at(), zero.data(), c1.data(), c2.data(), 0, 0, p8.at(), d1.data(), d2.data(), &top1, &top2, n);
      check(top1 == 0 && top2 == 0 && d1[0] == 127 && d2[0] == 0, "adamw_8bit on an all-zero block");
    }
}

}  // namespace

int main() {
  int tables = 0;
  for (const char* isa : {"portable", "avx2", "avx512"}) {
    const RowOps* r = rows_for(isa);
    if (!r) {
      std::printf("%s: not available on this CPU, skipped\n", isa);
      continue;
    }
    std::printf("%s\n", isa);
    check(std::string(r->isa) == isa, "the table's name");
    tables++;
    test_conversions(*r);
    test_elementwise(*r);
    test_accuracy(*r);
    test_reductions(*r);
    test_columns(*r);
    test_norms(*r);
    test_rope(*r);
    test_four_bit(*r);
    test_dynamic(*r);
    test_random(*r);
    test_optimizers(*r);
  }
  check(tables > 0, "at least one table");
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed ? 1 : 0;
}
