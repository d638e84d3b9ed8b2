// Elementwise kernels: add, mul, scale, scale_by, cast, copy, expand, activation(_grad), glu(_grad),
// clip_coefficient, fill.
//
// The idea: a tensor is one row of numel elements, cut into chunks of kGrain; isa/rows.h does the arithmetic in fp32
// and rounds once. Every output may lie exactly on an input of its own size: a row primitive loads before it stores.
//
// scratch(each) = 0
#include "common.h"

namespace lathe::cpu {
namespace {

template <class F>
void over_elements(Stream& stream, int64_t n, F&& fn) {
  parallel_range(stream, n, kGrain, [&](int64_t begin, int64_t end) { fn(begin, end - begin); });
}

struct Map {
  int64_t n = 0;
  DType type = DType::F32, out_type = DType::F32;
  int kind = 0;
  float factor = 0;
};

// Inputs and output all of one float type; every alias allowed.
Status prepare_map(NodeView& node, size_t inputs, size_t outputs, KernelPlan* plan, Map** out) {
  LATHE_TRY(expect_arity(node, inputs, outputs));
  LATHE_TRY(expect_float(node, node.inputs[0], "input 0"));
  for (size_t i = 1; i < inputs; i++) LATHE_TRY(expect_same(node, node.inputs[0], node.inputs[i], "every input"));
  for (size_t o = 0; o < outputs; o++) {
    LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[o], "output"));
    for (size_t i = 0; i < inputs; i++) plan->allow_alias(int(o), int(i));
  }
  *out = plan->emplace<Map>();
  (*out)->n = node.inputs[0].numel();
  (*out)->type = (*out)->out_type = node.inputs[0].dtype;
  return ok_status();
}

// ---- add, mul

Status prepare_binary(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* map;
  return prepare_map(node, 2, 1, plan, &map);
}
using BinaryRow = void (*)(const void*, const void*, void*, int64_t);
Status run_binary(BinaryRow row, const Map& map, const Buffers& b, Stream& stream) {
  DType t = map.type;
  over_elements(stream, map.n, [&](int64_t i, int64_t n) {
    row(at(b.inputs[0], i, t), at(b.inputs[1], i, t), at(b.outputs[0], i, t), n);
  });
  return ok_status();
}
Status run_add(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  return run_binary(rows().add[int(map.type)], map, b, stream);
}
Status run_mul(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  return run_binary(rows().mul[int(map.type)], map, b, stream);
}

// ---- scale, scale_by

Status prepare_scale(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* map;
  LATHE_TRY(prepare_map(node, 1, 1, plan, &map));
  double factor;
  LATHE_TRY(node.attributes.number("factor", &factor));
  map->factor = float(factor);
  return ok_status();
}
Status prepare_scale_by(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  LATHE_TRY(expect_float(node, node.inputs[0], "input 0"));
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::F32, 1, "the scalar"));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "output"));
  plan->allow_alias(0, 0);
  auto* map = plan->emplace<Map>();
  map->n = node.inputs[0].numel();
  map->type = node.inputs[0].dtype;
  return ok_status();
}
Status run_scaled(const Map& map, float factor, const Buffers& b, Stream& stream) {
  auto row = rows().scale[int(map.type)][int(map.type)];
  over_elements(stream, map.n, [&](int64_t i, int64_t n) {
    row(at(b.inputs[0], i, map.type), factor, at(b.outputs[0], i, map.type), n);
  });
  return ok_status();
}
Status run_scale(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  return run_scaled(plan.get<Map>(), plan.get<Map>().factor, b, stream);
}
Status run_scale_by(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  return run_scaled(plan.get<Map>(), b.in<float>(1)[0], b, stream);
}

// ---- cast, copy

Status prepare_cast(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  auto &a = node.inputs[0], &y = node.outputs[0];
  LATHE_EXPECT(node, a.dtype <= DType::F16 && y.dtype <= DType::F16,
               "casts among f32, bf16 and f16, got " + describe(a) + " to " + describe(y));
  LATHE_EXPECT(node, same_shape(a, y), "shapes differ: " + describe(a) + " to " + describe(y));
  if (a.dtype == y.dtype) plan->allow_alias(0, 0);
  auto* map = plan->emplace<Map>();
  map->n = a.numel();
  map->type = a.dtype;
  map->out_type = y.dtype;
  return ok_status();
}
Status run_cast(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  if (map.type == map.out_type) return copy_bytes(stream, b.outputs[0], b.inputs[0], map.n * dtype_bytes(map.type)), ok_status();
  auto up = rows().to_f32[int(map.type)];
  auto down = rows().from_f32[int(map.out_type)];
  over_elements(stream, map.n, [&](int64_t i, int64_t n) {
    const void* x = at(b.inputs[0], i, map.type);
    void* y = at(b.outputs[0], i, map.out_type);
    if (map.type == DType::F32) return down(static_cast<const float*>(x), y, n);
    if (map.out_type == DType::F32) return up(x, static_cast<float*>(y), n);
    float piece[512];  // bf16 <-> f16 goes through fp32, which holds both exactly
    for (int64_t j = 0; j < n; j += 512) {
      int64_t m = std::min<int64_t>(512, n - j);
      up(at(x, j, map.type), piece, m);
      down(piece, at(y, j, map.out_type), m);
    }
  });
  return ok_status();
}
Status prepare_copy(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "output"));
  plan->allow_alias(0, 0);
  plan->emplace<Map>()->n = node.inputs[0].bytes();
  return ok_status();
}
Status run_copy(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  copy_bytes(stream, b.outputs[0], b.inputs[0], plan.get<Map>().n);
  return ok_status();
}

// ---- expand, fill: one element's bytes, repeated

struct Pattern {
  int64_t n = 0, width = 4;
  unsigned char bytes[4] = {0, 0, 0, 0};
};
void repeat(Stream& stream, void* out, const void* element, int64_t width, int64_t n) {
  over_elements(stream, n, [&](int64_t begin, int64_t count) {
    auto to = static_cast<char*>(out) + begin * width;
    if (width == 1) return (void)std::memset(to, *static_cast<const unsigned char*>(element), size_t(count));
    if (width == 2) return (void)std::fill_n(reinterpret_cast<uint16_t*>(to), count, *static_cast<const uint16_t*>(element));
    std::fill_n(reinterpret_cast<uint32_t*>(to), count, *static_cast<const uint32_t*>(element));
  });
}
Status prepare_expand(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  int64_t n;
  LATHE_TRY(node.attributes.integer("n", &n));
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, 1, "the scalar"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, n, "output"));
  plan->emplace<Pattern>()->n = n;
  return ok_status();
}
Status run_expand(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  repeat(stream, b.outputs[0], b.inputs[0], 4, plan.get<Pattern>().n);
  return ok_status();
}
Status prepare_fill(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 0, 1));
  double value;
  LATHE_TRY(node.attributes.number("value", &value));
  auto* p = plan->emplace<Pattern>();
  DType t = node.outputs[0].dtype;
  p->n = node.outputs[0].numel();
  p->width = dtype_bytes(t);
  if (t <= DType::F16) {
    float f = float(value);
    rows().from_f32[int(t)](&f, p->bytes, 1);
  } else if (t == DType::I32) {
    LATHE_EXPECT(node, value >= -2147483648.0 && value <= 2147483647.0, "value does not fit i32");
    int32_t i = int32_t(value);
    std::memcpy(p->bytes, &i, 4);
  } else {
    LATHE_EXPECT(node, value >= 0 && value <= 255, "value does not fit u8");
    p->bytes[0] = static_cast<unsigned char>(value);
  }
  return ok_status();
}
Status run_fill(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& p = plan.get<Pattern>();
  repeat(stream, b.outputs[0], p.bytes, p.width, p.n);
  return ok_status();
}

// ---- activations and gated units

Status prepare_activation(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* map;
  LATHE_TRY(prepare_map(node, 1, 1, plan, &map));
  return activation_kind(node, &map->kind);
}
Status run_activation(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  auto row = rows().activation[map.kind][int(map.type)];
  over_elements(stream, map.n,
                [&](int64_t i, int64_t n) { row(at(b.inputs[0], i, map.type), at(b.outputs[0], i, map.type), n); });
  return ok_status();
}
Status prepare_activation_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* map;
  LATHE_TRY(prepare_map(node, 2, 1, plan, &map));
  return activation_kind(node, &map->kind);
}
Status run_activation_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  return run_binary(rows().activation_grad[map.kind][int(map.type)], map, b, stream);
}
Status gate_kind(NodeView& node, Map* map) {
  LATHE_TRY(activation_kind(node, &map->kind));
  LATHE_EXPECT(node, rows().glu[map->kind][0], "kind must be silu, gelu or gelu_tanh");
  return ok_status();
}
Status prepare_glu(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* map;
  LATHE_TRY(prepare_map(node, 2, 1, plan, &map));
  return gate_kind(node, map);
}
Status run_glu(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  return run_binary(rows().glu[map.kind][int(map.type)], map, b, stream);
}
Status prepare_glu_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* map;
  LATHE_TRY(prepare_map(node, 3, 2, plan, &map));
  return gate_kind(node, map);
}
Status run_glu_grad(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& map = plan.get<Map>();
  auto row = rows().glu_grad[map.kind][int(map.type)];
  DType t = map.type;
  over_elements(stream, map.n, [&](int64_t i, int64_t n) {
    row(at(b.inputs[0], i, t), at(b.inputs[1], i, t), at(b.inputs[2], i, t), at(b.outputs[0], i, t),
        at(b.outputs[1], i, t), n);
  });
  return ok_status();
}

// ---- clip_coefficient: torch's clip_grad_norm_, min(1, max_norm / (norm + 1e-6)); a NaN norm stays NaN

Status prepare_clip(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, 1, "norm"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, 1, "output"));
  double max_norm;
  LATHE_TRY(node.attributes.number("max_norm", &max_norm));
  plan->emplace<Map>()->factor = float(max_norm);
  plan->allow_alias(0, 0);
  return ok_status();
}
Status run_clip(const KernelPlan& plan, const Buffers& b, Stream&) {
  float max_norm = plan.get<Map>().factor;
  float c = max_norm / (b.in<float>(0)[0] + 1e-6f);
  b.out<float>(0)[0] = max_norm <= 0 || c > 1.0f ? 1.0f : c;
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(add, prepare_binary, run_add);
LATHE_CPU_KERNEL(mul, prepare_binary, run_mul);
LATHE_CPU_KERNEL(scale, prepare_scale, run_scale);
LATHE_CPU_KERNEL(scale_by, prepare_scale_by, run_scale_by);
LATHE_CPU_KERNEL(cast, prepare_cast, run_cast);
LATHE_CPU_KERNEL(copy, prepare_copy, run_copy);
LATHE_CPU_KERNEL(expand, prepare_expand, run_expand);
LATHE_CPU_KERNEL(fill, prepare_fill, run_fill);
LATHE_CPU_KERNEL(activation, prepare_activation, run_activation);
LATHE_CPU_KERNEL(activation_grad, prepare_activation_grad, run_activation_grad);
LATHE_CPU_KERNEL(glu, prepare_glu, run_glu);
LATHE_CPU_KERNEL(glu_grad, prepare_glu_grad, run_glu_grad);
LATHE_CPU_KERNEL(clip_coefficient, prepare_clip, run_clip);

}  // namespace lathe::cpu
