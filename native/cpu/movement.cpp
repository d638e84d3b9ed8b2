// Kernels that move values: transpose, gather_rows, scatter_rows, split_cols, concat_cols, cache_write.
//
// Bytes are copied as they are, whatever the dtype; only scatter_rows adds. It links the rows of dy that go to one
// output row into a chain (heads and links in scratch), so an output row is summed by one thread, in index order, in
// fp32, with one rounding.
//
// scratch(scatter_rows) = 4 * (n + rows_out)
// scratch(others) = 0
#include <vector>

#include "common.h"

namespace lathe::cpu {
namespace {

// A row of a matrix as bytes.
struct Rows {
  int64_t rows = 0, cols = 0, width = 0;  // width: bytes of one row
  DType type = DType::F32;
  int64_t table_rows = 0;
};
const char* row_at(const void* p, int64_t r, int64_t width) { return static_cast<const char*>(p) + r * width; }
char* row_at(void* p, int64_t r, int64_t width) { return static_cast<char*>(p) + r * width; }

// ---- transpose: 32 x 32 tiles through a buffer, so that rows a power of two apart do not fight for cache sets

template <class T>
void transpose_rows(const T* a, T* y, int64_t m, int64_t n, int64_t row, int64_t end) {
  T tile[32][33];
  for (int64_t col = 0; col < n; col += 32) {
    int64_t rows = end - row, cols = std::min<int64_t>(32, n - col);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) tile[c][r] = a[(row + r) * n + col + c];
    for (int64_t c = 0; c < cols; c++) std::memcpy(y + (col + c) * m + row, tile[c], size_t(rows) * sizeof(T));
  }
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
  int64_t tiles = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 32 * t.cols));
  parallel_range(stream, t.rows, 32 * tiles, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += 32) {
      int64_t stop = std::min(end, row + 32);
      switch (dtype_bytes(t.type)) {
        case 1: transpose_rows(b.in<uint8_t>(0), b.out<uint8_t>(0), t.rows, t.cols, row, stop); break;
        case 2: transpose_rows(b.in<uint16_t>(0), b.out<uint16_t>(0), t.rows, t.cols, row, stop); break;
        default: transpose_rows(b.in<uint32_t>(0), b.out<uint32_t>(0), t.rows, t.cols, row, stop);
      }
    }
  });
  return ok_status();
}

// ---- gather_rows, cache_write

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
  auto* index = b.in<int32_t>(1);
  parallel_rows(stream, g.rows, g.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      char* to = row_at(b.outputs[0], i, g.width);
      if (index[i] < 0 || index[i] >= g.table_rows)
        std::memset(to, 0, size_t(g.width));
      else
        std::memcpy(to, row_at(b.inputs[0], index[i], g.width), size_t(g.width));
    }
  });
  return ok_status();
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
// In index order on one thread: two writes to one row keep the later one, and a step writes a few rows only.
Status run_cache_write(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& w = plan.get<Rows>();
  auto* index = b.in<int32_t>(2);
  copy_bytes(stream, b.outputs[0], b.inputs[0], w.table_rows * w.width);
  for (int64_t i = 0; i < w.rows; i++)
    if (index[i] >= 0 && index[i] < w.table_rows)
      std::memcpy(row_at(b.outputs[0], index[i], w.width), row_at(b.inputs[1], i, w.width), size_t(w.width));
  return ok_status();
}

// ---- scatter_rows

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
  return expect_scratch(node, 4 * (s->rows + s->table_rows));
}
Status run_scatter(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& s = plan.get<Rows>();
  auto* index = b.in<int32_t>(1);
  auto* head = static_cast<int32_t*>(b.scratch);
  auto* next = head + s.table_rows;
  std::fill_n(head, s.table_rows, -1);
  for (int64_t i = s.rows - 1; i >= 0; i--) {
    if (index[i] < 0 || index[i] >= s.table_rows) continue;
    next[i] = head[index[i]];
    head[index[i]] = int32_t(i);
  }
  auto axpy = rows().axpy[int(s.type)];
  auto round = rows().from_f32[int(s.type)];
  int64_t width = s.cols * dtype_bytes(s.type);
  parallel_rows(stream, s.table_rows, s.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      char* to = row_at(b.outputs[0], r, width);
      if (head[r] < 0) {
        std::memset(to, 0, size_t(width));
      } else if (next[head[r]] < 0) {
        std::memcpy(to, row_at(b.inputs[0], head[r], width), size_t(width));
      } else {
        float sum[256];
        for (int64_t col = 0; col < s.cols; col += 256) {
          int64_t n = std::min<int64_t>(256, s.cols - col);
          std::fill_n(sum, n, 0.0f);
          for (int32_t i = head[r]; i >= 0; i = next[i]) axpy(1.0f, at(b.inputs[0], i * s.cols + col, s.type), sum, n);
          round(sum, at(static_cast<void*>(to), col, s.type), n);
        }
      }
    }
  });
  return ok_status();
}

// ---- split_cols, concat_cols: one wide matrix, several narrow ones

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
  for (size_t i = 0; i < sizes.size(); i++)
    LATHE_EXPECT(node, double(node.outputs[i].cols()) == sizes[i],
                 "output " + std::to_string(i) + " must have " + std::to_string(int64_t(sizes[i])) + " columns, got " +
                     describe(node.outputs[i]));
  return prepare_columns(node, node.inputs[0], node.outputs, plan);
}
Status run_split(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Columns>();
  parallel_rows(stream, c.rows, c.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const char* from = row_at(b.inputs[0], r, c.width);
      for (size_t i = 0; i < c.narrow.size(); from += c.narrow[i++])
        if (b.outputs[i]) std::memcpy(row_at(b.outputs[i], r, c.narrow[i]), from, size_t(c.narrow[i]));
    }
  });
  return ok_status();
}
Status prepare_concat(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_EXPECT(node, !node.inputs.empty() && node.outputs.size() == 1, "expected at least one input and one output");
  return prepare_columns(node, node.outputs[0], node.inputs, plan);
}
Status run_concat(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Columns>();
  parallel_rows(stream, c.rows, c.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      char* to = row_at(b.outputs[0], r, c.width);
      for (size_t i = 0; i < c.narrow.size(); to += c.narrow[i++])
        std::memcpy(to, row_at(b.inputs[i], r, c.narrow[i]), size_t(c.narrow[i]));
    }
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(transpose, prepare_transpose, run_transpose);
LATHE_CPU_KERNEL(gather_rows, prepare_gather, run_gather);
LATHE_CPU_KERNEL(scatter_rows, prepare_scatter, run_scatter);
LATHE_CPU_KERNEL(split_cols, prepare_split, run_split);
LATHE_CPU_KERNEL(concat_cols, prepare_concat, run_concat);
LATHE_CPU_KERNEL(cache_write, prepare_cache_write, run_cache_write);

}  // namespace lathe::cpu
