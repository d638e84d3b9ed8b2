// Rotary position embedding (Su et al. 2021) in the rotate_half layout of transformers.
//
// The table is made once per step and shared by all layers. The angle is the fp32 product position * inv_freq, as the
// published checkpoints were trained with; its cosine and sine are taken in f64 and rounded once.
//
// scratch(rope_table) = scratch(rope) = 0
#include <cmath>
#include <vector>

#include "common.h"

namespace lathe::cpu {
namespace {

struct Table {
  int64_t rows = 0;
  std::vector<float> inv_freq;
  double scaling = 1;
};
Status prepare_table(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 2));
  auto* t = plan->emplace<Table>();
  std::vector<double> freq;
  LATHE_TRY(node.attributes.numbers("inv_freq", &freq));
  LATHE_TRY(node.attributes.number("attention_scaling", &t->scaling));
  t->inv_freq.assign(freq.begin(), freq.end());
  t->rows = node.inputs[0].numel();
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::I32, t->rows, "positions"));
  for (auto& y : node.outputs) LATHE_TRY(expect_vector(node, y, DType::F32, t->rows * int64_t(freq.size()), "table"));
  return ok_status();
}
Status run_table(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& t = plan.get<Table>();
  auto half = int64_t(t.inv_freq.size());
  // A cosine costs some 20 elements' worth of streaming.
  parallel_rows(stream, t.rows, 20 * half, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      float position = float(b.in<int32_t>(0)[r]);
      float *c = b.out<float>(0) + r * half, *s = b.out<float>(1) + r * half;
      for (int64_t j = 0; j < half; j++) {
        float angle = position * t.inv_freq[size_t(j)];
        c[j] = float(std::cos(double(angle)) * t.scaling);
        s[j] = float(std::sin(double(angle)) * t.scaling);
      }
    }
  });
  return ok_status();
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
  auto row = rows().rope[int(p.type)];
  parallel_rows(stream, p.rows, p.cols, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      row(at(b.inputs[0], r * p.cols, p.type), b.in<float>(1) + r * p.half, b.in<float>(2) + r * p.half, p.sign,
          p.cols / p.head_dim, p.head_dim, p.half, at(b.outputs[0], r * p.cols, p.type));
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(rope_table, prepare_table, run_table);
LATHE_CPU_KERNEL(rope, prepare_rope, run_rope);

}  // namespace lathe::cpu
