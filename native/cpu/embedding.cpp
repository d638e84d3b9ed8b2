// Token embedding: a scaled row gather, and its gradient, a scatter-add in token order.
//
// The gradient goes down column strips: one thread adds all tokens' pieces of a strip in order, so the sum is the same
// for any thread count and needs no sorting. With the addend in place only the touched rows are read or written.
//
// scratch(embedding) = scratch(embedding_grad) = 0
#include <limits>

#include "common.h"

namespace lathe::cpu {
namespace {

struct Lookup {
  int64_t vocab = 0, tokens = 0, cols = 0;
  DType table = DType::F32, out = DType::F32;
  float scale = 1;
  bool addend = false;
};
Status read_scale(NodeView& node, Lookup* e) {
  double scale;
  LATHE_TRY(node.attributes.number("scale", &scale));
  e->scale = float(scale);
  return ok_status();
}

Status prepare_embedding(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  auto &table = node.inputs[0], &y = node.outputs[0];
  LATHE_TRY(expect_float(node, table, "the table"));
  LATHE_TRY(expect_float(node, y, "output"));
  auto* e = plan->emplace<Lookup>();
  LATHE_TRY(read_scale(node, e));
  e->vocab = table.rows();
  e->cols = table.cols();
  e->tokens = node.inputs[1].numel();
  e->table = table.dtype;
  e->out = y.dtype;
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, e->tokens, "ids"));
  LATHE_EXPECT(node, y.cols() == e->cols && y.rows() == e->tokens,
               "expected one row of " + describe(table) + " per id, got " + describe(y));
  return ok_status();
}
Status run_embedding(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& e = plan.get<Lookup>();
  auto scale = rows().scale[int(e.table)][int(e.out)];
  auto* ids = b.in<int32_t>(1);
  parallel_rows(stream, e.tokens, e.cols, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      void* to = at(b.outputs[0], t * e.cols, e.out);
      if (ids[t] >= 0 && ids[t] < e.vocab) {
        scale(at(b.inputs[0], ids[t] * e.cols, e.table), e.scale, to, e.cols);
      } else if (e.out == DType::F32) {
        std::fill_n(static_cast<float*>(to), e.cols, std::numeric_limits<float>::quiet_NaN());
      } else {
        std::fill_n(static_cast<uint16_t*>(to), e.cols, uint16_t(0x7fc0));
      }
    }
  });
  return ok_status();
}

Status prepare_embedding_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  auto* e = plan->emplace<Lookup>();
  LATHE_TRY(flag(node, "addend", &e->addend));
  LATHE_TRY(expect_arity(node, e->addend ? 3 : 2, 1));
  auto& dy = node.inputs[0];
  LATHE_TRY(expect_float(node, dy, "dy"));
  LATHE_TRY(read_scale(node, e));
  LATHE_TRY(node.attributes.integer("vocab", &e->vocab));
  LATHE_EXPECT(node, e->vocab >= 0 && e->vocab <= std::numeric_limits<int32_t>::max(), "vocab is out of range");
  e->tokens = dy.rows();
  e->cols = dy.cols();
  e->table = dy.dtype;
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, e->tokens, "ids"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, e->vocab * e->cols, "output"));
  if (!e->addend) return ok_status();
  plan->allow_alias(0, 2);
  return expect_same(node, node.outputs[0], node.inputs[2], "addend");
}
Status run_embedding_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& e = plan.get<Lookup>();
  auto axpy = rows().axpy[int(e.table)];
  auto* ids = b.in<int32_t>(1);
  float* out = b.out<float>(0);
  if (e.addend)
    copy_bytes(stream, out, b.inputs[2], e.vocab * e.cols * 4);
  else
    zero_bytes(stream, out, e.vocab * e.cols * 4);
  parallel_strips(stream, e.tokens, e.cols, [&](int64_t first, int64_t width) {
    for (int64_t t = 0; t < e.tokens; t++)
      if (ids[t] >= 0 && ids[t] < e.vocab)
        axpy(e.scale, at(b.inputs[0], t * e.cols + first, e.table), out + ids[t] * e.cols + first, width);
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(embedding, prepare_embedding, run_embedding);
LATHE_CPU_KERNEL(embedding_grad, prepare_embedding_grad, run_embedding_grad);

}  // namespace lathe::cpu
