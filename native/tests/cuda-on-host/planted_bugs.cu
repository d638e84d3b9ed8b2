// The shim's own test: correct kernels pass it, and each planted bug is found. Exit status 0 when all is as expected.
//
// What can be found depends on how this was compiled: races need the instrumented build, and indices outside an
// allocation the address sanitizer (which ends the process, so that case runs in a child).
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 128;

// Every thread adds its neighbour's value through shared memory.
template <bool kBarrier, int kShift>
__global__ void neighbour_kernel(const float* x, float* y) {
  LATHE_SHARED(float, row, kThreads);
  row[threadIdx.x] = x[threadIdx.x];
  if (kBarrier) block_sync();
  y[threadIdx.x] = x[threadIdx.x] + row[(threadIdx.x + kShift) % kThreads];
}
// The last barrier is missing before the array is written again.
template <bool kBarrier>
__global__ void twice_kernel(const float* x, float* y) {
  LATHE_SHARED(float, row, kThreads);
  float sum = 0;
  for (int turn = 0; turn < 2; turn++) {
    row[threadIdx.x] = x[threadIdx.x] + float(turn);
    block_sync();
    sum += row[(threadIdx.x + 1) % kThreads];
    if (kBarrier) block_sync();
  }
  y[threadIdx.x] = sum;
}
template <bool kWait>
__global__ void copy_kernel(const float* x, float* y) {
  LATHE_SHARED(float, row, kThreads);
  if (threadIdx.x < kThreads / 4) copy_async(row + 4 * threadIdx.x, x + 4 * threadIdx.x, 16);
  copy_commit();
  if (kWait) copy_wait<0>();
  block_sync();
  y[threadIdx.x] = x[threadIdx.x] + row[(threadIdx.x + 1) % kThreads];
  copy_wait<0>();
}
__global__ void divergent_kernel(const float* x, float* y) {
  if (threadIdx.x < 64) block_sync();
  y[threadIdx.x] = x[threadIdx.x];
}
__global__ void half_warp_kernel(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v += warp_shuffle_xor(v, 1);
  y[threadIdx.x] = v;
}
// Two blocks write the same element.
__global__ void blocks_kernel(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x] + float(blockIdx.x); }
// One past the end of an array in shared memory.
__global__ void outside_kernel(const float* x, float* y) {
  LATHE_SHARED(float, row, kThreads);
  row[threadIdx.x + 1] = x[threadIdx.x];
  block_sync();
  y[threadIdx.x] = row[threadIdx.x];
}
__global__ void reduce_kernel(const float* x, float* y) {
  LATHE_SHARED(float, sums, 32);
  const float total = block_reduce(x[threadIdx.x], sums, Sum{});
  y[threadIdx.x] = total;
}
// A 16 x 8 product by mma against plain loops.
__global__ void mma_kernel(const float* a, const float* b, float* c) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  auto pack = [](float lo, float hi) { return uint32_t(round_bf16(float_bits(lo))) | uint32_t(round_bf16(float_bits(hi))) << 16; };
  uint32_t fa[4], fb[2];
  for (int j = 0; j < 4; j++) {
    const float* p = a + (g + j % 2 * 8) * 16 + 2 * t + j / 2 * 8;
    fa[j] = pack(p[0], p[1]);
  }
  for (int j = 0; j < 2; j++) fb[j] = pack(b[(2 * t + j * 8) * 8 + g], b[(2 * t + j * 8 + 1) * 8 + g]);
  float sum[4] = {0, 0, 0, 0};
  mma_bf16(sum, fa, fb);
  for (int j = 0; j < 4; j++) c[(g + j / 2 * 8) * 8 + 2 * t + j % 2] = sum[j];
}

const std::string kMode = LATHE_SHIM_MODE;
int failures = 0;

void expect(bool ok, const char* what, const std::string& detail = "") {
  std::printf("%s  %s%s%s\n", ok ? "ok    " : "FAILED", what, detail.empty() ? "" : ": ", detail.c_str());
  failures += !ok;
}

struct Outcome {
  std::string problem;
  std::vector<float> y;
};
template <class K>
Outcome run(K kernel, unsigned blocks = 1) {
  auto* x = static_cast<float*>(shim::allocate(kThreads * 4));
  auto* y = static_cast<float*>(shim::allocate(kThreads * 4));
  for (unsigned i = 0; i < kThreads; i++) x[i] = float(i * i % 97);
  Stream stream;
  const Status status = launch(stream, kernel, Grid(blocks), kThreads, 0, static_cast<const float*>(x), y);
  Outcome out{status.message(), std::vector<float>(y, y + kThreads)};
  shim::release(x), shim::release(y);
  return out;
}
std::vector<float> wanted(int shift) {
  std::vector<float> y;
  for (unsigned i = 0; i < kThreads; i++) y.push_back(float(i * i % 97) + float((i + unsigned(shift)) % kThreads * ((i + unsigned(shift)) % kThreads) % 97));
  return y;
}
bool right(const Outcome& o, const std::vector<float>& y) { return o.problem.empty() && o.y == y; }

void test_mma() {
  auto* a = static_cast<float*>(shim::allocate(16 * 16 * 4));
  auto* b = static_cast<float*>(shim::allocate(16 * 8 * 4));
  auto* c = static_cast<float*>(shim::allocate(16 * 8 * 4));
  for (int i = 0; i < 256; i++) a[i] = float(i % 13 - 6);
  for (int i = 0; i < 128; i++) b[i] = float(i % 7 - 3);
  Stream stream;
  const Status status = launch(stream, mma_kernel, Grid(1), 32, 0, static_cast<const float*>(a), static_cast<const float*>(b), c);
  bool same = status.ok();
  for (int r = 0; r < 16; r++)
    for (int n = 0; n < 8; n++) {
      float sum = 0;
      for (int k = 0; k < 16; k++) sum += a[r * 16 + k] * b[k * 8 + n];
      same = same && c[r * 8 + n] == sum;
    }
  expect(same, "mma.m16n8k16 gives the product", status.message());
  shim::release(a), shim::release(b), shim::release(c);
}

// In a child: the sanitizer ends the process.
bool dies(void (*body)()) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    std::freopen("/dev/null", "w", stderr);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int test_all() {
  const bool race = kMode == "race", address = kMode == "address";
  expect(right(run(neighbour_kernel<true, 1>), wanted(1)), "a correct kernel passes");
  expect(right(run(copy_kernel<true>), wanted(1)), "a correct asynchronous copy passes");
  expect(run(twice_kernel<true>).problem.empty(), "a correct loop passes", run(twice_kernel<true>).problem);
  const Outcome sum = run(reduce_kernel);
  expect(sum.problem.empty() && sum.y[0] == sum.y[kThreads - 1] && sum.y[0] > 0, "a block reduction passes", sum.problem);
  test_mma();

  Outcome o = run(neighbour_kernel<false, 1>);
  expect(!right(o, wanted(1)), "a missing barrier is found by values or as a race", o.problem);
  if (race) expect(o.problem.find("race") != std::string::npos, "a missing barrier is reported as a race");
  o = run(twice_kernel<false>);
  if (race) expect(o.problem.find("race") != std::string::npos, "a barrier missing at the end of a loop is reported as a race", o.problem);
  expect(!right(run(neighbour_kernel<true, 2>), wanted(1)), "a wrong index gives wrong values");
  o = run(copy_kernel<false>);
  expect(!o.problem.empty() || std::isnan(o.y[5]), "a missing cp.async wait reads NaN", o.problem);
  expect(run(divergent_kernel).problem.find("divergent barrier") != std::string::npos, "a divergent barrier is reported");
  expect(run(half_warp_kernel).problem.find("divergent warp") != std::string::npos, "a shuffle without all lanes is reported");
  if (race) expect(run(blocks_kernel, 2).problem.find("race") != std::string::npos, "two blocks writing one element are reported");
  o = Outcome{};
  if (!address) {
    o = run(outside_kernel);
    expect(!o.problem.empty() || std::isnan(o.y[0]), "an array read where nobody wrote gives NaN", o.problem);
  } else {
    expect(dies([] { run(outside_kernel); }), "an index past shared memory ends the process under the address sanitizer");
  }
  std::printf("%s: %d failed\n", kMode.c_str(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lathe::cuda

int main() { return lathe::cuda::test_all(); }
