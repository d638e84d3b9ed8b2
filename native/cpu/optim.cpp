// Optimizer steps over all parameters in one call: AdamW in fp32 (Loshchilov and Hutter, 1711.05101, in torch's order:
// decay, moments, update) and with block-wise 8-bit moments (Dettmers et al., 2110.02861; decay before the update).
//
// The parameters are cut into pieces once, at prepare; a step hands the pieces to the pool, so a thousand small LoRA
// matrices cost one dispatch. Bias corrections are computed in double from the step, which counts from 1.
//
// scratch(adamw) = scratch(adamw_8bit) = 0
#include <cmath>
#include <vector>

#include "common.h"

namespace lathe::cpu {
namespace {

constexpr int64_t kBlock = 256;

struct Piece {
  int parameter;
  int64_t start, n;
};
struct Adam {
  double beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
  std::vector<DType> type;  // of each parameter
  std::vector<Piece> pieces;
};

// Reads attributes and the three scalars, cuts the parameters. `per` tensors for each come in, p and g first; all but g go out.
Status prepare_adam(NodeView& node, size_t per, int64_t grain, KernelPlan* plan, Adam** out) {
  auto* a = plan->emplace<Adam>();
  int64_t count;
  LATHE_TRY(node.attributes.integer("count", &count));
  LATHE_TRY(node.attributes.number("beta1", &a->beta1));
  LATHE_TRY(node.attributes.number("beta2", &a->beta2));
  LATHE_TRY(node.attributes.number("eps", &a->eps));
  LATHE_TRY(node.attributes.number("weight_decay", &a->weight_decay));
  LATHE_EXPECT(node, count >= 0, "count must not be negative");
  LATHE_TRY(expect_arity(node, 3 + per * size_t(count), (per - 1) * size_t(count)));
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, 1, "lr"));
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, 1, "step"));
  LATHE_TRY(expect_vector(node, node.inputs[2], DType::F32, 1, "grad_scale"));
  for (int i = 0; i < count; i++) {
    const size_t in = 3 + per * size_t(i), out = (per - 1) * size_t(i);
    auto& p = node.inputs[in];
    LATHE_TRY(expect_float(node, p, "a parameter"));
    LATHE_TRY(expect_same(node, p, node.outputs[out], "an updated parameter"));
    LATHE_TRY(expect_vector(node, node.inputs[in + 1], DType::F32, p.numel(), "a gradient"));
    plan->allow_alias(int(out), int(in));
    for (size_t k = 2; k < per; k++) plan->allow_alias(int(out + k - 1), int(in + k));
    a->type.push_back(p.dtype);
    for (int64_t s = 0; s < p.numel(); s += grain) a->pieces.push_back({i, s, std::min(grain, p.numel() - s)});
  }
  *out = a;
  return ok_status();
}

AdamwScalars scalars_of(const Adam& a, const Buffers& b) {
  double lr = b.in<float>(0)[0];
  int32_t step = b.in<int32_t>(1)[0];
  AdamwScalars s;
  s.grad_scale = b.in<float>(2)[0];
  s.decay = float(1 - lr * a.weight_decay);
  s.beta1 = float(a.beta1);
  s.beta2 = float(a.beta2);
  s.one_minus_beta1 = float(1 - a.beta1);
  s.one_minus_beta2 = float(1 - a.beta2);
  s.root_correction2 = float(std::sqrt(1 - std::pow(a.beta2, step)));
  s.step_size = float(lr / (1 - std::pow(a.beta1, step)));
  s.eps = float(a.eps);
  return s;
}

// Small pieces are handed out several at a time; bounds depend on the list only.
template <class F>
void over_pieces(Stream& stream, const Adam& a, F&& fn) {
  parallel_range(stream, int64_t(a.pieces.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) fn(a.pieces[size_t(i)]);
  });
}

Status prepare_adamw(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Adam* a;
  LATHE_TRY(prepare_adam(node, 4, 8192, plan, &a));
  for (size_t i = 0; i < a->type.size(); i++) {
    int64_t n = node.inputs[3 + 4 * i].numel();
    for (size_t k = 1; k <= 2; k++) {
      LATHE_TRY(expect_vector(node, node.inputs[4 + 4 * i + k], DType::F32, n, "a moment"));
      LATHE_TRY(expect_vector(node, node.outputs[3 * i + k], DType::F32, n, "an updated moment"));
    }
  }
  return ok_status();
}
Status run_adamw(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& a = plan.get<Adam>();
  AdamwScalars s = scalars_of(a, b);
  auto& table = rows();
  over_pieces(stream, a, [&](const Piece& piece) {
    DType t = a.type[size_t(piece.parameter)];
    int in = 3 + 4 * piece.parameter, out = 3 * piece.parameter;
    table.adamw[int(t)](&s, at(b.inputs[in], piece.start, t), b.in<float>(in + 1) + piece.start,
                        b.in<float>(in + 2) + piece.start, b.in<float>(in + 3) + piece.start,
                        at(b.outputs[out], piece.start, t), b.out<float>(out + 1) + piece.start,
                        b.out<float>(out + 2) + piece.start, piece.n);
  });
  return ok_status();
}

Status prepare_adamw_8bit(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Adam* a;
  LATHE_TRY(prepare_adam(node, 6, 8 * kBlock, plan, &a));
  for (size_t i = 0; i < a->type.size(); i++) {
    int64_t n = node.inputs[3 + 6 * i].numel(), blocks = (n + kBlock - 1) / kBlock;
    for (size_t k = 1; k <= 4; k++) {
      DType t = k <= 2 ? DType::U8 : DType::F32;
      LATHE_TRY(expect_vector(node, node.inputs[4 + 6 * i + k], t, k <= 2 ? n : blocks, "a state"));
      LATHE_TRY(expect_vector(node, node.outputs[5 * i + k], t, k <= 2 ? n : blocks, "an updated state"));
    }
  }
  return ok_status();
}
Status run_adamw_8bit(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& a = plan.get<Adam>();
  AdamwScalars s = scalars_of(a, b);
  auto& table = rows();
  over_pieces(stream, a, [&](const Piece& piece) {
    DType t = a.type[size_t(piece.parameter)];
    int in = 3 + 6 * piece.parameter, out = 5 * piece.parameter;
    for (int64_t start = piece.start; start < piece.start + piece.n; start += kBlock) {
      int64_t n = std::min(kBlock, piece.start + piece.n - start), block = start / kBlock;
      table.adamw_8bit[int(t)](&s, at(b.inputs[in], start, t), b.in<float>(in + 1) + start,
                               b.in<uint8_t>(in + 2) + start, b.in<uint8_t>(in + 3) + start, b.in<float>(in + 4)[block],
                               b.in<float>(in + 5)[block], at(b.outputs[out], start, t), b.out<uint8_t>(out + 1) + start,
                               b.out<uint8_t>(out + 2) + start, b.out<float>(out + 3) + block,
                               b.out<float>(out + 4) + block, n);
    }
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(adamw, prepare_adamw, run_adamw);
LATHE_CPU_KERNEL(adamw_8bit, prepare_adamw_8bit, run_adamw_8bit);

}  // namespace lathe::cpu
