/*
 * GFLOP/s of the GEMM, as a fraction of the arithmetic peak measured in the same run.
 *
 * Usage: gemm_bench [threads] [filter]. Every figure is the best of many short runs with the peak measured
 * between them, because a shared host changes speed under us; the median is printed beside it.
 * Build like gemm_test.cpp.
 */
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "../cpu/gemm/dispatch.h"
#include "../cpu/gemm/gemm.h"
#include "../cpu/gemm/scalar.h"
#include "../cpu/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

using namespace lathe;
using namespace lathe::cpu;

namespace {

bool g_cpu_time = false;

// Seconds; with one thread, of this thread's processor time, so that other processes do not count.
double now() {
#if defined(__linux__)
  if (g_cpu_time) {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
#endif
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

#if defined(__x86_64__)
constexpr int kPeakSteps = 200000;

__attribute__((target("avx512f,avx512bf16"))) void spin_bf16() {
  __m512 s[12];
  for (auto& x : s) x = _mm512_setzero_ps();
  __m512bh a = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  for (int i = 0; i < kPeakSteps; ++i) {
    for (auto& x : s) {
      x = _mm512_dpbf16_ps(x, a, a);
      asm volatile("" : "+v"(x));
    }
  }
}

__attribute__((target("avx2,fma"))) void spin_f32() {
  __m256 s[12];
  for (auto& x : s) x = _mm256_setzero_ps();
  const __m256 a = _mm256_set1_ps(0.5f);
  for (int i = 0; i < kPeakSteps; ++i) {
    for (auto& x : s) {
      x = _mm256_fmadd_ps(a, a, x);
      asm volatile("" : "+v"(x));
    }
  }
}

// GFLOP/s of all threads of the pool together.
double peak(Pool& pool, bool bf16) {
  const double per_thread = kPeakSteps * 12.0 * (bf16 ? 64 : 16);
  const double t0 = now();
  pool.run(pool.threads() * 4, [bf16](int64_t, int) { bf16 ? spin_bf16() : spin_f32(); });
  return per_thread * pool.threads() * 4 / (now() - t0) * 1e-9;
}
#else
double peak(Pool&, bool) { return 0; }
#endif

struct Matrix {
  std::vector<uint8_t> bytes;
  std::vector<float> absmax;
  MatOperand operand;
};

Matrix make(int64_t rows, int64_t cols, const std::string& form, bool transposed) {
  static std::mt19937 random(7);
  Matrix m;
  MatOperand& o = m.operand;
  o.rows = rows;
  o.cols = o.ld = cols;
  o.transposed = transposed;
  const int64_t n = rows * cols;
  if (form == "nf4") {
    o.format = MatFormat::kNf4;
    m.bytes.resize(static_cast<size_t>(n / 2));
    for (auto& b : m.bytes) b = static_cast<uint8_t>(random());
    m.absmax.assign(static_cast<size_t>((n + 63) / 64), 0.1f);
    o.absmax = m.absmax.data();
  } else {
    const bool wide = form == "f32";
    o.dtype = wide ? DType::F32 : DType::BF16;
    m.bytes.resize(static_cast<size_t>(n * (wide ? 4 : 2)));
    for (int64_t i = 0; i < n; ++i) {
      const float x = static_cast<float>(random()) * 0x1p-31f - 1.0f;
      const uint16_t h = to_bf16(x);
      wide ? std::memcpy(&m.bytes[static_cast<size_t>(i) * 4], &x, 4)
           : std::memcpy(&m.bytes[static_cast<size_t>(i) * 2], &h, 2);
    }
  }
  o.data = m.bytes.data();
  return m;
}

struct Case {
  const char* name;
  int64_t m, k, n;
  const char* layout;  // NT, NN or TN
  const char* a;
  const char* b;
  bool bf16;
  DType c;
};

void bench(const Case& c, Pool& pool, double seconds) {
  const bool ta = c.layout[0] == 'T';
  const bool tb = c.layout[1] == 'T';
  Matrix a = ta ? make(c.k, c.m, c.a, true) : make(c.m, c.k, c.a, false);
  // Several copies of a small right operand, so that decoding reads weights from memory as a model does.
  const int64_t b_bytes = c.k * c.n * (std::strcmp(c.b, "nf4") == 0 ? 1 : std::strcmp(c.b, "f32") == 0 ? 8 : 4) / 2;
  const size_t copies = c.m <= 8 ? static_cast<size_t>(std::max<int64_t>(1, (256 << 20) / b_bytes)) : 1;
  std::vector<Matrix> b;
  for (size_t i = 0; i < copies; ++i) {
    if (i == 0) {
      b.push_back(tb ? make(c.n, c.k, c.b, true) : make(c.k, c.n, c.b, false));
    } else {
      b.push_back(b[0]);
      b.back().operand.data = b.back().bytes.data();
      b.back().operand.absmax = b.back().absmax.data();
    }
  }
  std::vector<float> out(static_cast<size_t>(c.m * c.n));
  std::vector<uint8_t> scratch(static_cast<size_t>(gemm_scratch_bytes(c.m, c.n, c.k, 1, pool.threads())));
  const double flop = 2.0 * static_cast<double>(c.m) * static_cast<double>(c.n) * static_cast<double>(c.k);
  std::vector<double> rates;
  double best_peak = 0;
  const double end = now() + seconds;
  size_t turn = 0;
  do {
    best_peak = std::max(best_peak, peak(pool, c.bf16));
    for (int i = 0; i < 4; ++i) {
      const GemmTerm term = {a.operand, b[turn++ % copies].operand};
      GemmCall call;
      call.m = c.m;
      call.n = c.n;
      call.terms = &term;
      call.term_count = 1;
      call.c = out.data();
      call.c_dtype = c.c;
      call.ldc = c.n;
      call.bf16_compute = c.bf16;
      const double t0 = now();
      gemm(call, pool, scratch.data());
      rates.push_back(flop / (now() - t0) * 1e-9);
    }
  } while (now() < end);
  std::sort(rates.begin(), rates.end());
  const double best = rates.back();
  std::printf("%-22s %5ldx%5ldx%5ld %s %-4s*%-4s %-4s best %6.1f  median %6.1f GFLOP/s  peak %6.1f  %5.1f %%", c.name,
              static_cast<long>(c.m), static_cast<long>(c.k), static_cast<long>(c.n), c.layout, c.a, c.b,
              c.bf16 ? "bf16" : "f32", best, rates[rates.size() / 2], best_peak, 100 * best / best_peak);
  if (c.m <= 8) std::printf("  %5.1f GB/s of weights", static_cast<double>(b_bytes) / (flop / best));
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const std::string filter = argc > 2 ? argv[2] : "";
  const double seconds = argc > 3 ? std::atof(argv[3]) : 1.0;
  Pool pool(threads);
  g_cpu_time = threads == 1;
  std::printf("isa %s, %d thread(s)\n", gemm_isa(), threads);
  const Case cases[] = {
      {"forward", 1020, 576, 1536, "NT", "bf16", "bf16", true, DType::BF16},
      {"forward", 512, 512, 512, "NT", "bf16", "bf16", true, DType::BF16},
      {"forward", 1024, 2048, 2048, "NT", "bf16", "bf16", true, DType::BF16},
      {"forward", 1024, 2048, 2048, "NT", "bf16", "nf4", true, DType::BF16},
      {"forward", 512, 2048, 5632, "NT", "bf16", "bf16", true, DType::BF16},
      {"forward", 1024, 4096, 4096, "NT", "bf16", "bf16", true, DType::BF16},
      {"forward", 256, 2048, 2048, "NT", "bf16", "bf16", true, DType::BF16},
      {"forward", 256, 2048, 2048, "NT", "bf16", "nf4", true, DType::BF16},
      {"forward", 128, 2048, 2048, "NT", "bf16", "bf16", true, DType::BF16},
      {"grad-input", 512, 512, 512, "NN", "bf16", "bf16", true, DType::BF16},
      {"grad-input", 1020, 1536, 576, "NN", "bf16", "bf16", true, DType::BF16},
      {"grad-input", 1024, 2048, 2048, "NN", "bf16", "bf16", true, DType::BF16},
      {"grad-input", 1024, 2048, 2048, "NN", "bf16", "nf4", true, DType::BF16},
      {"grad-input", 256, 2048, 2048, "NN", "bf16", "bf16", true, DType::BF16},
      {"grad-input", 256, 2048, 2048, "NN", "bf16", "nf4", true, DType::BF16},
      {"grad-weight", 512, 512, 512, "TN", "bf16", "bf16", true, DType::F32},
      {"grad-weight", 1536, 1020, 576, "TN", "bf16", "bf16", true, DType::F32},
      {"grad-weight", 2048, 1024, 2048, "TN", "bf16", "bf16", true, DType::F32},
      {"f32-forward", 512, 512, 512, "NT", "f32", "f32", false, DType::F32},
      {"f32-forward", 1020, 576, 1536, "NT", "f32", "f32", false, DType::F32},
      {"f32-forward", 1024, 2048, 2048, "NT", "f32", "f32", false, DType::F32},
      {"f32-forward", 1024, 2048, 2048, "NT", "f32", "nf4", false, DType::F32},
      {"f32-grad-input", 1024, 2048, 2048, "NN", "f32", "f32", false, DType::F32},
      {"f32-grad-input", 512, 512, 512, "NN", "f32", "f32", false, DType::F32},
      {"f32-grad-weight", 2048, 1024, 2048, "TN", "f32", "f32", false, DType::F32},
      {"f32-grad-weight", 512, 512, 512, "TN", "f32", "f32", false, DType::F32},
      {"lora-down", 1024, 2048, 16, "NT", "bf16", "f32", true, DType::BF16},
      {"lora-up", 1024, 16, 2048, "NT", "bf16", "f32", true, DType::BF16},
      {"lora-grad-a", 16, 1024, 2048, "TN", "bf16", "bf16", true, DType::F32},
      {"lora-grad-b", 2048, 1024, 16, "TN", "bf16", "bf16", true, DType::F32},
      {"decode", 1, 2048, 2048, "NT", "bf16", "bf16", true, DType::BF16},
      {"decode", 1, 2048, 2048, "NT", "bf16", "nf4", true, DType::BF16},
      {"decode", 1, 576, 1536, "NT", "bf16", "bf16", true, DType::BF16},
      {"decode", 1, 576, 1536, "NT", "bf16", "nf4", true, DType::BF16},
      {"decode", 1, 2048, 2048, "NT", "f32", "f32", false, DType::F32},
      {"decode", 4, 2048, 2048, "NT", "bf16", "nf4", true, DType::BF16},
      {"decode", 8, 2048, 2048, "NT", "bf16", "bf16", true, DType::BF16},
  };
  for (const Case& c : cases) {
    if (std::string(c.name).find(filter) != std::string::npos) bench(c, pool, seconds);
  }
  return 0;
}
