/*
 * The machine's own arithmetic peak: every thread runs independent chains of fused multiply-adds on registers, so
 * nothing but the arithmetic units limits it.
 *
 * Usage: peak f32|bf16 THREADS MILLISECONDS [INSTRUCTION]. Prints one JSON object.
 *   Without an instruction: the best burst of about 20 ms, of all instructions that the processor has, and the CPU time it
 *   got per wall time. A shared host changes speed, and its peak is what it gives when nobody disturbs.
 *   With one: a slice. All threads loop for that long with this instruction; work, wall and CPU time of the whole slice,
 *   from when all threads are ready until the last is done. Interleaved with slices of other programs it says what the
 *   machine gave in their round.
 *
 * f32: AVX2 or AVX-512 FMA, whichever is faster. bf16: VDPBF16PS, or the f32 figure where the processor has none (its bf16
 * GEMMs then run at fp32 speed). Elsewhere: a loop of fused multiply-adds that the compiler vectorises.
 */
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int kChains = 12;
constexpr int kSteps = 20000;  // some 40 us a call: a slice ends that close to its time

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  rusage u;
  getrusage(RUSAGE_SELF, &u);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(u.ru_utime) + seconds(u.ru_stime);
}

#if defined(__x86_64__)
// One loop per instruction: the asm barrier keeps every step, the unrolling keeps the chains in registers (in memory
// they would measure the stores).
#define LATHE_SPIN(name, features, Vector, zero, start, step)           \
  __attribute__((target(features))) void name() {                      \
    Vector chain[kChains];                                              \
    _Pragma("GCC unroll 16") for (auto& x : chain) x = zero;            \
    const auto a = start;                                               \
    for (int i = 0; i < kSteps; ++i)                                    \
      _Pragma("GCC unroll 16") for (auto& x : chain) {                  \
        x = step;                                                       \
        asm volatile("" : "+v"(x));                                     \
      }                                                                 \
  }
LATHE_SPIN(spin_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5f), _mm256_fmadd_ps(a, a, x))
LATHE_SPIN(spin_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5f), _mm512_fmadd_ps(a, a, x))
LATHE_SPIN(spin_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), (__m512bh)_mm512_set1_epi32(0x3f803f80),
           _mm512_dpbf16_ps(x, a, a))
#endif

void spin_portable() {
  float chain[64];
  for (int i = 0; i < 64; ++i) chain[i] = static_cast<float>(i);
  for (int s = 0; s < kSteps; ++s)
    for (float& x : chain) x = std::fma(x, 0.5f, 0.5f);
  volatile float keep = chain[0];
  (void)keep;
}

struct Spin {
  const char* name;
  void (*run)();
  double flops;  // of one call
};

std::vector<Spin> spins(bool bf16) {
  std::vector<Spin> out;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const double steps = static_cast<double>(kSteps) * kChains;
  if (bf16 && __builtin_cpu_supports("avx512bf16")) return {{"VDPBF16PS", spin_bf16, steps * 64}};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) out.push_back({"AVX2 FMA", spin_avx2, steps * 16});
  if (__builtin_cpu_supports("avx512f")) out.push_back({"AVX-512 FMA", spin_avx512, steps * 32});
#endif
  (void)bf16;
  if (out.empty()) out.push_back({"portable FMA", spin_portable, static_cast<double>(kSteps) * 128});
  return out;
}

double burst(const Spin& spin, int threads, int calls) {
  std::atomic<int> ready{0};
  std::vector<std::thread> team;
  const auto work = [&] {
    ready.fetch_add(1);
    while (ready.load() < threads) {
    }
    for (int i = 0; i < calls; ++i) spin.run();
  };
  const double start = wall_seconds();
  for (int i = 1; i < threads; ++i) team.emplace_back(work);
  work();
  for (auto& t : team) t.join();
  return spin.flops * calls * threads / (wall_seconds() - start) * 1e-9;
}

struct Slice {
  double wall, cpu;  // seconds
  double flops;
};

// Clocks start when every thread waits at the line and stop when the last one is done: neither the process nor its
// threads' starts count. A thread that falls behind does less; nobody waits for it.
Slice slice(const Spin& spin, int threads, double seconds) {
  std::atomic<int> ready{0}, done{0};
  std::atomic<bool> go{false};
  std::atomic<long> calls{0};
  double start = 0;  // written before `go`
  const auto loop = [&] {
    long n = 0;
    do spin.run(), ++n;
    while (wall_seconds() - start < seconds);
    calls.fetch_add(n);
    done.fetch_add(1);
  };
  std::vector<std::thread> team;
  for (int i = 1; i < threads; ++i)
    team.emplace_back([&] {
      ready.fetch_add(1);
      while (!go.load()) {
      }
      loop();
    });
  while (ready.load() < threads - 1) {
  }
  const double cpu = cpu_seconds();
  start = wall_seconds();
  go.store(true);
  loop();
  while (done.load() < threads) {
  }
  Slice out{wall_seconds() - start, cpu_seconds() - cpu, spin.flops * static_cast<double>(calls.load())};
  for (auto& t : team) t.join();
  return out;
}

int print_slice(const std::vector<Spin>& candidates, const char* instruction, int threads, double seconds) {
  for (const Spin& s : candidates) {
    if (std::strcmp(s.name, instruction) != 0) continue;
    const Slice done = slice(s, threads, seconds);
    std::printf("{\"wallMs\": %.4f, \"cpuMs\": %.3f, \"work\": %.0f}\n", done.wall * 1e3, done.cpu * 1e3, done.flops);
    return 0;
  }
  std::fprintf(stderr, "expected an instruction out of");
  for (const Spin& s : candidates) std::fprintf(stderr, " '%s'", s.name);
  std::fprintf(stderr, ", received '%s'\n", instruction);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const bool bf16 = argc > 1 && std::strcmp(argv[1], "bf16") == 0;
  const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 1;
  const double seconds = argc > 3 ? std::atof(argv[3]) * 1e-3 : 0.5;
  const std::vector<Spin> candidates = spins(bf16);
  if (argc > 4) return print_slice(candidates, argv[4], threads, seconds);
  double best = 0, share = 0;
  const char* name = "";
  const double start = wall_seconds();
  do {
    for (const Spin& s : candidates) {
      // Long enough that starting the threads does not count.
      const int calls = std::max(1, static_cast<int>(30e9 * 0.02 / s.flops * (bf16 ? 8 : 4)));
      const double wall = wall_seconds(), cpu = cpu_seconds();
      const double rate = burst(s, threads, calls);
      if (rate > best) best = rate, name = s.name, share = (cpu_seconds() - cpu) / (wall_seconds() - wall);
    }
  } while (wall_seconds() - start < seconds);
  std::printf("{\"gflops\": %.2f, \"instruction\": \"%s\", \"cpuPerWall\": %.3f}\n", best, name,
              share);
  return 0;
}
