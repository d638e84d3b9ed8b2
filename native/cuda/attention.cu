// attention, attention_grad, attention_decode: the ops, and the kernels for fp32 (and for decoding).
//
// The fp32 kernels give a warp one row of the result: lanes own keys while scores are made and columns while they are
// used, the probabilities pass through shared memory. Backward is two kernels, dQ by query row and dK, dV by key row, so
// nothing is added across warps and the bits depend on the document alone. bf16 goes to attention_mma.cu.
// Rows outside every document: o = 0, lse = the largest float, zero gradients.
//
// scratch(attention) = scratch(attention_decode) = 0
// scratch(attention_grad) = 4 * heads * T in bf16 (row sums of dO O), 0 in fp32
#include "cuda/attention.cuh"
#include "cuda/common.cuh"
#include "lathe/attention_shape.h"

namespace lathe::cuda {
namespace {

constexpr int kWarps = 4;
constexpr unsigned kThreads = 32 * kWarps;
constexpr int kMaxDim = 256, kOwn = kMaxDim / 32;

template <class T>
__device__ __forceinline__ float dot_row(const float* a, const T* b, int64_t n) {
  float s = 0;
  for (int64_t d = 0; d < n; d++) s = fma_rn(a[d], load(b[d]), s);
  return s;
}
template <class T>
__device__ __forceinline__ void stage_row(float* to, const T* from, int64_t n) {
  for (int64_t d = threadIdx.x % 32; d < n; d += 32) to[d] = load(from[d]);
}

// Online softmax of one query over keys [lo, hi) in steps of `stride` chunks of 32, beginning with chunk `first`.
struct Softmax {
  float top = -INFINITY, sum = 0;
  float acc[kOwn] = {};
};
template <class T>
__device__ void attend(const AttentionShape& s, const float* q, const T* k, const T* v, int64_t lo, int64_t hi, int first, int stride, float* probabilities, Softmax& x) {
  const int lane = int(threadIdx.x % 32);
  const int64_t ld = s.kv_ld();
  for (int64_t j0 = lo + first * 32; j0 < hi; j0 += stride * 32) {
    const int64_t j = j0 + lane;
    const float score = j < hi ? s.score(dot_row(q, k + j * ld, s.head_dim)) : -INFINITY;
    const float top = Max{}(x.top, warp_reduce(score, Max{}));
    const float p = j < hi ? expf(score - top) : 0.0f, shrink = expf(x.top - top);
    warp_sync();  // the probabilities before have been read
    probabilities[lane] = p;
    warp_sync();
    x.sum = x.sum * shrink + warp_reduce(p, Sum{});
    x.top = top;
    const int count = hi - j0 < 32 ? int(hi - j0) : 32;
#pragma unroll
    for (int i = 0; i < kOwn; i++) {
      const int64_t d = lane + 32 * i;
      if (d >= s.head_dim) break;
      float a = x.acc[i] * shrink;
      for (int jj = 0; jj < count; jj++) a = fma_rn(probabilities[jj], load(v[(j0 + jj) * ld + d]), a);
      x.acc[i] = a;
    }
  }
}

// What a warp of a kernel by rows works on.
struct Row {
  int warp, lane;
  int64_t t, head;
  __device__ Row() : warp(int(threadIdx.x / 32)), lane(int(threadIdx.x % 32)), t(int64_t(blockIdx.x) * kWarps + warp), head(blockIdx.y) {}
};
template <class T>
__device__ __forceinline__ void clear_row(T* to, int64_t n) {
  for (int64_t d = threadIdx.x % 32; d < n; d += 32) store(to + d, 0.0f);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) forward_kernel(AttentionShape s, const T* q, const T* k, const T* v, const int32_t* cu, T* o, float* lse) {
  LATHE_SHARED(float, rows, kWarps * kMaxDim);
  LATHE_SHARED(float, probabilities, kWarps * 32);
  const auto [warp, lane, t, head] = Row();
  if (t >= s.tokens) return;
  const Document doc = document_of(cu, s.documents, s.tokens, t);
  T* out = o + t * s.q_ld() + head * s.head_dim;
  if (doc.length == 0) {
    clear_row(out, s.head_dim);
    if (lane == 0) lse[head * s.tokens + t] = 3.402823466e+38f;
    return;
  }
  float* mine = rows + warp * kMaxDim;
  stage_row(mine, q + t * s.q_ld() + head * s.head_dim, s.head_dim);
  warp_sync();
  const int64_t i = t - doc.begin, kv = doc.begin * s.kv_ld() + head / s.group() * s.head_dim;
  Softmax x;
  attend(s, mine, k + kv, v + kv, s.key_lo(i), s.key_hi(i, doc.length), 0, 1, probabilities + warp * 32, x);
  const float inverse = 1.0f / x.sum;
#pragma unroll
  for (int c = 0; c < kOwn; c++)
    if (lane + 32 * c < s.head_dim) store(out + lane + 32 * c, x.acc[c] * inverse);
  if (lane == 0) lse[head * s.tokens + t] = x.top + logf(x.sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) dq_kernel(AttentionShape s, const T* dout, const T* q, const T* k, const T* v, const T* o, const float* lse, const int32_t* cu, T* dq) {
  LATHE_SHARED(float, rows, kWarps * 2 * kMaxDim);
  LATHE_SHARED(float, slopes, kWarps * 32);
  const auto [warp, lane, t, head] = Row();
  if (t >= s.tokens) return;
  const Document doc = document_of(cu, s.documents, s.tokens, t);
  const int64_t at = t * s.q_ld() + head * s.head_dim;
  if (doc.length == 0) {
    clear_row(dq + at, s.head_dim);
    return;
  }
  float *mine = rows + warp * 2 * kMaxDim, *mine_do = mine + kMaxDim, *ds = slopes + warp * 32;
  stage_row(mine, q + at, s.head_dim);
  stage_row(mine_do, dout + at, s.head_dim);
  float delta = 0;
  for (int64_t d = lane; d < s.head_dim; d += 32) delta = fma_rn(load(dout[at + d]), load(o[at + d]), delta);
  delta = warp_reduce(delta, Sum{});
  warp_sync();
  const int64_t i = t - doc.begin, kv = doc.begin * s.kv_ld() + head / s.group() * s.head_dim, ld = s.kv_ld();
  const float log_sum = lse[head * s.tokens + t];
  const int64_t hi = s.key_hi(i, doc.length);
  float acc[kOwn] = {};
  for (int64_t j0 = s.key_lo(i); j0 < hi; j0 += 32) {
    const int64_t j = j0 + lane;
    float g = 0;
    if (j < hi) {
      const float score = s.score(dot_row(mine, k + kv + j * ld, s.head_dim));
      g = expf(score - log_sum) * (dot_row(mine_do, v + kv + j * ld, s.head_dim) - delta) * s.slope(score);
    }
    warp_sync();
    ds[lane] = g;
    warp_sync();
    const int count = hi - j0 < 32 ? int(hi - j0) : 32;
#pragma unroll
    for (int c = 0; c < kOwn; c++) {
      const int64_t d = lane + 32 * c;
      if (d >= s.head_dim) break;
      for (int jj = 0; jj < count; jj++) acc[c] = fma_rn(ds[jj], load(k[kv + (j0 + jj) * ld + d]), acc[c]);
    }
  }
#pragma unroll
  for (int c = 0; c < kOwn; c++)
    if (lane + 32 * c < s.head_dim) store(dq + at + lane + 32 * c, acc[c] * s.scale);
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) dkv_kernel(AttentionShape s, const T* dout, const T* q, const T* k, const T* v, const T* o, const float* lse, const int32_t* cu, T* dk, T* dv) {
  LATHE_SHARED(float, rows, kWarps * 2 * kMaxDim);
  LATHE_SHARED(float, shares, kWarps * 64);
  const auto [warp, lane, t, kv_head] = Row();
  if (t >= s.tokens) return;
  const Document doc = document_of(cu, s.documents, s.tokens, t);
  const int64_t at = t * s.kv_ld() + kv_head * s.head_dim;
  float acc_k[kOwn] = {}, acc_v[kOwn] = {};
  if (doc.length > 0) {
    float *mine_k = rows + warp * 2 * kMaxDim, *mine_v = mine_k + kMaxDim, *p = shares + warp * 64, *ds = p + 32;
    stage_row(mine_k, k + at, s.head_dim);
    stage_row(mine_v, v + at, s.head_dim);
    warp_sync();
    const int64_t j = t - doc.begin, ld = s.q_ld(), hi = s.query_hi(j, doc.length);
    for (int64_t g = 0; g < s.group(); g++) {
      const int64_t head = kv_head * s.group() + g, base = doc.begin * ld + head * s.head_dim;
      for (int64_t i0 = s.query_lo(j); i0 < hi; i0 += 32) {
        const int64_t i = i0 + lane;
        float probability = 0, slope = 0;
        if (i < hi) {
          const int64_t row = base + i * ld;
          const float score = s.score(dot_row(mine_k, q + row, s.head_dim));
          float delta = 0;
          for (int64_t d = 0; d < s.head_dim; d++) delta = fma_rn(load(dout[row + d]), load(o[row + d]), delta);
          probability = expf(score - lse[head * s.tokens + doc.begin + i]);
          slope = probability * (dot_row(mine_v, dout + row, s.head_dim) - delta) * s.slope(score);
        }
        warp_sync();
        p[lane] = probability;
        ds[lane] = slope;
        warp_sync();
        const int count = hi - i0 < 32 ? int(hi - i0) : 32;
#pragma unroll
        for (int c = 0; c < kOwn; c++) {
          const int64_t d = lane + 32 * c;
          if (d >= s.head_dim) break;
          for (int ii = 0; ii < count; ii++) {
            acc_k[c] = fma_rn(ds[ii], load(q[base + (i0 + ii) * ld + d]), acc_k[c]);
            acc_v[c] = fma_rn(p[ii], load(dout[base + (i0 + ii) * ld + d]), acc_v[c]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int c = 0; c < kOwn; c++) {
    if (lane + 32 * c >= s.head_dim) break;
    store(dk + at + lane + 32 * c, acc_k[c] * s.scale);
    store(dv + at + lane + 32 * c, acc_v[c]);
  }
}

// A block per (sequence, query head): its warps take chunks of keys in turn and are merged in warp order.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) decode_kernel(AttentionShape s, const T* q, const T* k, const T* v, const int32_t* lengths, int64_t cache_rows, T* o) {
  LATHE_SHARED(float, row, kMaxDim);
  LATHE_SHARED(float, probabilities, kWarps * 32);
  LATHE_SHARED(float, tops, kWarps);
  LATHE_SHARED(float, sums, kWarps);
  LATHE_SHARED(float, parts, kWarps * kMaxDim);
  const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32);
  const int64_t batch = blockIdx.x, head = blockIdx.y;
  int64_t length = lengths[batch];
  length = length < 0 ? 0 : length > cache_rows ? cache_rows : length;
  for (int64_t d = threadIdx.x; d < s.head_dim; d += kThreads) row[d] = load(q[batch * s.q_ld() + head * s.head_dim + d]);
  block_sync();
  const int64_t kv = batch * cache_rows * s.kv_ld() + head / s.group() * s.head_dim;
  const int64_t lo = s.window > 0 && length > s.window ? length - s.window : 0;
  Softmax x;
  attend(s, row, k + kv, v + kv, lo, length, warp, kWarps, probabilities + warp * 32, x);
  if (lane == 0) tops[warp] = x.top, sums[warp] = x.sum;
#pragma unroll
  for (int c = 0; c < kOwn; c++)
    if (lane + 32 * c < s.head_dim) parts[warp * kMaxDim + lane + 32 * c] = x.acc[c];
  block_sync();
  float top = tops[0];
  for (int w = 1; w < kWarps; w++) top = Max{}(top, tops[w]);
  for (int64_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
    float sum = 0, value = 0;
    for (int w = 0; w < kWarps && length > 0; w++) {
      if (sums[w] == 0) continue;  // this warp had no keys
      const float share = expf(tops[w] - top);
      sum = fma_rn(share, sums[w], sum);
      value = fma_rn(share, parts[w * kMaxDim + d], value);
    }
    store(o + batch * s.q_ld() + head * s.head_dim + d, sum > 0 ? value / sum : 0.0f);
  }
}

// ---- ops

struct Plan {
  AttentionShape shape;
  DType type = DType::F32;
  int64_t batch = 0, cache_rows = 0;
};
Status read_shape(NodeView& node, bool has_causal, AttentionShape* s) {
  LATHE_TRY(read_attention_shape(node, has_causal, s));
  LATHE_EXPECT(node, s->heads <= 65535, "expected at most 65535 heads, received " + std::to_string(s->heads));
  return ok_status();
}
Status expect_matrix(const NodeView& node, const char* name, const TensorType& t, DType dtype, int64_t rows, int64_t cols) {
  if (t.dtype == dtype && t.rank == 2 && t.shape[0] == rows && t.shape[1] == cols) return ok_status();
  return node.fail(std::string("expected ") + name + " to be " + name_of(dtype) + " [" + std::to_string(rows) + ", " + std::to_string(cols) + "], got " + describe(t));
}
// Shared by attention (q at 0) and attention_grad (q at 1).
Status prepare_packed(NodeView& node, size_t q_at, Plan* p) {
  LATHE_TRY(read_shape(node, true, &p->shape));
  AttentionShape& s = p->shape;
  const TensorType& q = node.inputs[q_at];
  LATHE_TRY(expect_float(node, q, "q"));
  p->type = q.dtype;
  s.tokens = q.rank == 2 ? q.shape[0] : -1;
  LATHE_TRY(expect_matrix(node, "q", q, q.dtype, s.tokens, s.q_ld()));
  LATHE_TRY(expect_matrix(node, "k", node.inputs[q_at + 1], q.dtype, s.tokens, s.kv_ld()));
  LATHE_TRY(expect_matrix(node, "v", node.inputs[q_at + 2], q.dtype, s.tokens, s.kv_ld()));
  const TensorType& cu = node.inputs.back();
  LATHE_EXPECT(node, cu.dtype == DType::I32 && cu.rank == 1 && cu.shape[0] >= 1, "expected cu_seqlens to be i32 [S + 1]");
  s.documents = cu.shape[0] - 1;
  return ok_status();
}
Status prepare_forward(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 4, 2));
  auto* p = plan->emplace<Plan>();
  LATHE_TRY(prepare_packed(node, 0, p));
  const AttentionShape& s = p->shape;
  LATHE_EXPECT(node, has_output(node, 0) && has_output(node, 1), "expected outputs o and lse to be present");
  LATHE_TRY(expect_matrix(node, "o", node.outputs[0], p->type, s.tokens, s.q_ld()));
  return expect_matrix(node, "lse", node.outputs[1], DType::F32, s.heads, s.tokens);
}
Status run_forward(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& p = plan.get<Plan>();
  const AttentionShape& s = p.shape;
  if (s.tokens == 0) return ok_status();
  if (p.type == DType::BF16) return attention_mma_forward(stream, s, b);
  return launch(stream, forward_kernel<float>, Grid(ceil_div(s.tokens, kWarps), s.heads), kThreads, 0, s, b.in<float>(0), b.in<float>(1), b.in<float>(2), b.in<int32_t>(3), b.out<float>(0), b.out<float>(1));
}
Status prepare_backward(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 7, 3));
  auto* p = plan->emplace<Plan>();
  LATHE_TRY(prepare_packed(node, 1, p));
  const AttentionShape& s = p->shape;
  LATHE_TRY(expect_matrix(node, "do", node.inputs[0], p->type, s.tokens, s.q_ld()));
  LATHE_TRY(expect_matrix(node, "o", node.inputs[4], p->type, s.tokens, s.q_ld()));
  LATHE_TRY(expect_matrix(node, "lse", node.inputs[5], DType::F32, s.heads, s.tokens));
  LATHE_TRY(expect_matrix(node, "dq", node.outputs[0], p->type, s.tokens, s.q_ld()));
  LATHE_TRY(expect_matrix(node, "dk", node.outputs[1], p->type, s.tokens, s.kv_ld()));
  LATHE_TRY(expect_matrix(node, "dv", node.outputs[2], p->type, s.tokens, s.kv_ld()));
  return p->type == DType::BF16 ? expect_scratch(node, 4 * s.heads * s.tokens) : ok_status();
}
Status run_backward(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& p = plan.get<Plan>();
  const AttentionShape& s = p.shape;
  if (s.tokens == 0) return ok_status();
  if (p.type == DType::BF16) return attention_mma_backward(stream, s, b);
  using T = float;
  const Grid by_query(ceil_div(s.tokens, kWarps), s.heads), by_key(ceil_div(s.tokens, kWarps), s.kv_heads);
  LATHE_TRY(launch(stream, dq_kernel<T>, by_query, kThreads, 0, s, b.in<T>(0), b.in<T>(1), b.in<T>(2), b.in<T>(3), b.in<T>(4), b.in<float>(5), b.in<int32_t>(6), b.out<T>(0)));
  return launch(stream, dkv_kernel<T>, by_key, kThreads, 0, s, b.in<T>(0), b.in<T>(1), b.in<T>(2), b.in<T>(3), b.in<T>(4), b.in<float>(5), b.in<int32_t>(6), b.out<T>(1), b.out<T>(2));
}
Status prepare_decode(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 4, 1));
  auto* p = plan->emplace<Plan>();
  AttentionShape& s = p->shape;
  LATHE_TRY(read_shape(node, false, &s));
  const TensorType &q = node.inputs[0], &k = node.inputs[1], &v = node.inputs[2], &lengths = node.inputs[3];
  LATHE_TRY(expect_float(node, q, "q"));
  p->type = q.dtype;
  p->batch = q.rank == 2 ? q.shape[0] : -1;
  p->cache_rows = k.rank == 3 ? k.shape[1] : -1;
  LATHE_TRY(expect_matrix(node, "q", q, q.dtype, p->batch, s.q_ld()));
  LATHE_TRY(expect_matrix(node, "o", node.outputs[0], q.dtype, p->batch, s.q_ld()));
  for (const TensorType* t : {&k, &v})
    LATHE_EXPECT(node, t->rank == 3 && t->dtype == q.dtype && t->shape[0] == p->batch && t->shape[1] == p->cache_rows && t->shape[2] == s.kv_ld(),
                 "expected the caches to be [B, S, kv_heads * head_dim] of the dtype of q");
  return expect_vector(node, lengths, DType::I32, p->batch, "lengths");
}
Status run_decode(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& p = plan.get<Plan>();
  if (p.batch == 0) return ok_status();
  return with_float(p.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, decode_kernel<T>, Grid(p.batch, p.shape.heads), kThreads, 0, p.shape, b.in<T>(0), b.in<T>(1), b.in<T>(2), b.in<int32_t>(3), p.cache_rows, b.out<T>(0));
  });
}

}  // namespace

LATHE_CUDA_KERNEL(attention, prepare_forward, run_forward);
LATHE_CUDA_KERNEL(attention_grad, prepare_backward, run_backward);
LATHE_CUDA_KERNEL(attention_decode, prepare_decode, run_decode);

}  // namespace lathe::cuda
