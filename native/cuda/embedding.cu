// Token embedding: a scaled row gather, and its gradient, a scatter-add in token order.
//
// The gradient's thread block belongs to a token; the first token with an id adds all rows of that id in order, the
// others leave. With the addend in place only the touched rows are read or written.
//
// scratch(embedding) = scratch(embedding_grad) = 0
#include "cuda/common.cuh"
#include "cuda/row_list.cuh"

namespace lathe::cuda {
namespace {

template <class TTable, class TOut>
__global__ void __launch_bounds__(256) embedding_kernel(const TTable* table, const int32_t* ids, TOut* y, int64_t vocab, int64_t cols, float scale) {
  const int64_t t = blockIdx.x, id = ids[t];
  const bool inside = id >= 0 && id < vocab;
  for (int64_t c = threadIdx.x; c < cols; c += blockDim.x)
    store(y + t * cols + c, inside ? mul_rn(load(table[id * cols + c]), scale) : bits_float(0x7fc00000u));
}

template <class T>
__global__ void __launch_bounds__(kListThreads) embedding_grad_kernel(const T* dy, const int32_t* ids, float* out, int64_t tokens, int64_t vocab, int64_t cols, float scale) {
  LATHE_SHARED(int32_t, list, kListRows);
  LATHE_SHARED(int32_t, counts, kListThreads / 32);
  const int64_t t = blockIdx.x;
  const int32_t id = ids[t];
  if (id < 0 || id >= vocab) return;
  unsigned earlier = 0;
  for (int64_t j = threadIdx.x; j < t; j += kListThreads) earlier |= unsigned(ids[j] == id);
  if (block_any(earlier)) return;
  float* row = out + int64_t(id) * cols;
  sum_listed_rows(ids, t, tokens, id, cols, list, counts,
                  [&](int64_t i, int64_t c) { return scale * load(dy[i * cols + c]); },
                  [&](int64_t c, float sum) { row[c] += sum; });
}

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
  if (e.tokens * e.cols == 0) return ok_status();
  return with_float(e.table, [&](auto a) {
    return with_float(e.out, [&](auto y) {
      using A = decltype(a);
      using Y = decltype(y);
      return launch(stream, embedding_kernel<A, Y>, Grid(e.tokens), e.cols > 128 ? 256u : 128u, 0, b.in<A>(0), b.in<int32_t>(1), b.out<Y>(0), e.vocab, e.cols, e.scale);
    });
  });
}

Status prepare_embedding_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  auto* e = plan->emplace<Lookup>();
  LATHE_TRY(flag(node, "addend", &e->addend));
  LATHE_TRY(expect_arity(node, e->addend ? 3 : 2, 1));
  auto& dy = node.inputs[0];
  LATHE_TRY(expect_float(node, dy, "dy"));
  LATHE_TRY(read_scale(node, e));
  LATHE_TRY(node.attributes.integer("vocab", &e->vocab));
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
  const auto bytes = uint64_t(e.vocab * e.cols * 4);
  if (bytes == 0) return ok_status();
  if (!e.addend) LATHE_TRY(zero_queued(queue_of(stream), b.outputs[0], bytes));
  else if (b.inputs[2] != b.outputs[0]) LATHE_TRY(copy_queued(queue_of(stream), b.outputs[0], b.inputs[2], bytes, CopyKind::OnDevice));
  if (e.tokens == 0) return ok_status();
  return with_float(e.table, [&](auto t) {
    using T = decltype(t);
    return launch(stream, embedding_grad_kernel<T>, Grid(e.tokens), kListThreads, 0, b.in<T>(0), b.in<int32_t>(1), b.out<float>(0), e.tokens, e.vocab, e.cols, e.scale);
  });
}

}  // namespace

LATHE_CUDA_KERNEL(embedding, prepare_embedding, run_embedding);
LATHE_CUDA_KERNEL(embedding_grad, prepare_embedding_grad, run_embedding_grad);

}  // namespace lathe::cuda
