// Optimizer steps over all parameters in one launch: AdamW in fp32 (Loshchilov and Hutter, 1711.05101, in torch's order:
// decay, moments, update) and with block-wise 8-bit moments (Dettmers et al., 2110.02861; decay before the update).
//
// The parameters are cut into pieces once, at prepare: one thread block each. The table of pieces and pointers lies in
// device memory, allocated at prepare; it is written at the first run and again only when a pointer has changed, which
// happens when the arena grows. Bias corrections are computed in double from the step, which counts from 1.
//
// scratch(adamw) = scratch(adamw_8bit) = 0
#include <memory>

#include "cuda/code_tables.cuh"
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kPiece = 2048;
constexpr unsigned kThreads = 256;

// What one thread block works on: elements [start, start + n) of a parameter.
struct Piece {
  int32_t parameter, n;
  int64_t start;
};
struct Parameter {
  const void* in[6];
  void* out[5];  // in's, without the gradient
  int32_t dtype, unused;
};

struct Hyper { double beta1, beta2, eps, weight_decay; };
struct Scalars { float grad_scale, decay, beta1, beta2, one_minus_beta1, one_minus_beta2, root_correction2, step_size, eps; };

__device__ __forceinline__ Scalars scalars_of(const Hyper& h, const float* lr_in, const int32_t* step, const float* grad_scale) {
  const double lr = *lr_in, t = *step;
  Scalars s;
  s.grad_scale = *grad_scale;
  s.decay = float(1 - lr * h.weight_decay);
  s.beta1 = float(h.beta1);
  s.beta2 = float(h.beta2);
  s.one_minus_beta1 = float(1 - h.beta1);
  s.one_minus_beta2 = float(1 - h.beta2);
  s.root_correction2 = float(sqrt(1 - pow(h.beta2, t)));
  s.step_size = float(lr / (1 - pow(h.beta1, t)));
  s.eps = float(h.eps);
  return s;
}

// The scalars need two double-precision powers: once per block.
__device__ __forceinline__ Scalars shared_scalars(Scalars* place, const Hyper& h, const float* lr, const int32_t* step, const float* grad_scale) {
  if (threadIdx.x == 0) *place = scalars_of(h, lr, step, grad_scale);
  block_sync();
  return *place;
}

__global__ void __launch_bounds__(kThreads) adamw_kernel(const Piece* pieces, const Parameter* parameters, Hyper hyper, const float* lr, const int32_t* step, const float* grad_scale) {
  LATHE_SHARED(Scalars, place, 1);
  const Scalars s = shared_scalars(place, hyper, lr, step, grad_scale);
  const Piece piece = pieces[blockIdx.x];
  const Parameter& q = parameters[piece.parameter];
  const float root = div_rn(1.0f, s.root_correction2);
  for (int k = int(threadIdx.x); k < piece.n; k += kThreads) {
    const int64_t i = piece.start + k;
    const float grad = static_cast<const float*>(q.in[1])[i] * s.grad_scale, old = static_cast<const float*>(q.in[2])[i];
    const float first = fma_rn(grad - old, s.one_minus_beta1, old);
    const float second = fma_rn(grad * grad, s.one_minus_beta2, static_cast<const float*>(q.in[3])[i] * s.beta2);
    const float denominator = fma_rn(sqrt_rn(second), root, s.eps);
    const float p = mul_rn(load_as(q.in[0], i, q.dtype), s.decay);
    static_cast<float*>(q.out[1])[i] = first;
    static_cast<float*>(q.out[2])[i] = second;
    store_as(q.out[0], i, q.dtype, fma_rn(-div_rn(first, denominator), s.step_size, p));
  }
}

// A gradient that is not finite zeroes its moments and leaves p. One quantisation block of 256 per turn.
__global__ void __launch_bounds__(kThreads) adamw_8bit_kernel(const Piece* pieces, const Parameter* parameters, Hyper hyper, const float* lr, const int32_t* step, const float* grad_scale) {
  LATHE_SHARED(Scalars, place, 1);
  LATHE_SHARED(float, map1, 256);
  LATHE_SHARED(float, map2, 256);
  LATHE_SHARED(float, sums, 32);
  map1[threadIdx.x] = kDynamicSigned[threadIdx.x];
  map2[threadIdx.x] = kDynamicUnsigned[threadIdx.x];
  const Scalars s = shared_scalars(place, hyper, lr, step, grad_scale);
  const Piece piece = pieces[blockIdx.x];
  const Parameter& q = parameters[piece.parameter];
  const float eps = mul_rn(s.eps, s.root_correction2), step_size = mul_rn(s.step_size, s.root_correction2);
  for (int turn = 0; turn < piece.n; turn += int(kBlock)) {
    const int64_t i = piece.start + turn + threadIdx.x, block = (piece.start + turn) / kBlock;
    const bool mine = turn + int(threadIdx.x) < piece.n;
    const float old1 = static_cast<const float*>(q.in[4])[block], old2 = static_cast<const float*>(q.in[5])[block];
    float m = 0, v = 0;
    if (mine) {
      const float grad = static_cast<const float*>(q.in[1])[i] * s.grad_scale, w = load_as(q.in[0], i, q.dtype);
      const bool good = (float_bits(grad) & 0x7f800000u) != 0x7f800000u;
      if (good) {
        m = fma_rn(mul_rn(map1[static_cast<const uint8_t*>(q.in[2])[i]], old1), s.beta1, mul_rn(s.one_minus_beta1, grad));
        v = fma_rn(mul_rn(map2[static_cast<const uint8_t*>(q.in[3])[i]], old2), s.beta2, mul_rn(mul_rn(s.one_minus_beta2, grad), grad));
      }
      const float moved = fma_rn(-div_rn(m, add_rn(sqrt_rn(v), eps)), step_size, mul_rn(w, s.decay));
      store_as(q.out[0], i, q.dtype, good ? moved : w);
    }
    const float top1 = block_reduce(fabsf(m), sums, Max{});
    const float top2 = block_reduce(v, sums, Max{});
    if (threadIdx.x == 0) {
      static_cast<float*>(q.out[3])[block] = top1;
      static_cast<float*>(q.out[4])[block] = top2;
    }
    if (!mine) continue;
    // A block of zeros takes the codes of 0. A negative moment must not lose its sign to code 127 (zero): it takes 126.
    int c = top1 > 0 ? nearest_code(map1, div_rn(m, top1)) : 127;
    if (m < 0 && c >= 127) c = 126;
    static_cast<uint8_t*>(q.out[1])[i] = uint8_t(c);
    static_cast<uint8_t*>(q.out[2])[i] = uint8_t(top2 > 0 ? nearest_code(map2, div_rn(v, top2)) : 0);
  }
}

// Device memory of the plan: the pieces, then the parameters.
struct Table {
  int device = 0;
  void* data = nullptr;
  std::vector<Parameter> sent;  // what the device has
  bool pieces_sent = false;
  ~Table() {
    if (data) release_device(device, data);
  }
};
struct Adam {
  Hyper hyper{};
  std::vector<Parameter> parameters;  // dtypes
  std::vector<Piece> pieces;
  size_t per = 0;  // tensors of a parameter that come in
  std::shared_ptr<Table> table = std::make_shared<Table>();
  uint64_t piece_bytes() const { return uint64_t(round_up(int64_t(pieces.size() * sizeof(Piece)), 256)); }
};

// Reads attributes and the three scalars, cuts the parameters. `per` tensors for each come in, p and g first; all but g go out.
Status prepare_adam(NodeView& node, const DeviceSpec& device, size_t per, KernelPlan* plan) {
  auto* a = plan->emplace<Adam>();
  int64_t count;
  LATHE_TRY(node.attributes.integer("count", &count));
  LATHE_TRY(node.attributes.number("beta1", &a->hyper.beta1));
  LATHE_TRY(node.attributes.number("beta2", &a->hyper.beta2));
  LATHE_TRY(node.attributes.number("eps", &a->hyper.eps));
  LATHE_TRY(node.attributes.number("weight_decay", &a->hyper.weight_decay));
  LATHE_EXPECT(node, count >= 0, "count must not be negative");
  LATHE_TRY(expect_arity(node, 3 + per * size_t(count), (per - 1) * size_t(count)));
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, 1, "lr"));
  LATHE_TRY(expect_vector(node, node.inputs[1], DType::I32, 1, "step"));
  LATHE_TRY(expect_vector(node, node.inputs[2], DType::F32, 1, "grad_scale"));
  a->per = per;
  const bool narrow = per == 6;
  for (int i = 0; i < count; i++) {
    const size_t in = 3 + per * size_t(i), out = (per - 1) * size_t(i);
    auto& p = node.inputs[in];
    const int64_t n = p.numel(), blocks = ceil_div(n, kBlock);
    LATHE_TRY(expect_float(node, p, "a parameter"));
    LATHE_TRY(expect_same(node, p, node.outputs[out], "an updated parameter"));
    LATHE_TRY(expect_vector(node, node.inputs[in + 1], DType::F32, n, "a gradient"));
    plan->allow_alias(int(out), int(in));
    for (size_t k = 2; k < per; k++) {
      const bool code = narrow && k <= 3;
      const int64_t size = narrow && k > 3 ? blocks : n;
      LATHE_TRY(expect_vector(node, node.inputs[in + k], code ? DType::U8 : DType::F32, size, "a state"));
      LATHE_TRY(expect_vector(node, node.outputs[out + k - 1], code ? DType::U8 : DType::F32, size, "an updated state"));
      plan->allow_alias(int(out + k - 1), int(in + k));
    }
    Parameter q{};
    q.dtype = int32_t(p.dtype);
    a->parameters.push_back(q);
    for (int64_t s = 0; s < n; s += kPiece) a->pieces.push_back({i, int32_t(std::min(kPiece, n - s)), s});
  }
  if (a->pieces.empty()) return ok_status();
  a->table->device = device.index;
  return allocate_device(device.index, a->piece_bytes() + a->parameters.size() * sizeof(Parameter), &a->table->data);
}
Status prepare_adamw(NodeView& node, const DeviceSpec& device, KernelPlan* plan) { return prepare_adam(node, device, 4, plan); }
Status prepare_adamw_8bit(NodeView& node, const DeviceSpec& device, KernelPlan* plan) { return prepare_adam(node, device, 6, plan); }

template <bool kNarrow>
Status run_adam(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& a = plan.get<Adam>();
  if (a.pieces.empty()) return ok_status();
  Table& table = *a.table;
  auto* pieces = static_cast<Piece*>(table.data);
  auto* parameters = reinterpret_cast<Parameter*>(static_cast<char*>(table.data) + a.piece_bytes());
  bool changed = table.sent.size() != a.parameters.size();
  if (changed) table.sent = a.parameters;
  for (size_t i = 0; i < a.parameters.size(); i++) {
    Parameter q = a.parameters[i];
    for (size_t k = 0; k < a.per; k++) q.in[k] = b.inputs[3 + a.per * i + k];
    for (size_t k = 0; k + 1 < a.per; k++) q.out[k] = b.outputs[(a.per - 1) * i + k];
    changed = changed || std::memcmp(&q, &table.sent[i], sizeof q) != 0;
    table.sent[i] = q;
  }
  if (!table.pieces_sent) LATHE_TRY(copy_queued(queue_of(stream), pieces, a.pieces.data(), a.pieces.size() * sizeof(Piece), CopyKind::ToDevice));
  table.pieces_sent = true;
  if (changed) LATHE_TRY(copy_queued(queue_of(stream), parameters, table.sent.data(), table.sent.size() * sizeof(Parameter), CopyKind::ToDevice));
  return launch(stream, kNarrow ? adamw_8bit_kernel : adamw_kernel, Grid(int64_t(a.pieces.size())), kThreads, 0,
                pieces, parameters, a.hyper, b.in<float>(0), b.in<int32_t>(1), b.in<float>(2));
}

}  // namespace

LATHE_CUDA_KERNEL(adamw, prepare_adamw, run_adam<false>);
LATHE_CUDA_KERNEL(adamw_8bit, prepare_adamw_8bit, run_adam<true>);

}  // namespace lathe::cuda
