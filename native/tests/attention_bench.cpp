/*
 * Times attention and attention_grad on the shapes of small models.
 *   attention_bench [threads] [repeats] [bf16|f32] [shape]     with 1 thread: processor time, not wall time
 * GFLOP/s count the causal half: 2 T^2 d per head forward (per document), 2.5 times that backward.
 */
#include <algorithm>
#include <cmath>
#include <ctime>

#include "kernel_runner.h"

using namespace lathe;
using namespace lathe::test;

namespace {

struct Shape {
  const char* name;
  int64_t documents, length, heads, kv_heads, dim;
};

// On a shared machine the processor time of one thread says more than the wall clock.
double now_ms(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

double best_ms(Op& op, cpu::Pool& pool, int repeats, double* median) {
  std::vector<double> ms;
  op.run(pool);
  for (int i = 0; i < repeats; i++) {
    const double start = now_ms(pool.threads());
    op.run(pool);
    ms.push_back(now_ms(pool.threads()) - start);
  }
  std::sort(ms.begin(), ms.end());
  *median = ms[ms.size() / 2];
  return ms[0];
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, repeats = argc > 2 ? std::atoi(argv[2]) : 20;
  cpu::Pool pool(threads);
  const Shape shapes[] = {{"2x512 9/3 d64", 2, 512, 9, 3, 64},  {"2x512 32/4 d64", 2, 512, 32, 4, 64},
                          {"4x256 12/12 d64", 4, 256, 12, 12, 64}, {"1x2048 9/3 d64", 1, 2048, 9, 3, 64},
                          {"2x512 16/8 d128", 2, 512, 16, 8, 128}, {"8x64 9/3 d64", 8, 64, 9, 3, 64}};
  for (DType dtype : {DType::BF16, DType::F32})
    for (const Shape& s : shapes) {
      if (argc > 3 && (std::strcmp(argv[3], "f32") == 0) != (dtype == DType::F32)) continue;
      if (argc > 4 && std::strstr(s.name, argv[4]) == nullptr) continue;
      const int64_t T = s.documents * s.length;
      Random random(1);
      auto value = [&](int64_t cols) { return Value::floats(dtype, {T, cols}, random.normals(T * cols)); };
      Value q = value(s.heads * s.dim), k = value(s.kv_heads * s.dim), v = value(s.kv_heads * s.dim);
      Value dout = value(s.heads * s.dim);
      std::vector<int32_t> offsets;
      for (int64_t i = 0; i <= s.documents; i++) offsets.push_back(static_cast<int32_t>(i * s.length));
      Value cu = Value::ints(offsets), o = q, dq = q, dk = k, dv = v, lse(DType::F32, {s.heads, T});
      Attributes a;
      set_number(a, "heads", s.heads), set_number(a, "kv_heads", s.kv_heads), set_number(a, "head_dim", s.dim);
      set_number(a, "scale", 1 / std::sqrt(double(s.dim))), set_number(a, "window", 0), set_number(a, "softcap", 0);
      set_number(a, "causal", 1);
      Op forward("attention", a, {&q, &k, &v, &cu}, {&o, &lse}, {o.type(), lse.type()}, threads);
      Op backward("attention_grad", a, {&dout, &q, &k, &v, &o, &lse, &cu}, {&dq, &dk, &dv},
                  {dq.type(), dk.type(), dv.type()}, threads);
      double fm, bm;
      const double f = best_ms(forward, pool, repeats, &fm), b = best_ms(backward, pool, repeats, &bm);
      const double flops = 2.0 * s.documents * s.heads * s.length * s.length * s.dim;
      std::printf("%-16s %s forward %7.3f ms (median %7.3f) %6.1f GF/s   backward %7.3f ms (median %7.3f) %6.1f GF/s\n",
                  s.name, dtype == DType::BF16 ? "bf16" : "f32 ", f, fm, flops / f * 1e-6, b, bm,
                  2.5 * flops / b * 1e-6);
    }
}
