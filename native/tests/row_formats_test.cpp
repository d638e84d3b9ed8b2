/*
 * Row primitives that store numbers in another form, on every instruction set this CPU can run: conversions to bf16 and
 * f16, NF4 and FP4, the dynamic maps, Philox and dropout's mask, AdamW on fp32 and on 8-bit moments.
 *
 * Compared with independent scalar code: bit for bit where the format decides the result (every f16 and bf16 value, the
 * neighbours of every threshold, the maps derived again from their definition), else within the rounding of the terms.
 */
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "row_checks.h"

using namespace lathe::cpu;
using namespace lathe::test;

namespace {

double from_f16(uint16_t h) {
  int e = (h >> 10) & 31, m = h & 1023;
  double v = e == 31 ? (m ? NAN : INFINITY) : e ? std::ldexp(1024 + m, e - 25) : std::ldexp(m, -24);
  return h & 0x8000 ? -v : v;
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
  return run_on_every_table([](const RowOps& r) {
    test_conversions(r);
    test_four_bit(r);
    test_dynamic(r);
    test_random(r);
    test_optimizers(r);
  });
}
