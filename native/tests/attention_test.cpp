/*
 * attention, attention_grad and attention_decode against f64, on every instruction set this CPU has.
 *
 * Rules: fp32 within 2e-6 (forward) and 1e-5 (gradients) of the f64 result, relative to the largest value; bf16 within
 * twice the error of a straightforward bf16 version (probabilities rounded to bf16, fp32 sums) plus dtype noise. Exact: packed equals separate, any number of threads, masked keys get exactly 0.
 */
#include <algorithm>
#include <cmath>
#include <limits>

#include "../cpu/gemm/dispatch.h"
#include "kernel_runner.h"

using namespace lathe;
using namespace lathe::test;

namespace {

int failures = 0;

struct Case {
  const char* name;
  std::vector<int32_t> cu;
  int64_t tokens;
  int64_t heads, kv_heads, dim;
  bool causal = true;
  int64_t window = 0;
  double softcap = 0;
};

struct Arrays {
  std::vector<double> o, lse, dq, dk, dv;
};

using Data = std::vector<double>;

// The definition. `round` is applied where a plain low-precision version would round: P, dS and the results.
template <class Round>
Arrays reference(const Case& c, double scale, const Data& q, const Data& k, const Data& v, const Data& dout,
                 Round round) {
  const int64_t H = c.heads, G = c.kv_heads, K = c.dim, T = c.tokens;
  Arrays r;
  r.o.assign(T * H * K, 0), r.dq = r.o, r.dk.assign(T * G * K, 0), r.dv = r.dk;
  r.lse.assign(H * T, std::numeric_limits<double>::infinity());
  for (size_t s = 0; s + 1 < c.cu.size(); s++)
    for (int64_t i = c.cu[s]; i < c.cu[s + 1]; i++)
      for (int64_t h = 0; h < H; h++) {
        const int64_t g = h / (H / G), begin = c.cu[s], end = c.cu[s + 1];
        const int64_t from = c.window ? std::max(begin, i - c.window + 1) : begin;
        const int64_t to = c.causal ? i + 1 : c.window ? std::min(end, i + c.window) : end;
        const double* qi = &q[(i * H + h) * K];
        Data x, slope;
        double max = -1e300, sum = 0;
        for (int64_t j = from; j < to; j++) {
          double dot = 0;
          for (int64_t d = 0; d < K; d++) dot += qi[d] * k[(j * G + g) * K + d];
          dot *= scale;
          const double t = c.softcap ? std::tanh(dot / c.softcap) : 0;
          x.push_back(c.softcap ? c.softcap * t : dot);
          slope.push_back(1 - t * t);
          max = std::max(max, x.back());
        }
        for (double y : x) sum += std::exp(y - max);
        r.lse[h * T + i] = max + std::log(sum);
        double* o = &r.o[(i * H + h) * K];
        for (int64_t j = from; j < to; j++)
          for (int64_t d = 0; d < K; d++) o[d] += round(std::exp(x[j - from] - max)) * v[(j * G + g) * K + d] / sum;
        double delta = 0;
        for (int64_t d = 0; d < K; d++) o[d] = round(o[d]), delta += o[d] * dout[(i * H + h) * K + d];
        for (int64_t j = from; j < to; j++) {
          const double p = std::exp(x[j - from] - r.lse[h * T + i]);
          double dp = 0;
          for (int64_t d = 0; d < K; d++) dp += dout[(i * H + h) * K + d] * v[(j * G + g) * K + d];
          const double ds = round(p * (dp - delta) * slope[j - from]) * scale;
          for (int64_t d = 0; d < K; d++) {
            r.dv[(j * G + g) * K + d] += round(p) * dout[(i * H + h) * K + d];
            r.dk[(j * G + g) * K + d] += ds * qi[d];
            r.dq[(i * H + h) * K + d] += ds * k[(j * G + g) * K + d];
          }
        }
      }
  for (auto* a : {&r.dq, &r.dk, &r.dv})
    for (double& x : *a) x = round(x);
  return r;
}

double worst(const Data& a, const Data& b) {
  double e = 0;
  for (size_t i = 0; i < a.size(); i++)
    if (a[i] != b[i]) e = std::max(e, std::isfinite(a[i]) && std::isfinite(b[i]) ? std::fabs(a[i] - b[i]) : 1e300);
  return e;
}
double largest(const Data& a) {
  double m = 0;
  for (double x : a) m = std::max(m, std::isfinite(x) ? std::fabs(x) : 0.0);
  return m;
}

void check(bool ok, const Case& c, const char* what, double got = 0, double limit = 0) {
  if (ok) return;
  failures++;
  std::printf("FAIL %s [%s] %s: %.3g, limit %.3g\n", c.name, cpu::isa_name(cpu::active_isa()), what, got, limit);
}

Attributes attributes_of(const Case& c, double scale, bool decode = false) {
  Attributes a;
  set_number(a, "heads", c.heads), set_number(a, "kv_heads", c.kv_heads), set_number(a, "head_dim", c.dim);
  set_number(a, "scale", scale), set_number(a, "window", c.window), set_number(a, "softcap", c.softcap);
  if (!decode) set_number(a, "causal", c.causal);
  return a;
}

struct Run {
  Value o, lse, dq, dk, dv;
};

Run run(const Case& c, double scale, Value& q, Value& k, Value& v, Value& dout, cpu::Pool& pool) {
  Run r;
  Value cu = Value::ints(c.cu);
  const DType t = q.type().dtype;
  r.o = Value(t, {c.tokens, c.heads * c.dim}), r.dq = r.o;
  r.dk = Value(t, {c.tokens, c.kv_heads * c.dim}), r.dv = r.dk;
  r.lse = Value(DType::F32, {c.heads, c.tokens});
  const Attributes a = attributes_of(c, scale);
  Op("attention", a, {&q, &k, &v, &cu}, {&r.o, &r.lse}, {r.o.type(), r.lse.type()}, pool.threads()).run(pool);
  Op("attention_grad", a, {&dout, &q, &k, &v, &r.o, &r.lse, &cu}, {&r.dq, &r.dk, &r.dv},
     {r.dq.type(), r.dk.type(), r.dv.type()}, pool.threads())
      .run(pool);
  return r;
}

Data numbers(const Value& v) {
  Data d(v.type().numel());
  for (size_t i = 0; i < d.size(); i++) d[i] = v.get(i);
  return d;
}

// Rows [first, last) of a [T, cols] value as a value of its own.
Value rows_of(const Value& v, int64_t first, int64_t last) {
  const int64_t cols = v.type().shape[1], size = dtype_bytes(v.type().dtype);
  Value out(v.type().dtype, {last - first, cols});
  std::memcpy(out.data(), static_cast<const char*>(v.data()) + first * cols * size, (last - first) * cols * size);
  return out;
}

void check_case(const Case& c, DType dtype, cpu::Pool& one, cpu::Pool& three) {
  Random random(c.tokens * 31 + c.heads * 7 + c.dim);
  const double scale = 1 / std::sqrt(double(c.dim));
  const float spread = c.softcap ? 1.5f : 1.0f;
  auto value = [&](int64_t cols, float s) {
    return Value::floats(dtype, {c.tokens, cols}, random.normals(c.tokens * cols, s));
  };
  Value q = value(c.heads * c.dim, spread), k = value(c.kv_heads * c.dim, spread), v = value(c.kv_heads * c.dim, 1),
        dout = value(c.heads * c.dim, 1);
  const Run r = run(c, scale, q, k, v, dout, one);
  const Arrays ref = reference(c, scale, numbers(q), numbers(k), numbers(v), numbers(dout), [](double x) { return x; });
  const Data got[] = {numbers(r.o), numbers(r.lse), numbers(r.dq), numbers(r.dk), numbers(r.dv)};
  const Data* want[] = {&ref.o, &ref.lse, &ref.dq, &ref.dk, &ref.dv};
  const char* names[] = {"o", "lse", "dq", "dk", "dv"};
  if (dtype == DType::F32) {
    for (int i = 0; i < 5; i++) {
      // With one visible key dq and dk are exactly 0 and only the rounding of dP - D is left: measure it against dv.
      const double top = largest(*want[i]) > 0 ? largest(*want[i]) : largest(ref.dv);
      const double limit = (i < 2 ? 2e-6 : 1e-5) * top, e = worst(got[i], *want[i]);
      check(e <= limit, c, names[i], e, limit);
    }
  } else {
    const Arrays low = reference(c, scale, numbers(q), numbers(k), numbers(v), numbers(dout),
                                 [](double x) { return double(from_bf16(to_bf16(float(x)))); });
    const Data* plain[] = {&low.o, &low.lse, &low.dq, &low.dk, &low.dv};
    for (int i = 0; i < 5; i++) {
      const double noise = i == 1 ? 1e-5 * largest(*want[i]) : 0.3 / 128;  // 2 max|(ref + 0.3 - 0.3) - ref| in bf16
      const double limit = (i < 2 ? 2 : 3) * worst(*plain[i], *want[i]) + noise, e = worst(got[i], *want[i]);
      check(e <= limit, c, names[i], e, limit);
    }
  }

  // Bits: threads, then each document alone.
  const Run r3 = run(c, scale, q, k, v, dout, three);
  check(r.o.same_bytes(r3.o) && r.lse.same_bytes(r3.lse), c, "forward, 1 and 3 threads, bits differ", 1, 0);
  check(r.dq.same_bytes(r3.dq) && r.dk.same_bytes(r3.dk) && r.dv.same_bytes(r3.dv), c,
        "backward, 1 and 3 threads, bits differ", 1, 0);
  for (size_t s = 0; s + 1 < c.cu.size(); s++) {
    const int32_t first = c.cu[s], last = c.cu[s + 1];
    if (first == last) continue;
    Case alone = c;
    alone.cu = {0, last - first}, alone.tokens = last - first;
    Value qs = rows_of(q, first, last), ks = rows_of(k, first, last), vs = rows_of(v, first, last),
          ds = rows_of(dout, first, last);
    const Run x = run(alone, scale, qs, ks, vs, ds, one);
    bool same = x.o.same_bytes(rows_of(r.o, first, last)) && x.dq.same_bytes(rows_of(r.dq, first, last)) &&
                x.dk.same_bytes(rows_of(r.dk, first, last)) && x.dv.same_bytes(rows_of(r.dv, first, last));
    for (int64_t h = 0; h < c.heads; h++)
      for (int64_t i = 0; i < alone.tokens; i++)
        same = same && x.lse.get(h * alone.tokens + i) == r.lse.get(h * c.tokens + first + i);
    check(same, c, "packed and separate bits differ, document", double(s), 0);
  }
}

// A key that later queries cannot see (window) and infinite values beside the visible ones.
void test_hidden_keys(cpu::Pool& pool, DType dtype) {
  Case c{"hidden keys", {0, 8, 200, 200}, 230, 2, 1, 32};
  c.window = 5;
  Random random(5);
  auto value = [&](int64_t cols) {
    return Value::floats(dtype, {c.tokens, cols}, random.normals(c.tokens * cols));
  };
  Value q = value(64), k = value(32), v = value(32), dout = value(64);
  // Only queries 100.. of the second document get a gradient: keys before 108 - 4 must get exactly 0.
  for (int64_t i = 0; i < 108 * 64; i++) dout.set(i, 0);
  const Run r = run(c, 0.2, q, k, v, dout, pool);
  double leak = 0;
  for (int64_t i = 0; i < 104 * 32; i++) leak += std::fabs(r.dk.get(i)) + std::fabs(r.dv.get(i));
  check(leak == 0, c, "gradient of keys nobody sees", leak, 0);
  // NaN in another document and in padding must not reach this one.
  for (int64_t i = 0; i < 8 * 32; i++) k.set(i, NAN), v.set(i, INFINITY);
  for (int64_t i = 200 * 32; i < 230 * 32; i++) k.set(i, NAN), v.set(i, NAN);
  const Run poisoned = run(c, 0.2, q, k, v, dout, pool);
  check(rows_of(poisoned.o, 8, 200).same_bytes(rows_of(r.o, 8, 200)), c, "NaN leaks between documents (o)", 1, 0);
  check(rows_of(poisoned.dk, 8, 200).same_bytes(rows_of(r.dk, 8, 200)), c, "NaN leaks between documents (dk)", 1, 0);
  check(rows_of(poisoned.o, 200, 230).same_bytes(rows_of(r.o, 200, 230)), c, "NaN leaks into padding", 1, 0);
  // NaN that a query sees must show.
  Case d = c;
  k.set(150 * 32, NAN);
  const Run seen = run(d, 0.2, q, k, v, dout, pool);
  check(std::isnan(seen.o.get(152 * 64)), c, "NaN in a visible key vanished", 0, 0);
}

// An absent output changes nothing in the others; shapes on both ways of cutting the backward pass.
void test_absent(cpu::Pool& one, cpu::Pool& three) {
  Case c{"absent outputs", {0, 70, 150}, 150, 4, 2, 32};
  Random random(13);
  auto value = [&](int64_t cols) {
    return Value::floats(DType::F32, {c.tokens, cols}, random.normals(c.tokens * cols));
  };
  Value q = value(128), k = value(64), v = value(64), dout = value(128), cu = Value::ints(c.cu);
  Run full = run(c, 0.2, q, k, v, dout, one);
  const Attributes a = attributes_of(c, 0.2);
  for (cpu::Pool* pool : {&one, &three}) {
    Value o(DType::F32, {c.tokens, 128});
    Op("attention", a, {&q, &k, &v, &cu}, {&o, nullptr}, {o.type(), {}}, pool->threads()).run(*pool);
    check(o.same_bytes(full.o), c, "o without lse");
    for (int present = 1; present < 8; present++) {
      Value dq = o, dk(DType::F32, {c.tokens, 64}), dv = dk;
      Value* out[] = {present & 1 ? &dq : nullptr, present & 2 ? &dk : nullptr, present & 4 ? &dv : nullptr};
      std::vector<TensorType> types;
      for (Value* x : out) types.push_back(x ? x->type() : TensorType{});
      Op("attention_grad", a, {&dout, &q, &k, &v, &full.o, &full.lse, &cu}, {out[0], out[1], out[2]}, types,
         pool->threads())
          .run(*pool);
      check(!out[0] || dq.same_bytes(full.dq), c, "dq, outputs present", present);
      check(!out[1] || dk.same_bytes(full.dk), c, "dk, outputs present", present);
      check(!out[2] || dv.same_bytes(full.dv), c, "dv, outputs present", present);
    }
  }
}

void test_bad_offsets(cpu::Pool& pool) {
  Case c{"bad offsets", {-5, 40, 20, 900}, 64, 2, 2, 16};
  Random random(9);
  auto value = [&](int64_t cols) {
    return Value::floats(DType::F32, {c.tokens, cols}, random.normals(c.tokens * cols));
  };
  Value q = value(32), k = value(32), v = value(32), dout = value(32);
  const Run r = run(c, 0.25, q, k, v, dout, pool);  // the fences of the runner are the check
  check(std::isfinite(r.o.get(0)), c, "first document", 0, 0);
}

void test_decode(DType dtype, int64_t heads, int64_t kv_heads, int64_t dim, int64_t window, double softcap,
                 cpu::Pool& one, cpu::Pool& three) {
  Case c{"decode", {}, 3, heads, kv_heads, dim};
  c.window = window, c.softcap = softcap;
  const int64_t B = 3, S = 150;
  const std::vector<int32_t> lengths = {150, 1, 77};
  Random random(dim);
  const double scale = 1 / std::sqrt(double(dim));
  Value q = Value::floats(dtype, {B, heads * dim}, random.normals(B * heads * dim));
  Value k = Value::floats(dtype, {B, S, kv_heads * dim}, random.normals(B * S * kv_heads * dim));
  Value v = Value::floats(dtype, {B, S, kv_heads * dim}, random.normals(B * S * kv_heads * dim));
  Value n = Value::ints(lengths), o(dtype, {B, heads * dim}), o3 = o;
  Op("attention_decode", attributes_of(c, scale, true), {&q, &k, &v, &n}, {&o}, {o.type()}, 1).run(one);
  Op("attention_decode", attributes_of(c, scale, true), {&q, &k, &v, &n}, {&o3}, {o.type()}, 3).run(three);
  check(o.same_bytes(o3), c, "1 and 3 threads, bits differ", 1, 0);
  double e = 0, top = 0;
  for (int64_t b = 0; b < B; b++)
    for (int64_t h = 0; h < heads; h++) {
      const int64_t g = h / (heads / kv_heads), from = window ? std::max<int64_t>(0, lengths[b] - window) : 0;
      Data x;
      double sum = 0;
      for (int64_t j = from; j < lengths[b]; j++) {
        double s = 0;
        for (int64_t d = 0; d < dim; d++)
          s += double(q.get((b * heads + h) * dim + d)) * k.get(((b * S + j) * kv_heads + g) * dim + d);
        s *= scale;
        x.push_back(softcap ? softcap * std::tanh(s / softcap) : s);
        sum += std::exp(x.back());
      }
      for (int64_t d = 0; d < dim; d++) {
        double y = 0;
        for (int64_t j = from; j < lengths[b]; j++)
          y += std::exp(x[j - from]) / sum * v.get(((b * S + j) * kv_heads + g) * dim + d);
        e = std::max(e, std::fabs(y - o.get((b * heads + h) * dim + d)));
        top = std::max(top, std::fabs(y));
      }
    }
  const double limit = (dtype == DType::F32 ? 2e-6 : 5e-3) * top;
  check(e <= limit, c, "o", e, limit);
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one token", {0, 1}, 1, 2, 1, 64},
      {"short documents", {0, 1, 3, 10, 10, 26, 90}, 97, 3, 1, 64},
      {"gqa 9/3, two tiles", {0, 130, 301}, 301, 9, 3, 64},
      {"mha", {0, 65, 256}, 256, 4, 4, 64},
      {"gqa 32/4", {0, 100}, 100, 32, 4, 64},
      {"wide group", {0, 70}, 70, 20, 1, 64},
      {"dim 128", {0, 97, 200}, 210, 2, 1, 128},
      {"dim 256", {0, 97, 170}, 170, 8, 2, 256},
      {"dim 80", {0, 193}, 193, 2, 1, 80},
      {"dim 96", {0, 120}, 120, 2, 2, 96},
      {"dim 5", {0, 75, 80}, 80, 3, 3, 5},
      {"dim 40", {0, 75, 80}, 80, 4, 2, 40},
      {"bidirectional", {0, 100, 330}, 330, 2, 1, 64, false},
      {"window", {0, 100, 430}, 430, 4, 2, 64, true, 50},
      {"window 1", {0, 40}, 40, 1, 1, 16, true, 1},
      {"window, bidirectional", {0, 100, 330}, 330, 2, 1, 32, false, 37},
      {"softcap", {0, 140}, 140, 2, 1, 64, true, 0, 5.0},
      {"softcap, window", {0, 240}, 240, 2, 1, 256, true, 64, 3.0},
      {"rows before and after", {7, 90}, 128, 2, 2, 64},
      {"no document", {0, 0}, 33, 2, 2, 16},
  };
  cpu::Pool one(1), three(3);
  int isas = 0;
  const cpu::Isa best = cpu::active_isa();
  for (int i = static_cast<int>(best); i >= 0; i--) {
    if (!cpu::force_isa(static_cast<cpu::Isa>(i))) continue;
    isas++;
    for (const Case& c : cases) check_case(c, DType::F32, one, three), check_case(c, DType::BF16, one, three);
    for (DType t : {DType::F32, DType::BF16}) {
      test_hidden_keys(one, t);
      test_decode(t, 9, 3, 64, 0, 0, one, three);
      test_decode(t, 4, 4, 80, 33, 0, one, three);
      test_decode(t, 2, 1, 256, 0, 30.0, one, three);
      test_decode(t, 2, 1, 5, 0, 0, one, three);
    }
    test_absent(one, three);
    test_bad_offsets(three);
    std::printf("attention: %zu cases x f32, bf16 on %s\n", cases.size(), cpu::isa_name(static_cast<cpu::Isa>(i)));
  }
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures > 0 || isas == 0 ? 1 : 0;
}
