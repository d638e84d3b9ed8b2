// RMSNorm and LayerNorm over rows [T, D], forward and backward.
//
// Statistics are fp32 per row. The backward of the weights is a column sum over all T: it goes down column strips in
// blocks of 64 rows (fixed order for any thread count), in a pass of its own before dx, because dx may lie on dy. With
// frozen weights those outputs are absent and the pass does not run.
// Formulas: Zhang and Sennrich 2019 (RMSNorm), Ba et al. 2016 (LayerNorm).
//
// scratch(each) = 0
#include "common.h"

namespace lathe::cpu {
namespace {

struct Norm {
  int64_t rows = 0, cols = 0;
  DType type = DType::F32, weight = DType::F32;
  float eps = 0, offset = 0;
  bool addend = false;
  const void* row(const void* p, int64_t r) const { return at(p, r * cols, type); }
  void* row(void* p, int64_t r) const { return at(p, r * cols, type); }
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
  auto row = rows().rms_norm[int(n.type)][int(n.weight)];
  parallel_rows(stream, n.rows, n.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float rstd = row(n.row(b.inputs[0], r), b.inputs[1], n.offset, n.eps, n.row(b.outputs[0], r), n.cols);
      if (b.outputs[1]) b.out<float>(1)[r] = rstd;
    }
  });
  return ok_status();
}

// Adds the rows' shares to dw (and db): dw = sum dy (x - mean) rstd, db = sum dy. mean null is 0.
void weight_grad(const Norm& n, const void* dy, const void* x, const float* mean, const float* rstd, float* dw, float* db,
                 Stream& stream) {
  auto columns = rows().norm_columns[int(n.type)];
  parallel_wide_strips(stream, n.rows, n.cols, [&](int64_t col, int64_t width) {
    columns(at(dy, col, n.type), at(x, col, n.type), n.cols, mean, rstd, n.rows, dw ? dw + col : nullptr,
            db ? db + col : nullptr, width);
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

Status prepare_rms_norm_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Norm* n;
  LATHE_TRY(prepare_grad(node, 1, 1, plan, &n));
  LATHE_TRY(read_eps(node, n));
  return read_offset(node, n);
}
Status run_rms_norm_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& n = plan.get<Norm>();
  const float* rstd = b.in<float>(3);
  if (b.outputs[1]) weight_grad(n, b.inputs[0], b.inputs[1], nullptr, rstd, b.out<float>(1), nullptr, stream);
  auto row = rows().rms_norm_grad[int(n.type)][int(n.weight)];
  parallel_rows(stream, n.rows, n.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      row(n.row(b.inputs[0], r), n.row(b.inputs[1], r), b.inputs[2], n.offset, rstd[r],
          n.addend ? n.row(b.inputs[4], r) : nullptr, n.row(b.outputs[0], r), n.cols);
  });
  return ok_status();
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
  auto row = rows().layer_norm[int(n.type)][int(n.weight)];
  parallel_rows(stream, n.rows, n.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float mean, rstd;
      row(n.row(b.inputs[0], r), b.inputs[1], b.inputs[2], n.eps, n.row(b.outputs[0], r), &mean, &rstd, n.cols);
      if (b.outputs[1]) b.out<float>(1)[r] = mean;
      if (b.outputs[2]) b.out<float>(2)[r] = rstd;
    }
  });
  return ok_status();
}
Status prepare_layer_norm_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Norm* n;
  return prepare_grad(node, 2, 2, plan, &n);
}
Status run_layer_norm_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& n = plan.get<Norm>();
  const float *mean = b.in<float>(3), *rstd = b.in<float>(4);
  if (b.outputs[1] || b.outputs[2])
    weight_grad(n, b.inputs[0], b.inputs[1], mean, rstd, b.out<float>(1), b.out<float>(2), stream);
  auto row = rows().layer_norm_grad[int(n.type)][int(n.weight)];
  parallel_rows(stream, n.rows, n.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      row(n.row(b.inputs[0], r), n.row(b.inputs[1], r), b.inputs[2], mean[r], rstd[r],
          n.addend ? n.row(b.inputs[5], r) : nullptr, n.row(b.outputs[0], r), n.cols);
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(rms_norm, prepare_rms_norm, run_rms_norm);
LATHE_CPU_KERNEL(rms_norm_grad, prepare_rms_norm_grad, run_rms_norm_grad);
LATHE_CPU_KERNEL(layer_norm, prepare_layer_norm, run_layer_norm);
LATHE_CPU_KERNEL(layer_norm_grad, prepare_layer_norm_grad, run_layer_norm_grad);

}  // namespace lathe::cpu
