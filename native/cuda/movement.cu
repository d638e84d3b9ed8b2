// Kernels that move values: transpose, gather_rows, scatter_rows, split_cols, concat_cols, cache_write.
//
// Bytes are copied as they are, whatever the dtype; only scatter_rows adds. There one thread block owns an output row:
// it lists the input rows that go there, in index order, and adds them in fp32 with one rounding. cache_write keeps the
// last of several writes to one row: the block of an earlier one sees a later one and leaves.
//
// scratch(each) = 0: the CPU's links are not needed here
#include "cuda/common.cuh"
#include "cuda/row_list.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 256;

// A row of a matrix in units of its widest aligned copy.
struct Rows {
  int64_t rows = 0, cols = 0, width = 0;  // width: bytes of one row
  DType type = DType::F32;
  int64_t table_rows = 0;
};

// The widest unit that divides every number of bytes given.
int unit_of(int64_t bytes) { return bytes % 16 == 0 ? 16 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1; }
struct alignas(16) Wide { uint32_t w[4]; };
template <class F>
Status with_unit(int unit, F&& fn) {
  switch (unit) {
    case 16: return fn(Wide{});
    case 4: return fn(uint32_t{});
    case 2: return fn(uint16_t{});
    default: return fn(uint8_t{});
  }
}
unsigned threads_for(int64_t units) { return units >= 256 ? 256 : units > 128 ? 256 : units > 64 ? 128 : units > 32 ? 64 : 32; }

// ---- transpose: 32 x 32 tiles

template <class T>
__global__ void __launch_bounds__(256) transpose_kernel(const T* a, T* y, int64_t m, int64_t n) {
  LATHE_SHARED(T, tile, 32 * 33);
  const int x = int(threadIdx.x % 32), y0 = int(threadIdx.x / 32);
  const int64_t tiles = (n + 31) / 32, row = int64_t(blockIdx.x) / tiles * 32, col = int64_t(blockIdx.x) % tiles * 32;
  for (int r = y0; r < 32; r += 8)
    if (row + r < m && col + x < n) tile[r * 33 + x] = a[(row + r) * n + col + x];
  block_sync();
  for (int c = y0; c < 32; c += 8)
    if (col + c < n && row + x < m) y[(col + c) * m + row + x] = tile[x * 33 + c];
}
Status prepare_transpose(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  auto &a = node.inputs[0], &y = node.outputs[0];
  LATHE_EXPECT(node, a.rank == 2 && y.rank == 2 && a.dtype == y.dtype && a.shape[0] == y.shape[1] && a.shape[1] == y.shape[0],
               "expected [M, N] to [N, M], got " + describe(a) + " to " + describe(y));
  auto* t = plan->emplace<Rows>();
  t->rows = a.shape[0];
  t->cols = a.shape[1];
  t->type = a.dtype;
  return ok_status();
}
Status run_transpose(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& t = plan.get<Rows>();
  if (t.rows * t.cols == 0) return ok_status();
  return with_unit(int(dtype_bytes(t.type)), [&](auto u) {
    using T = decltype(u);
    return launch(stream, transpose_kernel<T>, Grid(ceil_div(t.rows, 32) * ceil_div(t.cols, 32)), kThreads, 0, b.in<T>(0), b.out<T>(0), t.rows, t.cols);
  });
}

// ---- gather_rows, cache_write

template <class T>
__global__ void __launch_bounds__(256) gather_kernel(const T* a, const int32_t* index, T* y, int64_t units, int64_t table_rows) {
  const int64_t i = blockIdx.x, from = index[i];
  const bool inside = from >= 0 && from < table_rows;
  for (int64_t k = threadIdx.x; k < units; k += blockDim.x) y[i * units + k] = inside ? a[from * units + k] : T{};
}
Status prepare_gather(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  auto &a = node.inputs[0], &y = node.outputs[0];
  auto* g = plan->emplace<Rows>();
  g->table_rows = a.rows();
  g->cols = a.cols();
  g->width = a.cols() * dtype_bytes(a.dtype);
  g->rows = node.inputs[1].numel();
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, g->rows, "rows"));
  LATHE_EXPECT(node, y.dtype == a.dtype && y.cols() == a.cols() && y.rows() == g->rows,
               "expected one row of " + describe(a) + " per index, got " + describe(y));
  return ok_status();
}
Status run_gather(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& g = plan.get<Rows>();
  if (g.rows * g.width == 0) return ok_status();
  const int unit = unit_of(g.width);
  return with_unit(unit, [&](auto u) {
    using T = decltype(u);
    return launch(stream, gather_kernel<T>, Grid(g.rows), threads_for(g.width / unit), 0, b.in<T>(0), b.in<int32_t>(1),
                  b.out<T>(0), g.width / unit, g.table_rows);
  });
}

template <class T>
__global__ void __launch_bounds__(256) cache_kernel(const T* x, const int32_t* index, T* cache, int64_t rows, int64_t units, int64_t table_rows) {
  const int64_t i = blockIdx.x, to = index[i];
  if (to < 0 || to >= table_rows) return;
  unsigned later = 0;
  for (int64_t j = i + 1 + threadIdx.x; j < rows; j += blockDim.x) later |= unsigned(index[j] == to);
  if (block_any(later)) return;
  for (int64_t k = threadIdx.x; k < units; k += blockDim.x) cache[to * units + k] = x[i * units + k];
}
Status prepare_cache_write(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 3, 1));
  auto &cache = node.inputs[0], &x = node.inputs[1];
  LATHE_TRY(expect_same(node, cache, node.outputs[0], "output"));
  auto* w = plan->emplace<Rows>();
  w->table_rows = cache.rows();
  w->cols = cache.cols();
  w->width = cache.cols() * dtype_bytes(cache.dtype);
  w->rows = x.rows();
  LATHE_EXPECT(node, x.dtype == cache.dtype && x.cols() == cache.cols(),
               "x must have the cache's columns and dtype: " + describe(cache) + ", got " + describe(x));
  LATHE_TRY(expect_vector(node, node.inputs[2], DType::I32, w->rows, "rows"));
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_cache_write(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& w = plan.get<Rows>();
  const int64_t bytes = w.table_rows * w.width;
  if (bytes > 0 && b.inputs[0] != b.outputs[0])
    LATHE_TRY(copy_queued(queue_of(stream), b.outputs[0], b.inputs[0], uint64_t(bytes), CopyKind::OnDevice));
  if (w.rows * w.width == 0) return ok_status();
  const int unit = unit_of(w.width);
  return with_unit(unit, [&](auto u) {
    using T = decltype(u);
    return launch(stream, cache_kernel<T>, Grid(w.rows), threads_for(w.width / unit), 0, b.in<T>(1), b.in<int32_t>(2),
                  b.out<T>(0), w.rows, w.width / unit, w.table_rows);
  });
}

// ---- scatter_rows

template <class T>
__global__ void __launch_bounds__(kListThreads) scatter_kernel(const T* dy, const int32_t* index, T* y, int64_t n, int64_t cols) {
  LATHE_SHARED(int32_t, list, kListRows);
  LATHE_SHARED(int32_t, counts, kListThreads / 32);
  const int64_t row = blockIdx.x;
  sum_listed_rows(index, int64_t(0), n, int32_t(row), cols, list, counts,
                  [&](int64_t i, int64_t c) { return load(dy[i * cols + c]); },
                  [&](int64_t c, float sum) { store(y + row * cols + c, sum); });
}
Status prepare_scatter(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  auto &dy = node.inputs[0], &y = node.outputs[0];
  LATHE_TRY(expect_float(node, dy, "dy"));
  auto* s = plan->emplace<Rows>();
  LATHE_TRY(node.attributes.integer("rows_out", &s->table_rows));
  s->rows = dy.rows();
  s->cols = dy.cols();
  s->type = dy.dtype;
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, s->rows, "rows"));
  LATHE_EXPECT(node, y.dtype == dy.dtype && y.cols() == s->cols && y.rows() == s->table_rows,
               "expected rows_out rows like those of " + describe(dy) + ", got " + describe(y));
  return ok_status();
}
Status run_scatter(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& s = plan.get<Rows>();
  if (s.table_rows * s.cols == 0) return ok_status();
  return with_float(s.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, scatter_kernel<T>, Grid(s.table_rows), kListThreads, 0, b.in<T>(0), b.in<int32_t>(1), b.out<T>(0), s.rows, s.cols);
  });
}

// ---- split_cols, concat_cols: one wide matrix, several narrow ones; one launch per part

template <class T>
__global__ void __launch_bounds__(256) columns_kernel(const T* from, int64_t from_units, T* to, int64_t to_units, int64_t units) {
  const int64_t row = blockIdx.x;
  for (int64_t k = threadIdx.x; k < units; k += blockDim.x) to[row * to_units + k] = from[row * from_units + k];
}
struct Columns {
  int64_t rows = 0, cols = 0, width = 0;
  std::vector<int64_t> narrow;  // bytes of one row of each part
};
Status prepare_columns(NodeView& node, const TensorType& wide, const std::vector<TensorType>& parts, KernelPlan* plan) {
  auto* c = plan->emplace<Columns>();
  c->rows = wide.rows();
  c->cols = wide.cols();
  c->width = c->cols * dtype_bytes(wide.dtype);
  int64_t total = 0;
  for (size_t i = 0; i < parts.size(); i++) {
    auto& p = parts[i];
    LATHE_EXPECT(node, p.rank == 2 && p.dtype == wide.dtype && p.shape[0] == c->rows,
                 "part " + std::to_string(i) + " must be " + name_of(wide.dtype) + " with " + std::to_string(c->rows) +
                     " rows, got " + describe(p));
    c->narrow.push_back(p.shape[1] * dtype_bytes(p.dtype));
    total += p.shape[1];
  }
  LATHE_EXPECT(node, wide.rank == 2 && total == c->cols,
               "the parts have " + std::to_string(total) + " columns together, the whole is " + describe(wide));
  return ok_status();
}
Status prepare_split(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  std::vector<double> sizes;
  LATHE_TRY(node.attributes.numbers("sizes", &sizes));
  LATHE_TRY(expect_arity(node, 1, sizes.size()));
  std::vector<TensorType> parts;
  for (size_t i = 0; i < sizes.size(); i++) {
    TensorType p = node.outputs[i];
    if (!has_output(node, i)) p = node.inputs[0], p.shape[1] = int64_t(sizes[i]);
    LATHE_EXPECT(node, double(p.cols()) == sizes[i],
                 "output " + std::to_string(i) + " must have " + std::to_string(int64_t(sizes[i])) + " columns, got " + describe(p));
    parts.push_back(p);
  }
  return prepare_columns(node, node.inputs[0], parts, plan);
}
Status move_columns(const Columns& c, Stream& stream, size_t part, int64_t offset, const void* from, void* to, bool split) {
  const int64_t width = c.narrow[part];
  if (width * c.rows == 0) return ok_status();
  int64_t common = c.width | offset | width;  // its lowest set bit divides all three
  const int unit = unit_of(common & -common);
  return with_unit(unit, [&](auto u) {
    using T = decltype(u);
    const int64_t whole = c.width / unit, narrow = width / unit;
    const T* source = static_cast<const T*>(from) + (split ? offset / unit : 0);
    T* target = static_cast<T*>(to) + (split ? 0 : offset / unit);
    return launch(stream, columns_kernel<T>, Grid(c.rows), threads_for(narrow), 0, source, split ? whole : narrow, target,
                  split ? narrow : whole, narrow);
  });
}
Status run_split(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Columns>();
  int64_t offset = 0;
  for (size_t i = 0; i < c.narrow.size(); offset += c.narrow[i++])
    if (b.outputs[i]) LATHE_TRY(move_columns(c, stream, i, offset, b.inputs[0], b.outputs[i], true));
  return ok_status();
}
Status prepare_concat(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_EXPECT(node, !node.inputs.empty() && node.outputs.size() == 1, "expected at least one input and one output");
  return prepare_columns(node, node.outputs[0], node.inputs, plan);
}
Status run_concat(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Columns>();
  int64_t offset = 0;
  for (size_t i = 0; i < c.narrow.size(); offset += c.narrow[i++])
    LATHE_TRY(move_columns(c, stream, i, offset, b.inputs[i], b.outputs[0], false));
  return ok_status();
}

}  // namespace

LATHE_CUDA_KERNEL(transpose, prepare_transpose, run_transpose);
LATHE_CUDA_KERNEL(gather_rows, prepare_gather, run_gather);
LATHE_CUDA_KERNEL(scatter_rows, prepare_scatter, run_scatter);
LATHE_CUDA_KERNEL(split_cols, prepare_split, run_split);
LATHE_CUDA_KERNEL(concat_cols, prepare_concat, run_concat);
LATHE_CUDA_KERNEL(cache_write, prepare_cache_write, run_cache_write);

}  // namespace lathe::cuda
