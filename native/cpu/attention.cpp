/*
 * attention, attention_grad, attention_decode: what the work items are, who owns which memory.
 *
 * The idea: documents are packed end to end and each is attended to alone, so the items are cut relative to a
 * document's first row and claimed longest document first, latest queries first (with a causal mask they see the most
 * keys): whoever is slow claims fewer.
 *   forward   (document, 64 or 128 queries, query heads of one K/V head)
 *   backward  (document, K/V head), its query heads one after the other; with few K/V heads per thread
 *             (document, query head) instead, dK and dV of each head kept apart and added in head order afterwards
 * Both ways of cutting the backward pass add the heads' fp32 sums in the same order, so they give the same bits.
 *
 * Invariants: no atomics; bits do not depend on threads or on a document's place. cu_seqlens is clamped to [0, T] and
 * to be non-decreasing, so that no content can make a kernel leave its buffers. Rows outside every document: o = 0,
 * lse = the largest float (e^(score - lse) is 0, and a check for finite values passes), zero gradients. lse, dq, dk and
 * dv may be absent; the products of an absent gradient are skipped.
 *
 * Scratch, in bytes, with dp = up(head_dim, 16), g = heads / kv_heads, n = threads, up(x, y) = y * ceil(x / y):
 *   scratch(attention)        = plan + n * up(4 * F, 64)
 *     plan = up(12 * T + 8, 64)
 *     u    = max(2, min(g, max(1, floor(1024 / dp))))
 *     F    = 288 * dp + 6144 + u * (128 * dp + 320)
 *   scratch(attention_grad)   = plan + n * up(4 * (B + A), 64) + up(4 * P, 64)
 *     B    = 3 * up(T, 96) * dp + 416 * dp + 19456
 *     split = n > 1 and g > 1 and kv_heads < 4 * n
 *     A    = split ? 0 : T * dp * (g > 1 ? 4 : 2)
 *     P    = split ? 2 * heads * T * dp : 0
 *   scratch(attention_decode) = n * up(4 * g * (2 * dp + 68), 64)
 */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/tiles.h"
#include "gemm/dispatch.h"
#include "lathe/attention_shape.h"
#include "lathe/kernel.h"
#include "pool.h"

namespace lathe::cpu {
namespace {

using attention::kQueries;
using attention::round_up;
using attention::Shape;
using attention::Tiles;

struct Plan {
  Shape shape;
  bool bf16 = false;
  int threads = 1;
  int64_t documents = 0;  // length of cu_seqlens minus one
  bool split = false;     // backward items are query heads
  int64_t batch = 0;      // decode
  int64_t cache_rows = 0;
};

const Tiles& tiles_for(bool bf16) {
#if defined(__x86_64__)
  switch (active_isa()) {
    case Isa::kAvx512Bf16:
      if (bf16) return *attention::avx512bf16_tiles(true);
      [[fallthrough]];
    case Isa::kAvx512: return *attention::avx512_tiles(bf16);
    case Isa::kAvx2: return *attention::avx2_tiles(bf16);
    default: break;
  }
#endif
  return *attention::portable_tiles(bf16);
}

int64_t element_bytes(const Plan& p) { return p.bf16 ? 2 : 4; }

// ---- scratch

int64_t heads_per_item(const Shape& s) {
  return std::min(s.group(), std::max<int64_t>(1, 1024 / s.padded_dim()));
}
int64_t tiles_per_item(const Shape& s) { return heads_per_item(s) == 1 ? 2 : 1; }

int64_t plan_bytes(const Shape& s) { return round_up(12 * s.tokens + 8, 64); }

int64_t forward_worker_bytes(const Shape& s) {
  return round_up(4 * attention::forward_scratch_floats(s.padded_dim(), heads_per_item(s) * tiles_per_item(s)), 64);
}

int64_t sums_floats(const Plan& p) {
  return p.split ? 0 : p.shape.tokens * p.shape.padded_dim() * (p.shape.group() > 1 ? 4 : 2);
}
int64_t backward_worker_bytes(const Plan& p) {
  const int64_t floats = attention::backward_scratch_floats(p.shape.padded_dim(), p.shape.tokens);
  return round_up(4 * (floats + sums_floats(p)), 64);
}
int64_t parts_bytes(const Plan& p) {
  return p.split ? round_up(4 * 2 * p.shape.heads * p.shape.tokens * p.shape.padded_dim(), 64) : 0;
}

int64_t decode_worker_bytes(const Shape& s) {
  return round_up(4 * attention::decode_scratch_floats(s.padded_dim(), s.group()), 64);
}

// ---- prepare

Status expect_matrix(const NodeView& node, const char* name, const TensorType& t, DType dtype, int64_t rows,
                     int64_t cols) {
  if (t.dtype == dtype && t.rank == 2 && t.shape[0] == rows && t.shape[1] == cols) return ok_status();
  return node.fail(std::string("expected ") + name + " to be [" + std::to_string(rows) + ", " + std::to_string(cols) +
                   "] of the dtype of q");
}

Status expect_scratch(const NodeView& node, int64_t bytes) {
  if (node.scratch_bytes >= bytes) return ok_status();
  return node.fail("expected " + std::to_string(bytes) + " bytes of scratch, received " +
                   std::to_string(node.scratch_bytes) + ": compile the program for this number of threads");
}

Status expect_counts(const NodeView& node, size_t inputs, size_t outputs) {
  if (node.inputs.size() == inputs && node.outputs.size() == outputs) return ok_status();
  return node.fail("expected " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
                   " outputs, received " + std::to_string(node.inputs.size()) + " and " +
                   std::to_string(node.outputs.size()));
}

// Shared by attention (q at 0) and attention_grad (q at 1).
Status prepare_packed(NodeView& node, const DeviceSpec& device, int q_at, Plan* p) {
  LATHE_TRY(read_attention_shape(node, true, &p->shape));
  Shape& s = p->shape;
  const TensorType& q = node.inputs[q_at];
  if (q.dtype != DType::F32 && q.dtype != DType::BF16) return node.fail("expected q to be f32 or bf16");
  p->bf16 = q.dtype == DType::BF16;
  p->threads = std::max(1, device.threads);
  s.tokens = q.rank == 2 ? q.shape[0] : -1;
  LATHE_TRY(expect_matrix(node, "q", q, q.dtype, s.tokens, s.heads * s.head_dim));
  LATHE_TRY(expect_matrix(node, "k", node.inputs[q_at + 1], q.dtype, s.tokens, s.kv_heads * s.head_dim));
  LATHE_TRY(expect_matrix(node, "v", node.inputs[q_at + 2], q.dtype, s.tokens, s.kv_heads * s.head_dim));
  const TensorType& cu = node.inputs.back();
  if (cu.dtype != DType::I32 || cu.rank != 1 || cu.shape[0] < 1)
    return node.fail("expected cu_seqlens to be i32 [S + 1]");
  if (s.tokens >= (1 << 24)) return node.fail("expected fewer than 2^24 tokens");
  p->documents = cu.shape[0] - 1;
  return ok_status();
}

Status prepare_forward(NodeView& node, const DeviceSpec& device, KernelPlan* plan) {
  LATHE_TRY(expect_counts(node, 4, 2));
  Plan* p = plan->emplace<Plan>();
  LATHE_TRY(prepare_packed(node, device, 0, p));
  const Shape& s = p->shape;
  if (!node.output_present[0]) return node.fail("expected output o to be present");
  LATHE_TRY(expect_matrix(node, "o", node.outputs[0], node.inputs[0].dtype, s.tokens, s.heads * s.head_dim));
  if (node.output_present[1]) LATHE_TRY(expect_matrix(node, "lse", node.outputs[1], DType::F32, s.heads, s.tokens));
  return expect_scratch(node, plan_bytes(s) + p->threads * forward_worker_bytes(s));
}

Status prepare_backward(NodeView& node, const DeviceSpec& device, KernelPlan* plan) {
  LATHE_TRY(expect_counts(node, 7, 3));
  Plan* p = plan->emplace<Plan>();
  LATHE_TRY(prepare_packed(node, device, 1, p));
  const Shape& s = p->shape;
  const DType dtype = node.inputs[1].dtype;
  LATHE_TRY(expect_matrix(node, "do", node.inputs[0], dtype, s.tokens, s.heads * s.head_dim));
  LATHE_TRY(expect_matrix(node, "o", node.inputs[4], dtype, s.tokens, s.heads * s.head_dim));
  LATHE_TRY(expect_matrix(node, "lse", node.inputs[5], DType::F32, s.heads, s.tokens));
  const char* names[] = {"dq", "dk", "dv"};
  for (int i = 0; i < 3; i++)
    if (node.output_present[i]) {
      const int64_t cols = (i > 0 ? s.kv_heads : s.heads) * s.head_dim;
      LATHE_TRY(expect_matrix(node, names[i], node.outputs[i], dtype, s.tokens, cols));
    }
  p->split = p->threads > 1 && s.group() > 1 && s.kv_heads < 4 * p->threads;
  return expect_scratch(node, plan_bytes(s) + p->threads * backward_worker_bytes(*p) + parts_bytes(*p));
}

Status prepare_decode(NodeView& node, const DeviceSpec& device, KernelPlan* plan) {
  LATHE_TRY(expect_counts(node, 4, 1));
  Plan* p = plan->emplace<Plan>();
  Shape& s = p->shape;
  LATHE_TRY(read_attention_shape(node, false, &s));
  const TensorType &q = node.inputs[0], &k = node.inputs[1], &v = node.inputs[2], &lengths = node.inputs[3];
  if (q.dtype != DType::F32 && q.dtype != DType::BF16) return node.fail("expected q to be f32 or bf16");
  p->bf16 = q.dtype == DType::BF16;
  p->threads = std::max(1, device.threads);
  p->batch = q.rank == 2 ? q.shape[0] : -1;
  p->cache_rows = k.rank == 3 ? k.shape[1] : -1;
  LATHE_TRY(expect_matrix(node, "q", q, q.dtype, p->batch, s.heads * s.head_dim));
  LATHE_TRY(expect_matrix(node, "o", node.outputs[0], q.dtype, p->batch, s.heads * s.head_dim));
  for (const TensorType* t : {&k, &v})
    if (t->rank != 3 || t->dtype != q.dtype || t->shape[0] != p->batch || t->shape[1] != p->cache_rows ||
        t->shape[2] != s.kv_heads * s.head_dim)
      return node.fail("expected the caches to be [B, S, kv_heads * head_dim] of the dtype of q");
  if (lengths.dtype != DType::I32 || lengths.numel() != p->batch) return node.fail("expected lengths to be i32 [B]");
  return expect_scratch(node, p->threads * decode_worker_bytes(s));
}

// ---- documents

// Documents with at least one row, longest first; `before[i]` items precede those of order[i].
struct Documents {
  const int32_t* cu;
  int64_t tokens;
  int64_t* before;
  int32_t* order;
  int64_t count = 0;

  Documents(const Plan& p, const int32_t* cu_seqlens, void* memory) : cu(cu_seqlens), tokens(p.shape.tokens) {
    before = static_cast<int64_t*>(memory);
    order = reinterpret_cast<int32_t*>(before + tokens + 1);
  }
  int64_t bound(int64_t i) const { return std::clamp<int64_t>(cu[i], 0, tokens); }
  int64_t begin(int64_t i) const { return bound(order[i]); }
  int64_t length(int64_t i) const { return bound(order[i] + 1) - bound(order[i]); }

  // Returns the number of items. Documents that overlap an earlier one (decreasing offsets) are dropped.
  template <class ItemsOf>
  int64_t plan(int64_t documents, ItemsOf items_of) {
    int64_t end = 0;
    for (int64_t i = 0; i < documents; i++) {
      if (bound(i) < end || bound(i + 1) <= bound(i)) continue;
      order[count++] = static_cast<int32_t>(i);
      end = bound(i + 1);
    }
    std::sort(order, order + count, [this](int32_t a, int32_t b) {
      const int64_t la = bound(a + 1) - bound(a), lb = bound(b + 1) - bound(b);
      return la != lb ? la > lb : a < b;
    });
    before[0] = 0;
    for (int64_t i = 0; i < count; i++) before[i + 1] = before[i] + items_of(length(i));
    return before[count];
  }
  int64_t find(int64_t item) const { return std::upper_bound(before, before + count + 1, item) - before - 1; }
};

// Calls fn(first, last) for the runs of rows that belong to no document.
template <class Fn>
void each_gap(const Plan& p, const int32_t* cu, Fn fn) {
  int64_t end = 0;
  const int64_t tokens = p.shape.tokens;
  for (int64_t i = 0; i < p.documents; i++) {
    const int64_t b = std::clamp<int64_t>(cu[i], 0, tokens), e = std::clamp<int64_t>(cu[i + 1], 0, tokens);
    if (b < end || e <= b) continue;
    if (b > end) fn(end, b);
    end = e;
  }
  if (end < tokens) fn(end, tokens);
}

void zero_rows(const Plan& p, void* x, int64_t first, int64_t last, int64_t cols) {
  if (x == nullptr) return;
  std::memset(static_cast<char*>(x) + first * cols * element_bytes(p), 0, (last - first) * cols * element_bytes(p));
}

// ---- run

Status run_forward(const KernelPlan& kernel_plan, const Buffers& b, Stream& stream) {
  const Plan& p = kernel_plan.get<Plan>();
  const Shape& s = p.shape;
  const int32_t* cu = b.in<int32_t>(3);
  float* lse = b.out<float>(1);
  each_gap(p, cu, [&](int64_t first, int64_t last) {
    zero_rows(p, b.outputs[0], first, last, s.heads * s.head_dim);
    for (int64_t h = 0; lse && h < s.heads; h++)
      std::fill(lse + h * s.tokens + first, lse + h * s.tokens + last, std::numeric_limits<float>::max());
  });

  const int64_t per_item = heads_per_item(s), q_tiles = tiles_per_item(s), block = q_tiles * kQueries;
  const int64_t parts = (s.group() + per_item - 1) / per_item, columns = s.kv_heads * parts;
  Documents documents(p, cu, b.scratch);
  const int64_t items =
      documents.plan(p.documents, [&](int64_t len) { return (len + block - 1) / block * columns; });
  char* workers = static_cast<char*>(b.scratch) + plan_bytes(s);
  const int64_t worker_bytes = forward_worker_bytes(s);
  const Tiles& tiles = tiles_for(p.bf16);

  stream.pool->run(items, [&](int64_t i, int worker) {
    const int64_t d = documents.find(i), local = i - documents.before[d], len = documents.length(d);
    const int64_t blocks = (len + block - 1) / block, column = local % columns;
    attention::ForwardItem item;
    item.q = b.inputs[0], item.k = b.inputs[1], item.v = b.inputs[2], item.o = b.outputs[0], item.lse = lse;
    item.row0 = documents.begin(d);
    item.len = len;
    item.q0 = (blocks - 1 - local / columns) * block;
    item.q_tiles = std::min(q_tiles, (len - item.q0 + kQueries - 1) / kQueries);
    item.kv_head = column / parts;
    const int64_t first = column % parts * per_item;
    item.head0 = item.kv_head * s.group() + first;
    item.heads = std::min(per_item, s.group() - first);
    item.scratch = reinterpret_cast<float*>(workers + worker * worker_bytes);
    tiles.forward(s, item);
  });
  return ok_status();
}

struct Backward {
  const Plan& p;
  const Buffers& b;
  const Documents& documents;
  const Tiles& tiles;
  char* workers;
  float* parts;  // split: dK of every head [heads][T][dp], then dV

  attention::BackwardItem item(int64_t d, int64_t head, float* scratch) const {
    attention::BackwardItem x;
    x.dout = b.inputs[0], x.q = b.inputs[1], x.k = b.inputs[2], x.v = b.inputs[3], x.o = b.inputs[4];
    x.lse = b.in<float>(5);
    x.dq = b.outputs[0];
    x.row0 = documents.begin(d);
    x.len = documents.length(d);
    x.head = head;
    x.kv_head = head / p.shape.group();
    x.keep_kv = false;
    x.scratch = scratch;
    return x;
  }
  float* scratch(int worker) const { return reinterpret_cast<float*>(workers + worker * backward_worker_bytes(p)); }

  bool wants(int output) const { return b.outputs[output] != nullptr; }

  void finish(int output, const float* sums, int64_t count, int64_t stride, int64_t row, int64_t rows,
              int64_t kv_head) const {
    if (!wants(output)) return;
    const Shape& s = p.shape;
    const int64_t ld = s.kv_heads * s.head_dim;
    char* out = static_cast<char*>(b.outputs[output]) + (row * ld + kv_head * s.head_dim) * element_bytes(p);
    tiles.finish(s, sums, count, stride, rows, output == 1 ? s.scale : 1.0f, out, ld);
  }

  // One K/V head of one document: head after head, sums in this worker's memory.
  void whole(int64_t i, int worker) const {
    const Shape& s = p.shape;
    const int64_t d = i / s.kv_heads, kv_head = i % s.kv_heads, group = s.group();
    const int64_t n = documents.length(d) * s.padded_dim();
    float* memory = scratch(worker);
    float* sums = memory + attention::backward_scratch_floats(s.padded_dim(), s.tokens);
    for (int64_t h = 0; h < group; h++) {
      attention::BackwardItem x = item(d, kv_head * group + h, memory);
      x.keep_kv = h > 0;
      float* mine = sums + (h > 0 ? 2 * n : 0);
      x.dk = wants(1) ? mine : nullptr;
      x.dv = wants(2) ? mine + n : nullptr;
      tiles.backward(s, x);
      if (h == 0) continue;
      for (int64_t j = wants(1) ? 0 : n, end = wants(2) ? 2 * n : n; j < end; j++) sums[j] += mine[j];
    }
    finish(1, sums, 1, 0, documents.begin(d), documents.length(d), kv_head);
    finish(2, sums + n, 1, 0, documents.begin(d), documents.length(d), kv_head);
  }

  // One query head of one document: sums stay apart until `gather`.
  void apart(int64_t i, int worker) const {
    const Shape& s = p.shape;
    const int64_t d = i / s.heads, head = i % s.heads, plane = s.tokens * s.padded_dim();
    attention::BackwardItem x = item(d, head, scratch(worker));
    float* mine = parts + head * plane + x.row0 * s.padded_dim();
    x.dk = wants(1) ? mine : nullptr;
    x.dv = wants(2) ? mine + s.heads * plane : nullptr;
    tiles.backward(s, x);
  }

  void gather(int64_t i) const {
    const Shape& s = p.shape;
    const int64_t kv_head = i % s.kv_heads, dp = s.padded_dim(), plane = s.tokens * dp;
    const int64_t row = i / s.kv_heads * kQueries, rows = std::min<int64_t>(kQueries, s.tokens - row);
    const float* sums = parts + kv_head * s.group() * plane + row * dp;
    finish(1, sums, s.group(), plane, row, rows, kv_head);
    finish(2, sums + s.heads * plane, s.group(), plane, row, rows, kv_head);
  }
};

Status run_backward(const KernelPlan& kernel_plan, const Buffers& b, Stream& stream) {
  const Plan& p = kernel_plan.get<Plan>();
  const Shape& s = p.shape;
  const int32_t* cu = b.in<int32_t>(6);
  const int64_t q_cols = s.heads * s.head_dim, kv_cols = s.kv_heads * s.head_dim;
  Documents documents(p, cu, b.scratch);
  documents.plan(p.documents, [](int64_t) { return 1; });
  char* workers = static_cast<char*>(b.scratch) + plan_bytes(s);
  float* parts = reinterpret_cast<float*>(workers + p.threads * backward_worker_bytes(p));
  const Backward work{p, b, documents, tiles_for(p.bf16), workers, parts};
  if (p.split) {
    stream.pool->run(documents.count * s.heads, [&](int64_t i, int worker) { work.apart(i, worker); });
    stream.pool->run((s.tokens + kQueries - 1) / kQueries * s.kv_heads, [&](int64_t i, int) { work.gather(i); });
  } else {
    stream.pool->run(documents.count * s.kv_heads, [&](int64_t i, int worker) { work.whole(i, worker); });
  }
  // After the gather, which also passes over rows that no document wrote.
  each_gap(p, cu, [&](int64_t first, int64_t last) {
    zero_rows(p, b.outputs[0], first, last, q_cols);
    zero_rows(p, b.outputs[1], first, last, kv_cols);
    zero_rows(p, b.outputs[2], first, last, kv_cols);
  });
  return ok_status();
}

Status run_decode(const KernelPlan& kernel_plan, const Buffers& b, Stream& stream) {
  const Plan& p = kernel_plan.get<Plan>();
  const Shape& s = p.shape;
  const int32_t* lengths = b.in<int32_t>(3);
  const int64_t q_bytes = s.heads * s.head_dim * element_bytes(p);
  const int64_t cache_bytes = p.cache_rows * s.kv_heads * s.head_dim * element_bytes(p);
  const Tiles& tiles = tiles_for(p.bf16);
  stream.pool->run(p.batch * s.kv_heads, [&](int64_t i, int worker) {
    const int64_t row = i / s.kv_heads;
    attention::DecodeItem item;
    item.q = static_cast<const char*>(b.inputs[0]) + row * q_bytes;
    item.k = static_cast<const char*>(b.inputs[1]) + row * cache_bytes;
    item.v = static_cast<const char*>(b.inputs[2]) + row * cache_bytes;
    item.o = static_cast<char*>(b.outputs[0]) + row * q_bytes;
    item.len = std::clamp<int64_t>(lengths[row], 0, p.cache_rows);
    item.kv_head = i % s.kv_heads;
    item.scratch = reinterpret_cast<float*>(static_cast<char*>(b.scratch) + worker * decode_worker_bytes(s));
    tiles.decode(s, item);
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(attention, prepare_forward, run_forward);
LATHE_CPU_KERNEL(attention_grad, prepare_backward, run_backward);
LATHE_CPU_KERNEL(attention_decode, prepare_decode, run_decode);

}  // namespace lathe::cpu
