// Reductions: sum, sum_rows, global_norm.
//
// Full sums go by blocks of 4096 elements: each block in fp32 by the row primitive's fixed order, block sums in f64 in
// block order. Column sums go down column strips, 64 rows in fp32 at a time (kRowBlock), in row order: no partial results of
// threads are ever combined, so any thread count gives the same bits.
//
// scratch(sum) = 8 * ceil(numel / 4096)
// scratch(sum_rows) = 0
// scratch(global_norm) = 8 * sum over inputs of ceil(numel / 4096)
#include <cmath>
#include <vector>

#include "common.h"

namespace lathe::cpu {
namespace {

constexpr int64_t kBlock = 4096;
int64_t blocks_of(int64_t n) { return (n + kBlock - 1) / kBlock; }

struct Summed {
  std::vector<int64_t> n;
  std::vector<DType> type;
  std::vector<int64_t> first_block;  // of input i; one past the last at the end
};

Status prepare_total(NodeView& node, KernelPlan* plan) {
  auto* s = plan->emplace<Summed>();
  int64_t blocks = 0;
  for (auto& t : node.inputs) {
    LATHE_TRY(expect_float(node, t, "every input"));
    s->n.push_back(t.numel());
    s->type.push_back(t.dtype);
    s->first_block.push_back(blocks);
    blocks += blocks_of(t.numel());
  }
  s->first_block.push_back(blocks);
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, 1, "output"));
  return expect_scratch(node, 8 * blocks);
}
template <class Row>
double total(const Summed& s, const Buffers& b, Stream& stream, Row row) {
  auto* partial = static_cast<double*>(b.scratch);
  int64_t blocks = s.first_block.back();
  parallel_range(stream, blocks, 4, [&](int64_t begin, int64_t end) {
    size_t input = size_t(std::upper_bound(s.first_block.begin(), s.first_block.end(), begin) - s.first_block.begin()) - 1;
    for (int64_t block = begin; block < end; block++) {
      while (block >= s.first_block[input + 1]) input++;
      int64_t start = (block - s.first_block[input]) * kBlock;
      partial[block] = row(s.type[input], at(b.inputs[input], start, s.type[input]), std::min(kBlock, s.n[input] - start));
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < blocks; i++) sum += partial[i];
  return sum;
}

Status prepare_sum(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  return prepare_total(node, plan);
}
Status run_sum(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& table = rows();
  b.out<float>(0)[0] = float(total(plan.get<Summed>(), b, stream,
                                   [&](DType t, const void* x, int64_t n) { return table.sum[int(t)](x, n); }));
  return ok_status();
}
Status prepare_global_norm(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_EXPECT(node, !node.inputs.empty() && node.outputs.size() == 1, "expected at least one input and one output");
  return prepare_total(node, plan);
}
Status run_global_norm(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& table = rows();
  b.out<float>(0)[0] = float(std::sqrt(total(
      plan.get<Summed>(), b, stream, [&](DType t, const void* x, int64_t n) { return table.sum_squares[int(t)](x, n); })));
  return ok_status();
}

// ---- sum_rows

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
  auto sum_columns = rows().sum_columns[int(c.type)];
  const float* addend = c.addend ? b.in<float>(1) : nullptr;
  parallel_wide_strips(stream, c.rows, c.cols, [&](int64_t first, int64_t width) {
    if (!addend) return sum_columns(at(b.inputs[0], first, c.type), c.cols, c.rows, b.out<float>(0) + first, width);
    for (int64_t col = first; col < first + width; col += kStrip) {
      int64_t w = std::min<int64_t>(kStrip, first + width - col);
      float sum[kStrip];  // the output may lie on the addend
      sum_columns(at(b.inputs[0], col, c.type), c.cols, c.rows, sum, w);
      for (int64_t j = 0; j < w; j++) b.out<float>(0)[col + j] = sum[j] + addend[col + j];
    }
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(sum, prepare_sum, run_sum);
LATHE_CPU_KERNEL(sum_rows, prepare_sum_rows, run_sum_rows);
LATHE_CPU_KERNEL(global_norm, prepare_global_norm, run_global_norm);

}  // namespace lathe::cpu
