// Rotary position embedding (Su et al. 2021) in the rotate_half layout of transformers.
//
// The table is made once per step and shared by all layers. The angle is the fp32 product position * inv_freq; its
// cosine and sine are taken in f64 and rounded once. Frequencies travel as kernel arguments (at most 256).
//
// scratch(rope_table) = scratch(rope) = 0
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr int kMaxHalf = 256;
struct Frequencies { float at[kMaxHalf]; };

__global__ void __launch_bounds__(256) table_kernel(const int32_t* positions, __grid_constant__ const Frequencies frequencies, int half, double scaling, float* c, float* s, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= n) return;
  const float angle = mul_rn(float(positions[i / half]), frequencies.at[i % half]);
  c[i] = float(mul_rn(cos(double(angle)), scaling));
  s[i] = float(mul_rn(sin(double(angle)), scaling));
}

// One thread per pair; columns past the pairs of a head are copied by the threads that remain.
template <class T>
__global__ void __launch_bounds__(256) rope_kernel(const T* x, const float* c, const float* s, float sign, int64_t cols, int head_dim, int half, T* y) {
  const int64_t row = blockIdx.x, base = row * cols;
  const int rest = head_dim - 2 * half, units = half + rest;
  const int64_t heads = cols / head_dim;
  for (int64_t i = threadIdx.x; i < heads * units; i += 256) {
    const int64_t at = base + i / units * head_dim;
    const int j = int(i % units);
    if (j >= half) {
      y[at + half + j] = x[at + half + j];
      continue;
    }
    const float a = load(x[at + j]), b = load(x[at + half + j]);
    const float cosine = c[row * half + j], sine = sign * s[row * half + j];
    store(y + at + j, fma_rn(a, cosine, -mul_rn(b, sine)));
    store(y + at + half + j, fma_rn(b, cosine, mul_rn(a, sine)));
  }
}

struct Table {
  int64_t rows = 0;
  int half = 0;
  Frequencies inv_freq{};
  double scaling = 1;
};
Status prepare_table(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 2));
  auto* t = plan->emplace<Table>();
  std::vector<double> freq;
  LATHE_TRY(node.attributes.numbers("inv_freq", &freq));
  LATHE_TRY(node.attributes.number("attention_scaling", &t->scaling));
  LATHE_EXPECT(node, freq.size() <= size_t(kMaxHalf), "at most 256 frequencies, got " + std::to_string(freq.size()));
  t->half = int(freq.size());
  for (size_t i = 0; i < freq.size(); i++) t->inv_freq.at[i] = float(freq[i]);
  t->rows = node.inputs[0].numel();
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::I32, t->rows, "positions"));
  for (auto& y : node.outputs) LATHE_TRY(expect_vector(node, y, DType::F32, t->rows * int64_t(freq.size()), "table"));
  return ok_status();
}
Status run_table(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& t = plan.get<Table>();
  const int64_t n = t.rows * t.half;
  if (n == 0) return ok_status();
  return launch(stream, table_kernel, Grid(ceil_div(n, 256)), 256, 0, b.in<int32_t>(0), t.inv_freq, t.half, t.scaling, b.out<float>(0), b.out<float>(1), n);
}

struct Rotation {
  int64_t rows = 0, cols = 0, head_dim = 0, half = 0;
  DType type = DType::F32;
  float sign = 1;
};
Status prepare_rope(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 3, 1));
  auto &x = node.inputs[0], &c = node.inputs[1];
  LATHE_TRY(expect_float(node, x, "x"));
  LATHE_TRY(expect_same(node, x, node.outputs[0], "output"));
  LATHE_TRY(expect_same(node, c, node.inputs[2], "sin"));
  auto* r = plan->emplace<Rotation>();
  bool inverse;
  LATHE_TRY(node.attributes.integer("head_dim", &r->head_dim));
  LATHE_TRY(flag(node, "inverse", &inverse));
  r->rows = x.rows();
  r->cols = x.cols();
  r->half = c.cols();
  r->type = x.dtype;
  r->sign = inverse ? -1.0f : 1.0f;
  LATHE_EXPECT(node, r->head_dim > 0 && r->cols % r->head_dim == 0 && 2 * r->half <= r->head_dim,
               "head_dim " + std::to_string(r->head_dim) + " does not fit x " + describe(x) + " and cos " + describe(c));
  LATHE_TRY(expect_vector(node, c, DType::F32, r->rows * r->half, "cos"));
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_rope(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& p = plan.get<Rotation>();
  if (p.rows * p.cols == 0) return ok_status();
  return with_float(p.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, rope_kernel<T>, Grid(p.rows), 256, 0, b.in<T>(0), b.in<float>(1), b.in<float>(2), p.sign, p.cols, int(p.head_dim), int(p.half), b.out<T>(0));
  });
}

}  // namespace

LATHE_CUDA_KERNEL(rope_table, prepare_table, run_table);
LATHE_CUDA_KERNEL(rope, prepare_rope, run_rope);

}  // namespace lathe::cuda
