// Elementwise kernels: add, mul, scale, scale_by, cast, copy, expand, activation(_grad), glu(_grad),
// clip_coefficient, fill.
//
// One kernel template walks a tensor: a thread moves 16 bytes of the widest operand at a time (buffers are aligned to
// 64), and the functor sees fp32. Every output may lie exactly on an input of its own size: an element is loaded and
// stored by the same thread.
//
// scratch(each) = 0
#include "cuda/activation.cuh"
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack { T at[kCount]; };

template <class TIn, class TOut, int kIn, int kOut, class F>
__global__ void __launch_bounds__(kThreads) map_kernel(Inputs<kIn> in, Outputs<kOut> out, int64_t n, F f) {
  constexpr int kWide = sizeof(TIn) > sizeof(TOut) ? int(sizeof(TIn)) : int(sizeof(TOut));
  constexpr int kCount = 16 / kWide;
  const int64_t start = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kCount;
  if (start >= n) return;
  Pack<TIn, kCount> x[kIn == 0 ? 1 : kIn];
  Pack<TOut, kCount> y[kOut];
  const bool whole = start + kCount <= n;
  const int count = whole ? kCount : int(n - start);
#pragma unroll
  for (int i = 0; i < kIn; i++) {
    const TIn* from = static_cast<const TIn*>(in.p[i]) + start;
    if (whole) x[i] = *reinterpret_cast<const Pack<TIn, kCount>*>(from);
    else
#pragma unroll
      for (int j = 0; j < kCount; j++) x[i].at[j] = from[j < count ? j : 0];
  }
#pragma unroll
  for (int j = 0; j < kCount; j++) {
    float a[kIn == 0 ? 1 : kIn], b[kOut];
#pragma unroll
    for (int i = 0; i < kIn; i++) a[i] = load(x[i].at[j]);
    f(a, b);
#pragma unroll
    for (int i = 0; i < kOut; i++) store(&y[i].at[j], b[i]);
  }
#pragma unroll
  for (int i = 0; i < kOut; i++) {
    TOut* to = static_cast<TOut*>(out.p[i]) + start;
    if (!to) continue;
    if (whole) *reinterpret_cast<Pack<TOut, kCount>*>(to) = y[i];
    else
#pragma unroll
      for (int j = 0; j < kCount; j++)
        if (j < count) to[j] = y[i].at[j];
  }
}

template <class TIn, class TOut, int kIn, int kOut, class F>
Status map(Stream& stream, const Buffers& b, int64_t n, F f) {
  if (n == 0) return ok_status();
  Inputs<kIn> in{};
  Outputs<kOut> out{};
  for (int i = 0; i < kIn; i++) in.p[i] = b.inputs[i];
  for (int i = 0; i < kOut; i++) out.p[i] = b.outputs[i];
  constexpr int kWide = sizeof(TIn) > sizeof(TOut) ? int(sizeof(TIn)) : int(sizeof(TOut));
  return launch(stream, map_kernel<TIn, TOut, kIn, kOut, F>, Grid(ceil_div(n, int64_t(kThreads) * (16 / kWide))),
                kThreads, 0, in, out, n, f);
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

template <int kIn, int kOut, class F>
Status run_map(const Map& m, const Buffers& b, Stream& stream, F f) {
  return with_float(m.type, [&](auto t) { return map<decltype(t), decltype(t), kIn, kOut>(stream, b, m.n, f); });
}

// ---- add, mul, scale, scale_by

struct Add { __device__ void operator()(const float (&a)[2], float (&y)[1]) const { y[0] = add_rn(a[0], a[1]); } };
struct Mul { __device__ void operator()(const float (&a)[2], float (&y)[1]) const { y[0] = mul_rn(a[0], a[1]); } };
struct Scale {
  float factor;
  __device__ void operator()(const float (&a)[1], float (&y)[1]) const { y[0] = mul_rn(a[0], factor); }
};
struct ScaleBy {
  const float* factor;
  __device__ void operator()(const float (&a)[1], float (&y)[1]) const { y[0] = mul_rn(a[0], *factor); }
};

Status prepare_binary(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* m;
  return prepare_map(node, 2, 1, plan, &m);
}
Status run_add(const KernelPlan& plan, const Buffers& b, Stream& s) { return run_map<2, 1>(plan.get<Map>(), b, s, Add{}); }
Status run_mul(const KernelPlan& plan, const Buffers& b, Stream& s) { return run_map<2, 1>(plan.get<Map>(), b, s, Mul{}); }

Status prepare_scale(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* m;
  LATHE_TRY(prepare_map(node, 1, 1, plan, &m));
  double factor;
  LATHE_TRY(node.attributes.number("factor", &factor));
  m->factor = float(factor);
  return ok_status();
}
Status run_scale(const KernelPlan& plan, const Buffers& b, Stream& s) {
  return run_map<1, 1>(plan.get<Map>(), b, s, Scale{plan.get<Map>().factor});
}
Status prepare_scale_by(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 2, 1));
  LATHE_TRY(expect_float(node, node.inputs[0], "input 0"));
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::F32, 1, "the scalar"));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "output"));
  plan->allow_alias(0, 0);
  auto* m = plan->emplace<Map>();
  m->n = node.inputs[0].numel();
  m->type = node.inputs[0].dtype;
  return ok_status();
}
Status run_scale_by(const KernelPlan& plan, const Buffers& b, Stream& s) {
  return run_map<1, 1>(plan.get<Map>(), b, s, ScaleBy{b.in<float>(1)});
}

// ---- cast, copy

struct Same { __device__ void operator()(const float (&a)[1], float (&y)[1]) const { y[0] = a[0]; } };

Status copy_bytes(Stream& stream, const Buffers& b, int64_t bytes) {
  if (bytes == 0 || b.inputs[0] == b.outputs[0]) return ok_status();
  return copy_queued(queue_of(stream), b.outputs[0], b.inputs[0], uint64_t(bytes), CopyKind::OnDevice);
}
Status prepare_cast(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  auto &a = node.inputs[0], &y = node.outputs[0];
  LATHE_EXPECT(node, a.dtype <= DType::F16 && y.dtype <= DType::F16,
               "casts among f32, bf16 and f16, got " + describe(a) + " to " + describe(y));
  LATHE_EXPECT(node, same_shape(a, y), "shapes differ: " + describe(a) + " to " + describe(y));
  if (a.dtype == y.dtype) plan->allow_alias(0, 0);
  auto* m = plan->emplace<Map>();
  m->n = a.numel();
  m->type = a.dtype;
  m->out_type = y.dtype;
  return ok_status();
}
Status run_cast(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& m = plan.get<Map>();
  if (m.type == m.out_type) return copy_bytes(stream, b, m.n * dtype_bytes(m.type));
  return with_any_float(m.type, [&](auto from) {
    return with_any_float(m.out_type, [&](auto to) { return map<decltype(from), decltype(to), 1, 1>(stream, b, m.n, Same{}); });
  });
}
Status prepare_copy(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  LATHE_TRY(expect_same(node, node.inputs[0], node.outputs[0], "output"));
  plan->allow_alias(0, 0);
  plan->emplace<Map>()->n = node.inputs[0].bytes();
  return ok_status();
}
Status run_copy(const KernelPlan& plan, const Buffers& b, Stream& stream) { return copy_bytes(stream, b, plan.get<Map>().n); }

// ---- expand, fill

struct FromScalar {
  const float* value;
  __device__ void operator()(const float (&)[1], float (&y)[1]) const { y[0] = *value; }
};
template <class T>
__global__ void __launch_bounds__(kThreads) fill_kernel(T* out, int64_t n, T value) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) out[i] = value;
}

struct Fill {
  int64_t n = 0;
  DType type = DType::F32;
  double value = 0;
};
Status prepare_expand(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  int64_t n;
  LATHE_TRY(node.attributes.integer("n", &n));
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, 1, "the scalar"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::F32, n, "output"));
  plan->emplace<Fill>()->n = n;
  return ok_status();
}
Status run_expand(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  return map<float, float, 0, 1>(stream, b, plan.get<Fill>().n, FromScalar{b.in<float>(0)});
}
Status prepare_fill(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 0, 1));
  auto* f = plan->emplace<Fill>();
  LATHE_TRY(node.attributes.number("value", &f->value));
  f->type = node.outputs[0].dtype;
  f->n = node.outputs[0].numel();
  if (f->type == DType::I32) LATHE_EXPECT(node, f->value >= -2147483648.0 && f->value <= 2147483647.0, "value does not fit i32");
  if (f->type == DType::U8) LATHE_EXPECT(node, f->value >= 0 && f->value <= 255, "value does not fit u8");
  return ok_status();
}
struct Constant {
  float value;
  __device__ void operator()(const float (&)[1], float (&y)[1]) const { y[0] = value; }
};
Status run_fill(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& f = plan.get<Fill>();
  if (f.n == 0) return ok_status();
  const Grid grid(ceil_div(f.n, kThreads));
  if (f.type == DType::I32) return launch(stream, fill_kernel<int32_t>, grid, kThreads, 0, b.out<int32_t>(0), f.n, int32_t(f.value));
  if (f.type == DType::U8) return launch(stream, fill_kernel<uint8_t>, grid, kThreads, 0, b.out<uint8_t>(0), f.n, uint8_t(f.value));
  return with_any_float(f.type, [&](auto t) { return map<float, decltype(t), 0, 1>(stream, b, f.n, Constant{float(f.value)}); });
}

// ---- activations

template <class Act>
struct Value { __device__ void operator()(const float (&a)[1], float (&y)[1]) const { y[0] = Act::value(a[0]); } };
template <class Act>
struct Gradient {
  __device__ void operator()(const float (&a)[2], float (&y)[1]) const { y[0] = a[0] * Act::both(a[1]).slope; }
};
template <class Act>
struct Glu {
  __device__ void operator()(const float (&a)[2], float (&y)[1]) const { y[0] = Act::value(a[0]) * a[1]; }
};
template <class Act>
struct GluGradient {
  __device__ void operator()(const float (&a)[3], float (&y)[2]) const {
    const Slope s = Act::both(a[1]);
    y[0] = a[0] * a[2] * s.slope;
    y[1] = a[0] * s.value;
  }
};

template <class F>
Status with_activation(int kind, F&& fn) {
  switch (kind) {
    case 0: return fn(Gelu{});
    case 1: return fn(GeluTanh{});
    case 2: return fn(Relu{});
    case 3: return fn(Silu{});
    case 4: return fn(Tanh{});
    case 5: return fn(Sigmoid{});
    default: return fn(Exp{});
  }
}
template <class F>
Status with_gate(int kind, F&& fn) {
  return kind == 0 ? fn(Gelu{}) : kind == 1 ? fn(GeluTanh{}) : fn(Silu{});
}
Status read_kind(NodeView& node, Map* m, bool gate) {
  static const char* const names[] = {"gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "exp"};
  std::string kind;
  LATHE_TRY(node.attributes.string("kind", &kind));
  for (int i = 0; i < 7; i++) {
    if (kind != names[i]) continue;
    m->kind = i;
    LATHE_EXPECT(node, !gate || i == 0 || i == 1 || i == 3, "kind must be silu, gelu or gelu_tanh");
    return ok_status();
  }
  return node.fail("kind must be gelu, gelu_tanh, relu, silu, tanh, sigmoid or exp, got " + kind);
}
Status prepare_activation(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* m;
  LATHE_TRY(prepare_map(node, 1, 1, plan, &m));
  return read_kind(node, m, false);
}
Status run_activation(const KernelPlan& plan, const Buffers& b, Stream& s) {
  auto& m = plan.get<Map>();
  return with_activation(m.kind, [&](auto act) { return run_map<1, 1>(m, b, s, Value<decltype(act)>{}); });
}
Status prepare_activation_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* m;
  LATHE_TRY(prepare_map(node, 2, 1, plan, &m));
  return read_kind(node, m, false);
}
Status run_activation_grad(const KernelPlan& plan, const Buffers& b, Stream& s) {
  auto& m = plan.get<Map>();
  return with_activation(m.kind, [&](auto act) { return run_map<2, 1>(m, b, s, Gradient<decltype(act)>{}); });
}
Status prepare_glu(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* m;
  LATHE_TRY(prepare_map(node, 2, 1, plan, &m));
  return read_kind(node, m, true);
}
Status run_glu(const KernelPlan& plan, const Buffers& b, Stream& s) {
  auto& m = plan.get<Map>();
  return with_gate(m.kind, [&](auto act) { return run_map<2, 1>(m, b, s, Glu<decltype(act)>{}); });
}
Status prepare_glu_grad(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Map* m;
  LATHE_TRY(prepare_map(node, 3, 2, plan, &m));
  return read_kind(node, m, true);
}
Status run_glu_grad(const KernelPlan& plan, const Buffers& b, Stream& s) {
  auto& m = plan.get<Map>();
  return with_gate(m.kind, [&](auto act) { return run_map<3, 2>(m, b, s, GluGradient<decltype(act)>{}); });
}

// ---- clip_coefficient: torch's clip_grad_norm_; a NaN norm stays NaN

__global__ void clip_kernel(const float* norm, float* out, float max_norm) {
  if (threadIdx.x > 0) return;
  const float c = div_rn(max_norm, add_rn(*norm, 1e-6f));
  *out = max_norm <= 0 || c > 1.0f ? 1.0f : c;
}
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
Status run_clip(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  return launch(stream, clip_kernel, Grid(1), 32, 0, b.in<float>(0), b.out<float>(0), plan.get<Map>().factor);
}

}  // namespace

LATHE_CUDA_KERNEL(add, prepare_binary, run_add);
LATHE_CUDA_KERNEL(mul, prepare_binary, run_mul);
LATHE_CUDA_KERNEL(scale, prepare_scale, run_scale);
LATHE_CUDA_KERNEL(scale_by, prepare_scale_by, run_scale_by);
LATHE_CUDA_KERNEL(cast, prepare_cast, run_cast);
LATHE_CUDA_KERNEL(copy, prepare_copy, run_copy);
LATHE_CUDA_KERNEL(expand, prepare_expand, run_expand);
LATHE_CUDA_KERNEL(fill, prepare_fill, run_fill);
LATHE_CUDA_KERNEL(activation, prepare_activation, run_activation);
LATHE_CUDA_KERNEL(activation_grad, prepare_activation_grad, run_activation_grad);
LATHE_CUDA_KERNEL(glu, prepare_glu, run_glu);
LATHE_CUDA_KERNEL(glu_grad, prepare_glu_grad, run_glu_grad);
LATHE_CUDA_KERNEL(clip_coefficient, prepare_clip, run_clip);

}  // namespace lathe::cuda
