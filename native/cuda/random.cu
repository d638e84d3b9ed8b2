// Dropout and random fills from the counter-based generator Philox4x32-10 (philox.cuh).
//
// Element e takes lane e % 4 of the block with counter (e / 4 low, high, step, micro) and key (seed ^ site): the value
// depends on nothing else, so masks are equal on every device and when recomputed. A thread owns four elements.
// Normals are Box-Muller in f64: lanes (0, 1) give elements 0 (cosine) and 1 (sine), lanes (2, 3) elements 2 and 3.
//
// scratch(each) = 0
#include "cuda/common.cuh"
#include "cuda/philox.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 256;

struct Draw {
  int64_t n = 0;
  DType type = DType::F32;
  uint32_t key[2] = {0, 0};  // the site; for fills site ^ seed
  uint64_t threshold = 0;
  float scale = 1;
  double a = 0, b = 1;  // low, high or mean, std
};

template <class T>
__global__ void __launch_bounds__(kThreads) dropout_kernel(const T* x, const uint32_t* rng, uint32_t site_lo, uint32_t site_hi, uint64_t threshold, float scale, T* y, int64_t n) {
  const int64_t block = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (block * 4 >= n) return;
  const Words w = philox(rng[0] ^ site_lo, rng[1] ^ site_hi, uint64_t(block), rng[2], rng[3]);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int64_t e = block * 4 + j;
    if (e < n) store(y + e, w.at[j] < threshold ? mul_rn(load(x[e]), scale) : 0.0f);
  }
}

template <class T, bool kNormal>
__global__ void __launch_bounds__(kThreads) random_kernel(uint32_t k0, uint32_t k1, double a, double b, T* y, int64_t n) {
  const int64_t block = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (block * 4 >= n) return;
  const Words w = philox(k0, k1, uint64_t(block), 0, 0);
  float v[4];
  if (kNormal) {
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const double radius = sqrt(-2 * log((w.at[j] + 0.5) * 2.3283064365386963e-10));
      const double angle = 2 * 3.14159265358979323846 * ((w.at[j + 1] + 0.5) * 2.3283064365386963e-10);
      v[j] = float(a + b * radius * cos(angle));
      v[j + 1] = float(a + b * radius * sin(angle));
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = float(a + (b - a) * (double(w.at[j] >> 8) * 5.9604644775390625e-8));
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (block * 4 + j < n) store(y + block * 4 + j, v[j]);
}

Status read_key(NodeView& node, const char* lo, const char* hi, Draw* d) {
  uint32_t word_lo, word_hi;
  LATHE_TRY(word(node, lo, &word_lo));
  LATHE_TRY(word(node, hi, &word_hi));
  d->key[0] ^= word_lo;
  d->key[1] ^= word_hi;
  return ok_status();
}
Status prepare_dropout(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  LATHE_TRY(expect_float(node, node.inputs[0], "x"));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "output"));
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, 4, "rng"));
  auto* d = plan->emplace<Draw>();
  double p;
  LATHE_TRY(node.attributes.number("p", &p));
  LATHE_EXPECT(node, p >= 0 && p < 1, "p must be in [0, 1), got " + std::to_string(p));
  LATHE_TRY(read_key(node, "site_lo", "site_hi", d));
  d->n = node.inputs[0].numel();
  d->type = node.inputs[0].dtype;
  d->threshold = uint64_t(std::floor((1 - p) * 4294967296.0));
  d->scale = float(1 / (1 - p));
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_dropout(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& d = plan.get<Draw>();
  if (d.n == 0) return ok_status();
  return with_float(d.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, dropout_kernel<T>, Grid(ceil_div(d.n, 4 * kThreads)), kThreads, 0, b.in<T>(0), b.in<uint32_t>(1), d.key[0], d.key[1], d.threshold, d.scale, b.out<T>(0), d.n);
  });
}

Status prepare_random(NodeView& node, const char* a, const char* b, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 0, 1));
  LATHE_TRY(expect_float(node, node.outputs[0], "output"));
  auto* d = plan->emplace<Draw>();
  LATHE_TRY(node.attributes.number(a, &d->a));
  LATHE_TRY(node.attributes.number(b, &d->b));
  LATHE_TRY(read_key(node, "seed_lo", "seed_hi", d));
  LATHE_TRY(read_key(node, "site_lo", "site_hi", d));
  d->n = node.outputs[0].numel();
  d->type = node.outputs[0].dtype;
  return ok_status();
}
Status prepare_uniform(NodeView& node, const DeviceSpec&, KernelPlan* plan) { return prepare_random(node, "low", "high", plan); }
Status prepare_normal(NodeView& node, const DeviceSpec&, KernelPlan* plan) { return prepare_random(node, "mean", "std", plan); }
template <bool kNormal>
Status run_random(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& d = plan.get<Draw>();
  if (d.n == 0) return ok_status();
  return with_float(d.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, random_kernel<T, kNormal>, Grid(ceil_div(d.n, 4 * kThreads)), kThreads, 0, d.key[0], d.key[1], d.a, d.b, b.out<T>(0), d.n);
  });
}

}  // namespace

LATHE_CUDA_KERNEL(dropout, prepare_dropout, run_dropout);
LATHE_CUDA_KERNEL(random_uniform, prepare_uniform, run_random<false>);
LATHE_CUDA_KERNEL(random_normal, prepare_normal, run_random<true>);

}  // namespace lathe::cuda
