// Reductions: sum, sum_rows, global_norm.
//
// Full sums go by blocks of 4096 elements, fp32 within a block in a fixed tree, f64 across blocks in block order by one
// thread block at the end. All tensors of global_norm are one launch: the list of (pointer, length, first block) is
// passed 64 at a time. Column sums: a thread block owns 32 columns and goes down all rows.
//
// scratch(sum) = 8 * ceil(numel / 4096)
// scratch(sum_rows) = 0
// scratch(global_norm) = 8 * sum over inputs of ceil(numel / 4096)
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr int64_t kBlock = 4096;
constexpr unsigned kThreads = 256;
constexpr int kBatch = 64;
int64_t blocks_of(int64_t n) { return ceil_div(n, kBlock); }

struct Part {
  const void* data;
  int64_t n, first_block;
  int dtype;
};
struct Parts {
  Part part[kBatch];
  int count;
};

template <bool kSquares>
__global__ void __launch_bounds__(kThreads) partial_kernel(Parts parts, int64_t first, double* partial) {
  LATHE_SHARED(float, sums, 32);
  const int64_t block = first + blockIdx.x;
  int i = 0;
  while (i + 1 < parts.count && block >= parts.part[i + 1].first_block) i++;
  const Part& p = parts.part[i];
  const int64_t start = (block - p.first_block) * kBlock;
  float sum = 0;
  for (int k = int(threadIdx.x); k < kBlock; k += kThreads) {
    if (start + k >= p.n) break;
    const float x = load_as(p.data, start + k, p.dtype);
    sum = kSquares ? fma_rn(x, x, sum) : sum + x;
  }
  sum = block_reduce(sum, sums, Sum{});
  if (threadIdx.x == 0) partial[block] = double(sum);
}

// One block: threads add strided partial sums, then a fixed tree.
template <bool kRoot>
__global__ void __launch_bounds__(kThreads) total_kernel(const double* partial, int64_t n, float* out) {
  LATHE_SHARED(double, sums, 32);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) sum += partial[i];
  sum = block_reduce(sum, sums, Sum{});
  if (threadIdx.x == 0) *out = float(kRoot ? sqrt(sum) : sum);
}

struct Summed {
  std::vector<Part> parts;  // without pointers
  int64_t blocks = 0;
};
Status prepare_total(NodeView& node, KernelPlan* plan) {
  auto* s = plan->emplace<Summed>();
  for (auto& t : node.inputs) {
    LATHE_TRY(expect_float(node, t, "every input"));
    s->parts.push_back({nullptr, t.numel(), s->blocks, int(t.dtype)});
    s->blocks += blocks_of(t.numel());
  }
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, 1, "output"));
  return expect_scratch(node, 8 * s->blocks);
}
template <bool kSquares>
Status run_total(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& s = plan.get<Summed>();
  auto* partial = static_cast<double*>(b.scratch);
  for (size_t at = 0; at < s.parts.size(); at += kBatch) {
    Parts batch{};
    batch.count = int(std::min<size_t>(kBatch, s.parts.size() - at));
    for (int i = 0; i < batch.count; i++) {
      batch.part[i] = s.parts[at + size_t(i)];
      batch.part[i].data = b.inputs[at + size_t(i)];
    }
    const int64_t first = batch.part[0].first_block;
    const int64_t end = at + kBatch < s.parts.size() ? s.parts[at + kBatch].first_block : s.blocks;
    if (end > first) LATHE_TRY(launch(stream, partial_kernel<kSquares>, Grid(end - first), kThreads, 0, batch, first, partial));
  }
  return launch(stream, total_kernel<kSquares>, Grid(1), kThreads, 0, partial, s.blocks, b.out<float>(0));
}
Status prepare_sum(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  return prepare_total(node, plan);
}
Status prepare_global_norm(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_EXPECT(node, !node.inputs.empty() && node.outputs.size() == 1, "expected at least one input and one output");
  return prepare_total(node, plan);
}

// ---- sum_rows: 32 columns by 8 rows of threads

template <class T>
__global__ void __launch_bounds__(256) columns_kernel(const T* a, int64_t rows, int64_t cols, const float* addend, float* out) {
  LATHE_SHARED(float, sums, 8 * 32);
  const int lane = int(threadIdx.x % 32), group = int(threadIdx.x / 32);
  const int64_t col = int64_t(blockIdx.x) * 32 + lane;
  float sum = 0;
  if (col < cols)
    for (int64_t block = int64_t(group) * 64; block < rows; block += 8 * 64) {
      float part = 0;
      for (int64_t r = block; r < block + 64 && r < rows; r++) part += load(a[r * cols + col]);
      sum += part;
    }
  sums[threadIdx.x] = sum;
  block_sync();
  if (group > 0 || col >= cols) return;
  for (int g = 1; g < 8; g++) sum += sums[g * 32 + lane];
  out[col] = addend ? sum + addend[col] : sum;
}

struct Columns {
  int64_t rows = 0, cols = 0;
  DType type = DType::F32;
  bool addend = false;
};
Status prepare_sum_rows(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  auto* c = plan->emplace<Columns>();
  LATHE_TRY(flag(node, "addend", &c->addend));
  LATHE_TRY(expect_arity(node, c->addend ? 2 : 1, 1));
  LATHE_TRY(expect_float(node, node.inputs[0], "input 0"));
  c->rows = node.inputs[0].rows();
  c->cols = node.inputs[0].cols();
  c->type = node.inputs[0].dtype;
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, c->cols, "output"));
  if (!c->addend) return ok_status();
  plan->allow_alias(0, 1);
  return expect_vector(node, node.inputs[1], DType::F32, c->cols, "addend");
}
Status run_sum_rows(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Columns>();
  if (c.cols == 0) return ok_status();
  const float* addend = c.addend ? b.in<float>(1) : nullptr;
  return with_float(c.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, columns_kernel<T>, Grid(ceil_div(c.cols, 32)), 256, 0, b.in<T>(0), c.rows, c.cols, addend, b.out<float>(0));
  });
}

}  // namespace

LATHE_CUDA_KERNEL(sum, prepare_sum, run_total<false>);
LATHE_CUDA_KERNEL(sum_rows, prepare_sum_rows, run_sum_rows);
LATHE_CUDA_KERNEL(global_norm, prepare_global_norm, run_total<true>);

}  // namespace lathe::cuda
