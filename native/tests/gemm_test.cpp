/*
 * The GEMM against a plain f64 product, for every variant this CPU can run.
 *
 * The idea: operands are stored in every form (dtype, transposition, 4-bit plain and nested, padded rows),
 * decoded here by independent scalar code, rounded to bf16 where the call says so, and multiplied in double.
 * The bound is that of a chain of k fp32 additions, 2 sqrt(k) u sum|a||b| plus half an ulp of the output, never a
 * hand-picked epsilon. Bits must not change with the thread count, nor with M or a row's position.
 *
 * Build: g++ -std=c++20 -O2 -I native/include native/tests/gemm_test.cpp native/cpu/pool.cpp
 *        plus the objects of native/cpu/gemm (each compiled with its own ISA flags), -pthread
 */
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../cpu/gemm/code_tables.h"
#include "../cpu/gemm/dispatch.h"
#include "../cpu/gemm/gemm.h"
#include "../cpu/gemm/scalar.h"
#include "../cpu/pool.h"

using namespace lathe;
using namespace lathe::cpu;

namespace {

int g_passed = 0;
int g_failed = 0;
std::mt19937 g_random(1234);

void check(bool ok, const std::string& what) {
  if (ok) {
    ++g_passed;
  } else {
    ++g_failed;
    if (g_failed <= 40) std::printf("FAILED %s\n", what.c_str());
  }
}

enum class Form { kF32, kBf16, kF16, kNf4, kNf4Nested, kFp4Block128 };
const char* name_of(Form f) {
  static const char* names[] = {"f32", "bf16", "f16", "nf4", "nf4-nested", "fp4-128"};
  return names[static_cast<int>(f)];
}

uint16_t to_f16(float x) {
  // Round to nearest even by scaling into the 10-bit mantissa's grid; inputs here are normal and small.
  int e;
  const double m = std::frexp(static_cast<double>(x), &e);
  if (x == 0.0f || e < -13) return std::signbit(x) ? 0x8000 : 0;
  const double r = std::nearbyint(std::ldexp(std::fabs(m), 11));
  int mantissa = static_cast<int>(r);
  if (mantissa == 2048) mantissa = 1024, ++e;
  return static_cast<uint16_t>((std::signbit(x) ? 0x8000 : 0) | ((e + 14) << 10) | (mantissa & 1023));
}

float decode_f16(uint16_t h) {
  const int e = (h >> 10) & 31;
  const double m = e == 0 ? (h & 1023) / 1024.0 : 1.0 + (h & 1023) / 1024.0;
  return static_cast<float>((h & 0x8000 ? -1.0 : 1.0) * std::ldexp(m, (e == 0 ? 1 : e) - 15));
}

// A stored matrix and its exact fp32 values.
struct Stored {
  MatOperand operand;
  std::vector<uint8_t> bytes;
  std::vector<float> absmax, nested;
  std::vector<uint8_t> absmax_q;
  std::vector<float> values;  // [rows][cols]
};

Stored make(int64_t rows, int64_t cols, Form form, bool transposed, int64_t padding) {
  Stored s;
  std::normal_distribution<float> normal(0.0f, 1.0f);
  const bool dense = form <= Form::kF16;
  const int64_t ld = dense ? cols + padding : cols;
  s.values.resize(static_cast<size_t>(rows * cols));
  MatOperand& o = s.operand;
  o.rows = rows;
  o.cols = cols;
  o.ld = ld;
  o.transposed = transposed;
  if (dense) {
    o.dtype = form == Form::kF32 ? DType::F32 : form == Form::kBf16 ? DType::BF16 : DType::F16;
    const int64_t size = form == Form::kF32 ? 4 : 2;
    // Exactly the bytes that may be read: a read past the end is a fault under ASan. Padding is NaN.
    s.bytes.assign(static_cast<size_t>(rows * cols == 0 ? 0 : ((rows - 1) * ld + cols) * size), 0xff);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        float x = normal(g_random);
        uint8_t* at = s.bytes.data() + (r * ld + c) * size;
        if (form == Form::kF32) {
          std::memcpy(at, &x, 4);
        } else {
          const uint16_t h = form == Form::kBf16 ? to_bf16(x) : to_f16(x);
          x = form == Form::kBf16 ? from_bf16(h) : decode_f16(h);
          std::memcpy(at, &h, 2);
        }
        s.values[static_cast<size_t>(r * cols + c)] = x;
      }
    }
  } else {
    const int64_t n = rows * cols;
    o.format = form == Form::kFp4Block128 ? MatFormat::kFp4 : MatFormat::kNf4;
    o.block = form == Form::kFp4Block128 ? 128 : 64;
    const int64_t blocks = (n + o.block - 1) / o.block;
    s.bytes.resize(static_cast<size_t>((n + 1) / 2));
    for (uint8_t& b : s.bytes) b = static_cast<uint8_t>(g_random());
    std::vector<float> scales(static_cast<size_t>(blocks));
    if (form == Form::kNf4Nested) {
      s.absmax_q.resize(static_cast<size_t>(blocks));
      s.nested.resize(static_cast<size_t>((blocks + 255) / 256));
      for (uint8_t& q : s.absmax_q) q = static_cast<uint8_t>(g_random());
      for (float& x : s.nested) x = 0.5f + 0.1f * normal(g_random);
      o.nested_offset = 1.2345678f;
      for (int64_t b = 0; b < blocks; ++b) {
        volatile float product =
            kDynamicSigned[s.absmax_q[static_cast<size_t>(b)]] * s.nested[static_cast<size_t>(b / 256)];
        scales[static_cast<size_t>(b)] = product + o.nested_offset;
      }
      o.absmax_q = s.absmax_q.data();
      o.nested_absmax = s.nested.data();
    } else {
      for (float& x : scales) x = 0.5f + std::fabs(normal(g_random));
      s.absmax = scales;
      o.absmax = s.absmax.data();
    }
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t byte = s.bytes[static_cast<size_t>(i / 2)];
      const int code = i % 2 == 0 ? byte >> 4 : byte & 15;
      s.values[static_cast<size_t>(i)] = code_values(o.format)[code] * scales[static_cast<size_t>(i / o.block)];
    }
  }
  o.data = s.bytes.data();
  return s;
}

double at(const Stored& s, int64_t r, int64_t c, bool rounded) {
  const float x = s.operand.transposed ? s.values[static_cast<size_t>(c * s.operand.cols + r)]
                                       : s.values[static_cast<size_t>(r * s.operand.cols + c)];
  return rounded ? round_to_bf16(x) : x;
}

struct Spec {
  int64_t m, n;
  std::vector<int64_t> ks;
  std::vector<Form> a_forms, b_forms;
  bool a_transposed, b_transposed;
  bool bf16;
  DType c_dtype;
  bool bias, addend, in_place;
  float alpha;
  int64_t padding;
};

std::string describe(const Spec& s, Isa isa) {
  std::string text = std::string(isa_name(isa)) + " m=" + std::to_string(s.m) + " n=" + std::to_string(s.n) + " k=";
  for (size_t i = 0; i < s.ks.size(); ++i) {
    text += std::to_string(s.ks[i]) + "(" + name_of(s.a_forms[i]) + "*" + name_of(s.b_forms[i]) + ")";
  }
  text += s.a_transposed ? " T" : " N";
  text += s.b_transposed ? "T" : "N";
  text += s.bf16 ? " bf16" : " f32";
  text += s.c_dtype == DType::F32 ? "->f32" : "->bf16";
  if (s.bias) text += " bias";
  if (s.addend) text += s.in_place ? " addend(in place)" : " addend";
  return text;
}

int64_t size_of(DType d) { return d == DType::F32 ? 4 : 2; }

struct Problem {
  Spec spec;
  std::vector<Stored> a, b;
  std::vector<GemmTerm> terms;
  std::vector<float> bias;
  std::vector<uint8_t> addend, initial_c;
  GemmCall call;
};

Problem build(const Spec& spec) {
  Problem p;
  p.spec = spec;
  std::normal_distribution<float> normal(0.0f, 1.0f);
  for (size_t i = 0; i < spec.ks.size(); ++i) {
    const int64_t k = spec.ks[i];
    p.a.push_back(spec.a_transposed ? make(k, spec.m, spec.a_forms[i], true, spec.padding)
                                    : make(spec.m, k, spec.a_forms[i], false, spec.padding));
    p.b.push_back(spec.b_transposed ? make(spec.n, k, spec.b_forms[i], true, spec.padding)
                                    : make(k, spec.n, spec.b_forms[i], false, spec.padding));
  }
  GemmCall& c = p.call;
  c.m = spec.m;
  c.n = spec.n;
  c.alpha = spec.alpha;
  c.c_dtype = spec.c_dtype;
  c.ldc = spec.n + spec.padding;
  c.bf16_compute = spec.bf16;
  if (spec.bias) {
    p.bias.resize(static_cast<size_t>(spec.n));
    for (float& x : p.bias) x = normal(g_random);
  }
  p.initial_c.assign(static_cast<size_t>(spec.m * c.ldc * size_of(spec.c_dtype)), 0x7b);
  const auto fill = [&](std::vector<uint8_t>& bytes) {
    for (int64_t i = 0; i < spec.m; ++i) {
      for (int64_t j = 0; j < spec.n; ++j) {
        const float x = normal(g_random);
        const uint16_t h = to_bf16(x);
        if (spec.c_dtype == DType::F32) {
          std::memcpy(bytes.data() + (i * c.ldc + j) * 4, &x, 4);
        } else {
          std::memcpy(bytes.data() + (i * c.ldc + j) * 2, &h, 2);
        }
      }
    }
  };
  if (spec.addend) {
    p.addend = p.initial_c;
    fill(p.addend);
    if (spec.in_place) p.initial_c = p.addend;
    c.addend_dtype = spec.c_dtype;
    c.addend_ld = c.ldc;
  }
  return p;
}

std::vector<uint8_t> run(Problem& p, Pool& pool) {
  p.terms.clear();
  int64_t total_k = 0;
  for (size_t i = 0; i < p.a.size(); ++i) {
    p.a[i].operand.data = p.a[i].bytes.data();
    p.b[i].operand.data = p.b[i].bytes.data();
    p.terms.push_back({p.a[i].operand, p.b[i].operand});
    total_k += p.spec.ks[i];
  }
  std::vector<uint8_t> c = p.initial_c;
  GemmCall& call = p.call;
  call.terms = p.terms.data();
  call.term_count = static_cast<int>(p.terms.size());
  call.bias = p.bias.empty() ? nullptr : p.bias.data();
  call.c = c.data();
  call.addend = p.addend.empty() ? nullptr : p.spec.in_place ? static_cast<void*>(c.data()) : p.addend.data();
  const int64_t bytes = gemm_scratch_bytes(call.m, call.n, total_k, call.term_count, pool.threads());
  // NaN-filled and exactly sized: stale scratch shows as a NaN, an overrun under ASan and in the guard.
  std::vector<uint8_t> scratch(static_cast<size_t>(bytes) + 64, 0xff);
  std::memset(scratch.data() + bytes, 0x5a, 64);
  gemm(call, pool, scratch.data());
  for (int i = 0; i < 64; ++i) {
    if (scratch[static_cast<size_t>(bytes) + static_cast<size_t>(i)] != 0x5a) {
      check(false, "scratch overrun: " + describe(p.spec, active_isa()));
      break;
    }
  }
  return c;
}

float read_c(const Spec& s, const std::vector<uint8_t>& bytes, int64_t i) {
  float x;
  if (s.c_dtype == DType::F32) {
    std::memcpy(&x, bytes.data() + i * 4, 4);
    return x;
  }
  uint16_t h;
  std::memcpy(&h, bytes.data() + i * 2, 2);
  return from_bf16(h);
}

// The largest error as a fraction of the bound; padding columns of c must be untouched.
double compare(const Problem& p, const std::vector<uint8_t>& c) {
  const Spec& s = p.spec;
  const double u = std::ldexp(1.0, -24);
  double worst = 0;
  std::vector<double> row_sum(static_cast<size_t>(s.n)), row_size(static_cast<size_t>(s.n));
  for (int64_t i = 0; i < s.m; ++i) {
    std::fill(row_sum.begin(), row_sum.end(), 0.0);
    std::fill(row_size.begin(), row_size.end(), 0.0);
    int64_t k_total = 0;
    for (size_t t = 0; t < s.ks.size(); ++t) {
      k_total += s.ks[t];
      for (int64_t k = 0; k < s.ks[t]; ++k) {
        const double x = at(p.a[t], i, k, s.bf16);
        for (int64_t j = 0; j < s.n; ++j) {
          const double v = x * at(p.b[t], k, j, s.bf16);
          row_sum[static_cast<size_t>(j)] += v;
          row_size[static_cast<size_t>(j)] += std::fabs(v);
        }
      }
    }
    for (int64_t j = 0; j < s.n; ++j) {
      const int64_t index = i * p.call.ldc + j;
      double want = s.alpha * row_sum[static_cast<size_t>(j)];
      double size = std::fabs(s.alpha) * row_size[static_cast<size_t>(j)];
      if (s.bias) want += p.bias[static_cast<size_t>(j)], size += std::fabs(p.bias[static_cast<size_t>(j)]);
      if (s.addend) want += read_c(s, p.addend, index), size += std::fabs(read_c(s, p.addend, index));
      // Half the spacing of the output's values (24 or 8 significant bits) around the exact result.
      const double sums = 2 * std::sqrt(static_cast<double>(k_total) + 2) * u * size;
      const int digits = s.c_dtype == DType::F32 ? 24 : 8;
      const double half_ulp = std::ldexp(1.0, std::ilogb(std::fabs(want) + sums + 1e-30) - digits);
      const double bound = sums + half_ulp;
      const double error = std::fabs(read_c(s, c, index) - want);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error / bound);
    }
  }
  const int64_t bytes = size_of(s.c_dtype);
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t b = s.n * bytes; b < p.call.ldc * bytes; ++b) {
      if (c[static_cast<size_t>(i * p.call.ldc * bytes + b)] != 0x7b) return INFINITY;
    }
  }
  return worst;
}

Pool& pool_of(int threads) {
  static Pool one(1), two(2), five(5);
  return threads == 1 ? one : threads == 2 ? two : five;
}

void check_spec(const Spec& spec, Isa isa) {
  Problem p = build(spec);
  const std::vector<uint8_t> c = run(p, pool_of(1));
  const double worst = compare(p, c);
  check(worst <= 1.0, describe(spec, isa) + ": error " + std::to_string(worst) + " of the bound");
  for (int threads : {2, 5}) {
    check(run(p, pool_of(threads)) == c,
          describe(spec, isa) + ": other bits on " + std::to_string(threads) + " threads");
  }
}

// Rows [first, first + rows) alone give the bits they give inside the whole product.
void check_row_independence(const Spec& spec, Isa isa) {
  Problem whole = build(spec);
  const std::vector<uint8_t> c = run(whole, pool_of(2));
  const int64_t row_bytes = whole.call.ldc * size_of(spec.c_dtype);
  for (const auto& [first, rows] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 1}, {spec.m - 1, 1}, {3, 2}, {5, 7}, {1, 8}, {2, 9}, {7, spec.m - 9}}) {
    Problem part = whole;
    part.spec.m = part.call.m = rows;
    for (size_t t = 0; t < part.a.size(); ++t) {
      Stored& a = part.a[t];
      const int64_t size = size_of(a.operand.dtype);
      const int64_t skip = spec.a_transposed ? first * size : first * a.operand.ld * size;
      a.bytes.erase(a.bytes.begin(), a.bytes.begin() + skip);
      (spec.a_transposed ? a.operand.cols : a.operand.rows) = rows;
    }
    part.initial_c.resize(static_cast<size_t>(rows * row_bytes));
    if (spec.addend) part.addend.erase(part.addend.begin(), part.addend.begin() + first * row_bytes);
    const std::vector<uint8_t> got = run(part, pool_of(1));
    bool same = true;
    for (int64_t i = 0; i < rows; ++i) {
      same = same && std::memcmp(got.data() + i * row_bytes, c.data() + (first + i) * row_bytes,
                                 static_cast<size_t>(spec.n * size_of(spec.c_dtype))) == 0;
    }
    check(same, describe(spec, isa) + ": rows " + std::to_string(first) + "+" + std::to_string(rows) + " alone differ");
  }
}

// The identity times a 4-bit weight is the weight: dequantised in fp32 and rounded at most once.
void check_exact_decoding(Isa isa) {
  for (Form form : {Form::kNf4, Form::kNf4Nested, Form::kFp4Block128}) {
    for (int flags = 0; flags < 4; ++flags) {
      const bool transposed = (flags & 1) != 0;
      const bool bf16 = (flags & 2) != 0;
      for (int64_t n : {192, 90}) {
        Problem p = build(
            {128, n, {128}, {Form::kF32}, {form}, false, transposed, bf16, DType::F32, false, false, false, 1.0f, 0});
        for (int64_t i = 0; i < 128 * 128; ++i) {
          const float x = i / 128 == i % 128 ? 1.0f : 0.0f;
          std::memcpy(p.a[0].bytes.data() + 4 * i, &x, 4);
        }
        const std::vector<uint8_t> c = run(p, pool_of(2));
        bool same = true;
        for (int64_t i = 0; i < 128; ++i) {
          for (int64_t j = 0; j < n; ++j) {
            const float want = static_cast<float>(at(p.b[0], i, j, bf16));
            same = same && read_c(p.spec, c, i * n + j) == want;
          }
        }
        check(same,
              std::string(isa_name(isa)) + " decodes " + name_of(form) + " exactly, flags " + std::to_string(flags));
      }
    }
  }
}

Form pick(const std::vector<Form>& forms) { return forms[g_random() % forms.size()]; }

void test_variant(Isa isa, bool quick) {
  const std::vector<Form> dense = {Form::kF32, Form::kBf16, Form::kF16};
  const std::vector<Form> all = {Form::kF32, Form::kBf16, Form::kF16, Form::kNf4, Form::kNf4Nested, Form::kFp4Block128};

  // Every pair of stored forms, every transposition, both precisions, at an aligned and an awkward size.
  for (Form a : dense) {
    for (Form b : all) {
      for (int flags = 0; flags < 8; ++flags) {
        Spec s{37,    128,   {192}, {a},  {b}, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, DType::F32,
               false, false, false, 1.0f, 0};
        check_spec(s, isa);
        s = {29,
             83,
             {71},
             {a},
             {b},
             (flags & 1) != 0,
             (flags & 2) != 0,
             (flags & 4) != 0,
             DType::BF16,
             true,
             true,
             (flags & 1) != 0,
             0.75f,
             b == Form::kF32 ? 3 : 0};
        check_spec(s, isa);
      }
    }
  }
  // 4-bit on the left too.
  check_spec({70, 40, {128}, {Form::kNf4}, {Form::kF32}, false, true, true, DType::F32, false, false, false, 1, 0},
             isa);
  check_spec(
      {64, 40, {66}, {Form::kFp4Block128}, {Form::kBf16}, true, false, false, DType::F32, false, false, false, 1, 0},
      isa);

  // Random sizes: small edges, more than one K block, LoRA-shaped terms, three terms as in dX of q, k and v.
  const int64_t edges[] = {1, 2, 3, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 97, 130};
  const int64_t ks[] = {1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100, 127, 130, 513, 576, 1025, 1100, 1536, 2100};
  const int rounds = quick ? 60 : 300;
  for (int i = 0; i < rounds; ++i) {
    Spec s;
    s.m = edges[g_random() % 18];
    s.n = edges[g_random() % 18];
    const int terms = g_random() % 3 == 0 ? 2 + static_cast<int>(g_random() % 3) : 1;
    for (int t = 0; t < terms; ++t) {
      s.ks.push_back(ks[g_random() % 21]);
      s.a_forms.push_back(pick(dense));
      s.b_forms.push_back(pick(all));
    }
    s.a_transposed = g_random() % 2;
    s.b_transposed = g_random() % 2;
    s.bf16 = g_random() % 2;
    s.c_dtype = g_random() % 2 ? DType::F32 : DType::BF16;
    s.bias = g_random() % 2;
    s.addend = g_random() % 2;
    s.in_place = g_random() % 2;
    s.alpha = g_random() % 2 ? 1.0f : -0.5f;
    s.padding = g_random() % 2 ? static_cast<int64_t>(g_random() % 9) : 0;
    check_spec(s, isa);
  }
  // Row blocks (packed rows do not fit at once), many job rows, and many panels.
  if (!quick) {
    check_spec(
        {1300, 70, {3000}, {Form::kF32}, {Form::kF32}, true, false, false, DType::F32, false, false, false, 1, 0}, isa);
    check_spec({2100,
                33,
                {64, 16},
                {Form::kBf16, Form::kF32},
                {Form::kNf4, Form::kF32},
                false,
                true,
                true,
                DType::BF16,
                false,
                true,
                true,
                1,
                0},
               isa);
    check_spec(
        {12, 1500, {600}, {Form::kBf16}, {Form::kBf16}, false, true, true, DType::BF16, false, false, false, 1, 0},
        isa);
  }
  for (int flags = 0; flags < 8; ++flags) {
    Spec s{53,
           100,
           {700, 16},
           {Form::kBf16, Form::kF32},
           {Form::kNf4Nested, Form::kF32},
           (flags & 1) != 0,
           (flags & 2) != 0,
           (flags & 4) != 0,
           flags % 3 == 0 ? DType::BF16 : DType::F32,
           true,
           true,
           false,
           1.0f,
           2};
    check_row_independence(s, isa);
  }
  check_exact_decoding(isa);
  check_spec({5, 7, {0}, {Form::kF32}, {Form::kF32}, false, false, false, DType::F32, true, true, false, 1, 2}, isa);
}

// The formula that src/ops/matmul.ts restates, written out once more.
void test_scratch_formula() {
  const auto up = [](int64_t x, int64_t y) { return (x + y - 1) / y * y; };
  bool same = true;
  for (int64_t m : {1, 7, 500, 5000}) {
    for (int64_t k : {1, 64, 600, 1024, 9000, 100000}) {
      for (int terms : {1, 3}) {
        for (int threads : {1, 2, 16}) {
          const int64_t k_a = k + 16 * terms;
          const int64_t rows = std::min(up(m, 6), std::max<int64_t>(96, 6 * ((4 << 20) / (24 * k_a))));
          const int64_t worker = 256 * std::min<int64_t>(k, 1024) + 256 * std::min<int64_t>(up(m, 6), 1032);
          same = same && gemm_scratch_bytes(m, 77, k, terms, threads) ==
                             4 * rows * k_a + threads * worker + 64 * (2 * threads + 2);
        }
      }
    }
  }
  check(same, "gemm_scratch_bytes is the documented formula");
}

void test_pool() {
  for (int threads : {1, 2, 5}) {
    Pool pool(threads);
    bool ok = true;
    for (int round = 0; round < 3000; ++round) {
      const int64_t chunks = 1 + round % 37;
      int32_t hits[64] = {};
      pool.run(chunks, [&](int64_t chunk, int worker) {
        if (worker < 0 || worker >= threads) __atomic_store_n(&ok, false, __ATOMIC_RELAXED);
        __atomic_fetch_add(&hits[chunk], 1, __ATOMIC_RELAXED);
        if (round % 500 == 0) {
          // A nested run stays on this thread and keeps its worker index.
          pool.run(3, [&](int64_t, int inner) {
            if (inner != worker) __atomic_store_n(&ok, false, __ATOMIC_RELAXED);
          });
        }
      });
      for (int64_t i = 0; i < 64; ++i) ok = ok && hits[i] == (i < chunks ? 1 : 0);
    }
    check(ok, "pool with " + std::to_string(threads) + " threads runs every chunk once");
  }
  // A pool used from inside another pool's chunk numbers its own workers.
  Pool outer(5), inner(2);
  bool ok = true;
  outer.run(40, [&](int64_t, int) {
    inner.run(6, [&](int64_t, int worker) {
      if (worker < 0 || worker > 1) __atomic_store_n(&ok, false, __ATOMIC_RELAXED);
    });
  });
  check(ok, "a pool inside another keeps its worker indices in range");
  for (int i = 0; i < 200; ++i) Pool pool(4);  // starts and stops without work
}

// fp32 sums are one chain of fused multiply-adds in k order, so variants that have FMA agree to the bit.
void test_fp32_bits_across_variants() {
  const Spec s{45,
               77,
               {600, 33},
               {Form::kF32, Form::kBf16},
               {Form::kNf4, Form::kF32},
               true,
               true,
               false,
               DType::F32,
               true,
               true,
               false,
               0.3f,
               1};
  Problem p = build(s);
  if (!force_isa(Isa::kAvx2)) {
    std::printf("not run: fp32 bits across variants (this CPU has no AVX2)\n");
    return;
  }
  const std::vector<uint8_t> c = run(p, pool_of(1));
  for (Isa isa : {Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (!force_isa(isa)) {
      std::printf("not run: fp32 bits of %s (this CPU lacks it)\n", isa_name(isa));
      continue;
    }
    check(run(p, pool_of(1)) == c, std::string("fp32 bits of ") + isa_name(isa) + " equal avx2's");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
  test_pool();
  test_scratch_formula();
  for (int i = 0; i < 4; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (!force_isa(isa)) {
      std::printf("not run: %s (this CPU lacks it)\n", isa_name(isa));
      continue;
    }
    const int before = g_passed;
    test_variant(isa, quick);
    std::printf("%s: %d passed\n", isa_name(isa), g_passed - before);
  }
  test_fp32_bits_across_variants();
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed == 0 ? 0 : 1;
}
