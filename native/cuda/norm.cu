// RMSNorm and LayerNorm over rows [T, D], forward and backward.
//
// A thread block owns a row; statistics are fp32 in a fixed tree. The gradient of the weights is a column sum over all
// T: a thread block owns 32 columns and goes down all rows in blocks of 64, in a launch of its own before dx, because dx
// may lie on dy. With frozen weights those outputs are absent and it does not run.
// Formulas: Zhang and Sennrich 2019 (RMSNorm), Ba et al. 2016 (LayerNorm).
//
// scratch(each) = 0
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 256;

__device__ __forceinline__ float inverse_root(float mean_square, float eps) {
  return float(1.0 / sqrt(double(mean_square) + double(eps)));
}

template <class T, class W>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const T* x, const W* w, float offset, float eps, T* y, float* rstd_out, int64_t cols) {
  LATHE_SHARED(float, sums, 32);
  const int64_t base = int64_t(blockIdx.x) * cols;
  float square = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float v = load(x[base + c]);
    square = fma_rn(v, v, square);
  }
  square = block_reduce(square, sums, Sum{});
  const float rstd = inverse_root(float(double(square) / double(cols)), eps);
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) store(y + base + c, load(x[base + c]) * rstd * (load(w[c]) + offset));
  if (threadIdx.x == 0 && rstd_out) rstd_out[blockIdx.x] = rstd;
}

// dx = rstd (g - x rstd^2 mean(g x)), g = dy (w + offset)
template <class T, class W>
__global__ void __launch_bounds__(kThreads) rms_norm_grad_kernel(const T* dy, const T* x, const W* w, float offset, const float* rstd_in, const T* addend, T* dx, int64_t cols) {
  LATHE_SHARED(float, sums, 32);
  const int64_t base = int64_t(blockIdx.x) * cols;
  const float rstd = rstd_in[blockIdx.x];
  float gx = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads)
    gx = fma_rn(load(dy[base + c]) * (load(w[c]) + offset), load(x[base + c]), gx);
  gx = block_reduce(gx, sums, Sum{});
  const float share = float(double(gx) / double(cols) * rstd * rstd);
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float g = load(dy[base + c]) * (load(w[c]) + offset);
    const float d = fma_rn(-load(x[base + c]), share, g);
    store(dx + base + c, addend ? fma_rn(d, rstd, load(addend[base + c])) : d * rstd);
  }
}

template <class T, class W>
__global__ void __launch_bounds__(kThreads) layer_norm_kernel(const T* x, const W* w, const W* bias, float eps, T* y, float* mean_out, float* rstd_out, int64_t cols) {
  LATHE_SHARED(float, sums, 32);
  const int64_t base = int64_t(blockIdx.x) * cols;
  float sum = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) sum += load(x[base + c]);
  sum = block_reduce(sum, sums, Sum{});
  const float mean = float(double(sum) / double(cols));
  float square = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float v = load(x[base + c]) - mean;
    square = fma_rn(v, v, square);
  }
  square = block_reduce(square, sums, Sum{});
  const float rstd = inverse_root(float(double(square) / double(cols)), eps);
  for (int64_t c = threadIdx.x; c < cols; c += kThreads)
    store(y + base + c, fma_rn((load(x[base + c]) - mean) * rstd, load(w[c]), load(bias[c])));
  if (threadIdx.x > 0) return;
  if (mean_out) mean_out[blockIdx.x] = mean;
  if (rstd_out) rstd_out[blockIdx.x] = rstd;
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy w, xhat = (x - mean) rstd
template <class T, class W>
__global__ void __launch_bounds__(kThreads) layer_norm_grad_kernel(const T* dy, const T* x, const W* w, const float* mean_in, const float* rstd_in, const T* addend, T* dx, int64_t cols) {
  LATHE_SHARED(float, sums, 32);
  const int64_t base = int64_t(blockIdx.x) * cols;
  const float mean = mean_in[blockIdx.x], rstd = rstd_in[blockIdx.x];
  float g_sum = 0, gx_sum = 0;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float g = load(dy[base + c]) * load(w[c]);
    g_sum += g;
    gx_sum = fma_rn(g, (load(x[base + c]) - mean) * rstd, gx_sum);
  }
  g_sum = block_reduce(g_sum, sums, Sum{});
  gx_sum = block_reduce(gx_sum, sums, Sum{});
  const float a = float(double(g_sum) / double(cols)), b = float(double(gx_sum) / double(cols));
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float xhat = (load(x[base + c]) - mean) * rstd;
    const float d = fma_rn(-xhat, b, load(dy[base + c]) * load(w[c]) - a) * rstd;
    store(dx + base + c, addend ? d + load(addend[base + c]) : d);
  }
}

// dw = sum dy (x - mean) rstd, db = sum dy; mean null is 0. 32 columns by 8 row groups of threads.
template <class T>
__global__ void __launch_bounds__(256) weight_grad_kernel(const T* dy, const T* x, const float* mean, const float* rstd, float* dw, float* db, int64_t rows, int64_t cols) {
  LATHE_SHARED(float, shares, 2 * 256);
  const int lane = int(threadIdx.x % 32), group = int(threadIdx.x / 32);
  const int64_t c = int64_t(blockIdx.x) * 32 + lane;
  float w_sum = 0, b_sum = 0;
  if (c < cols)
    for (int64_t block = int64_t(group) * 64; block < rows; block += 8 * 64) {
      float w_part = 0, b_part = 0;
      for (int64_t r = block; r < block + 64 && r < rows; r++) {
        const float g = load(dy[r * cols + c]);
        w_part = fma_rn(g, (load(x[r * cols + c]) - (mean ? mean[r] : 0.0f)) * rstd[r], w_part);
        b_part += g;
      }
      w_sum += w_part;
      b_sum += b_part;
    }
  shares[threadIdx.x] = w_sum;
  shares[256 + threadIdx.x] = b_sum;
  block_sync();
  if (group > 0 || c >= cols) return;
  for (int g = 1; g < 8; g++) {
    w_sum += shares[g * 32 + lane];
    b_sum += shares[256 + g * 32 + lane];
  }
  if (dw) dw[c] = w_sum;
  if (db) db[c] = b_sum;
}

struct Norm {
  int64_t rows = 0, cols = 0;
  DType type = DType::F32, weight = DType::F32;
  float eps = 0, offset = 0;
  bool addend = false;
  bool empty() const { return rows * cols == 0; }
};
Status prepare_norm(NodeView& node, const TensorType& x, const TensorType& w, Norm* n) {
  LATHE_TRY(expect_float(node, x, "x"));
  LATHE_TRY(expect_float(node, w, "the weight"));
  n->rows = x.rows();
  n->cols = x.cols();
  n->type = x.dtype;
  n->weight = w.dtype;
  return expect_vector(node, w, w.dtype, n->cols, "the weight");
}
Status read_eps(NodeView& node, Norm* n) {
  double eps;
  LATHE_TRY(node.attributes.number("eps", &eps));
  n->eps = float(eps);
  return ok_status();
}
Status read_offset(NodeView& node, Norm* n) {
  bool offset;
  LATHE_TRY(flag(node, "unit_offset", &offset));
  n->offset = offset ? 1.0f : 0.0f;
  return ok_status();
}
Status expect_rows(const NodeView& node, const TensorType& t, const Norm& n, const char* what) {
  return expect_vector(node, t, DType::F32, n.rows, what);
}
template <class F>
Status with_types(const Norm& n, F&& fn) {
  return with_float(n.type, [&](auto t) { return with_float(n.weight, [&](auto w) { return fn(t, w); }); });
}

Status prepare_rms_norm(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 2));
  auto* n = plan->emplace<Norm>();
  LATHE_TRY(prepare_norm(node, node.inputs[0], node.inputs[1], n));
  LATHE_TRY(read_eps(node, n));
  LATHE_TRY(read_offset(node, n));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "y"));
  if (has_output(node, 1)) LATHE_TRY(expect_rows(node, node.outputs[1], *n, "rstd"));
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_rms_norm(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& n = plan.get<Norm>();
  if (n.empty()) return ok_status();
  return with_types(n, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    return launch(stream, rms_norm_kernel<T, W>, Grid(n.rows), kThreads, 0, b.in<T>(0), b.in<W>(1), n.offset, n.eps, b.out<T>(0), b.out<float>(1), n.cols);
  });
}

// dy, x, w, `statistics` rows, (addend) -> dx and `weights` optional vectors
Status prepare_grad(NodeView& node, size_t statistics, size_t weights, KernelPlan* plan, Norm** out) {
  auto* n = plan->emplace<Norm>();
  LATHE_TRY(flag(node, "addend", &n->addend));
  LATHE_TRY(expect_arity(node, 3 + statistics + n->addend, 1 + weights));
  LATHE_TRY(prepare_norm(node, node.inputs[1], node.inputs[2], n));
  LATHE_TRY(expect_same(node, node.inputs[1], node.inputs[0], "dy"));
  LATHE_TRY(expect_same(node, node.inputs[1], node.outputs[0], "dx"));
  for (size_t i = 0; i < statistics; i++) LATHE_TRY(expect_rows(node, node.inputs[3 + i], *n, "statistics"));
  for (size_t i = 1; i <= weights; i++)
    if (has_output(node, i)) LATHE_TRY(expect_vector(node, node.outputs[i], DType::F32, n->cols, "weight gradient"));
  plan->allow_alias(0, 0);
  if (n->addend) {
    LATHE_TRY(expect_same(node, node.outputs[0], node.inputs.back(), "addend"));
    plan->allow_alias(0, int(node.inputs.size()) - 1);
  }
  *out = n;
  return ok_status();
}
template <class T>
Status weight_grad(const Norm& n, const Buffers& b, Stream& stream, const float* mean, const float* rstd, float* dw, float* db) {
  if (!dw && !db) return ok_status();
  return launch(stream, weight_grad_kernel<T>, Grid(ceil_div(n.cols, 32)), 256, 0, b.in<T>(0), b.in<T>(1), mean, rstd, dw, db, n.rows, n.cols);
}

Status prepare_rms_norm_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Norm* n;
  LATHE_TRY(prepare_grad(node, 1, 1, plan, &n));
  LATHE_TRY(read_eps(node, n));
  return read_offset(node, n);
}
Status run_rms_norm_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& n = plan.get<Norm>();
  if (n.cols == 0) return ok_status();
  return with_types(n, [&](auto t, auto w) -> Status {
    using T = decltype(t);
    using W = decltype(w);
    LATHE_TRY(weight_grad<T>(n, b, stream, nullptr, b.in<float>(3), b.out<float>(1), nullptr));
    if (n.rows == 0) return ok_status();
    return launch(stream, rms_norm_grad_kernel<T, W>, Grid(n.rows), kThreads, 0, b.in<T>(0), b.in<T>(1), b.in<W>(2), n.offset, b.in<float>(3),
                  n.addend ? b.in<T>(4) : nullptr, b.out<T>(0), n.cols);
  });
}

Status prepare_layer_norm(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 3, 3));
  auto* n = plan->emplace<Norm>();
  LATHE_TRY(prepare_norm(node, node.inputs[0], node.inputs[1], n));
  LATHE_TRY(expect_same(node, node.inputs[1], node.inputs[2], "the bias"));
  LATHE_TRY(read_eps(node, n));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "y"));
  if (has_output(node, 1)) LATHE_TRY(expect_rows(node, node.outputs[1], *n, "mean"));
  if (has_output(node, 2)) LATHE_TRY(expect_rows(node, node.outputs[2], *n, "rstd"));
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_layer_norm(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& n = plan.get<Norm>();
  if (n.empty()) return ok_status();
  return with_types(n, [&](auto t, auto w) {
    using T = decltype(t);
    using W = decltype(w);
    return launch(stream, layer_norm_kernel<T, W>, Grid(n.rows), kThreads, 0, b.in<T>(0), b.in<W>(1), b.in<W>(2), n.eps, b.out<T>(0), b.out<float>(1), b.out<float>(2), n.cols);
  });
}
Status prepare_layer_norm_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Norm* n;
  return prepare_grad(node, 2, 2, plan, &n);
}
Status run_layer_norm_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& n = plan.get<Norm>();
  if (n.cols == 0) return ok_status();
  return with_types(n, [&](auto t, auto w) -> Status {
    using T = decltype(t);
    using W = decltype(w);
    LATHE_TRY(weight_grad<T>(n, b, stream, b.in<float>(3), b.in<float>(4), b.out<float>(1), b.out<float>(2)));
    if (n.rows == 0) return ok_status();
    return launch(stream, layer_norm_grad_kernel<T, W>, Grid(n.rows), kThreads, 0, b.in<T>(0), b.in<T>(1), b.in<W>(2), b.in<float>(3), b.in<float>(4),
                  n.addend ? b.in<T>(5) : nullptr, b.out<T>(0), n.cols);
  });
}

}  // namespace

LATHE_CUDA_KERNEL(rms_norm, prepare_rms_norm, run_rms_norm);
LATHE_CUDA_KERNEL(rms_norm_grad, prepare_rms_norm_grad, run_rms_norm_grad);
LATHE_CUDA_KERNEL(layer_norm, prepare_layer_norm, run_layer_norm);
LATHE_CUDA_KERNEL(layer_norm_grad, prepare_layer_norm_grad, run_layer_norm_grad);

}  // namespace lathe::cuda
