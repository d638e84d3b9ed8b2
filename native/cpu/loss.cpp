/*
 * linear_cross_entropy(_grad): the language-model head and its loss without the logits of all tokens.
 * cross_entropy(_grad): the loss of logits that exist anyway (classification).
 *
 * The idea (Liger Kernel's fused linear cross-entropy, arXiv 2410.10989): rows whose label is -100 are dropped first,
 * so only answered tokens cost anything. The rest go through in chunks: one GEMM makes the chunk's logits in fp32, one
 * pass over each row (which then sits in cache) makes the loss and replaces the logits by their gradient, and two
 * more GEMMs add to dx and dw at once. With bf16 arithmetic the gradient overwrites its row as bf16, so the GEMMs
 * read it where it lies.
 *   z = softcap(logit_scale x w^T)      nll = lse - z[label]      dz = (softmax(z) - onehot) dnll
 *
 * Invariants: fp32 logits; row sums are fp32 within blocks of 2048 and f64 across them, so a row's result does not
 * depend on where it stands, nor on threads. dw adds chunk after chunk. A label that is neither -100 nor in [0, V)
 * gives NaN, on purpose: it must not train silently.
 *
 * Scratch, in bytes, with c = min(chunk, T), e = bytes of x's dtype, G(m, n, k) = gemm_scratch_bytes(m, n, k, 1,
 * threads) of gemm/gemm.h and up(x) = 64 * ceil(x / 64):
 *   rows = up(4 * T) + up(4 * c * V) + up(c * D * e)
 *   scratch(linear_cross_entropy)      = rows + G(c, V, D)
 *   scratch(linear_cross_entropy_grad) = rows + up(c * D * e) + max(G(c, V, D), G(c, D, V), G(V, D, c) + 2^23)
 * (2^23: a last chunk with fewer rows packs more rows of its transpose at a time.)
 * cross_entropy and cross_entropy_grad need none.
 */
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "gemm/gemm.h"
#include "isa/rows.h"
#include "lathe/kernel.h"
#include "pool.h"

namespace lathe::cpu {
namespace {

constexpr int32_t kIgnore = -100;
constexpr int64_t kBlock = 2048;  // logits of a row handled at a time: 8 KiB

struct Plan {
  int64_t tokens = 0, width = 0, vocabulary = 0, chunk = 0;
  DType x = DType::F32, w = DType::F32;
  float logit_scale = 1, softcap = 0;
  bool grad = false, addend = false;
  int threads = 1;
};

int64_t up64(int64_t x) { return (x + 63) / 64 * 64; }

struct Layout {
  int64_t logits, gathered, dx, gemm, total;  // byte offsets; the list of rows is at 0
};

Layout layout_of(const Plan& p) {
  const int64_t gather = up64(p.chunk * p.width * dtype_bytes(p.x));
  int64_t gemm = gemm_scratch_bytes(p.chunk, p.vocabulary, p.width, 1, p.threads);
  Layout l;
  l.logits = up64(4 * p.tokens);
  l.gathered = l.logits + up64(4 * p.chunk * p.vocabulary);
  l.dx = l.gathered + gather;
  l.gemm = l.dx + (p.grad ? gather : 0);
  if (p.grad) {
    gemm = std::max(gemm, gemm_scratch_bytes(p.chunk, p.width, p.vocabulary, 1, p.threads));
    gemm = std::max(gemm, gemm_scratch_bytes(p.vocabulary, p.width, p.chunk, 1, p.threads) + (1 << 23));
  }
  l.total = l.gemm + gemm;
  return l;
}

bool is_float(DType d) { return d == DType::F32 || d == DType::BF16; }

bool is(const TensorType& t, DType dtype, int64_t rows, int64_t cols = 0) {
  return t.dtype == dtype && t.rank == (cols > 0 ? 2 : 1) && t.shape[0] == rows && (cols == 0 || t.shape[1] == cols);
}

Status prepare_head(NodeView& node, const DeviceSpec& device, KernelPlan* plan, bool grad) {
  Plan* p = plan->emplace<Plan>();
  double logit_scale = 0, softcap = 0;
  int64_t chunk = 0, addend = 0, trained = 0;
  LATHE_TRY(node.attributes.number("logit_scale", &logit_scale));
  LATHE_TRY(node.attributes.number("softcap", &softcap));
  LATHE_TRY(node.attributes.integer("chunk", &chunk));
  if (grad) LATHE_TRY(node.attributes.integer("addend", &addend));
  if (grad) LATHE_TRY(node.attributes.integer("trained", &trained));
  const size_t inputs = grad ? (addend ? 5 : 4) : 3, outputs = grad ? 5 : 3;
  if (node.inputs.size() != inputs || node.outputs.size() != outputs)
    return node.fail("expected " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) + " outputs");
  const TensorType &x = node.inputs[0], &w = node.inputs[1];
  if (!is_float(x.dtype) || x.rank != 2 || !is_float(w.dtype) || w.rank != 2 || w.shape[1] != x.shape[1])
    return node.fail("expected x [T, D] and w [V, D], f32 or bf16");
  const int64_t t = x.shape[0];
  if (!is(node.inputs[2], DType::I32, t)) return node.fail("expected labels to be i32 [T]");
  for (int i = 0; i < 3; i++)
    if (node.output_present[i] && !is(node.outputs[i], DType::F32, t))
      return node.fail("expected nll, correct and entropy to be f32 [T]");
  if (grad) {
    if (!is(node.inputs[3], DType::F32, t)) return node.fail("expected dnll to be f32 [T]");
    if (addend && !is(node.inputs[4], DType::F32, w.shape[0], w.shape[1]))
      return node.fail("expected the addend to be f32 [V, D]");
    if (node.output_present[3] && !is(node.outputs[3], x.dtype, t, x.shape[1]))
      return node.fail("expected dx to have the type of x");
    if (node.output_present[4] && !is(node.outputs[4], DType::F32, w.shape[0], w.shape[1]))
      return node.fail("expected dw to be f32 [V, D]");
    if (node.output_present[4] && !trained) return node.fail("expected trained = 1 where dw is wanted");
    if (addend) plan->allow_alias(4, 4);
  }
  if (chunk < 1) return node.fail("expected chunk >= 1, received " + std::to_string(chunk));
  if (!std::isfinite(logit_scale) || !(softcap >= 0))
    return node.fail("expected a finite logit_scale and softcap >= 0");
  p->tokens = t, p->width = x.shape[1], p->vocabulary = w.shape[0], p->chunk = std::min(chunk, std::max<int64_t>(t, 1));
  p->x = x.dtype, p->w = w.dtype;
  p->logit_scale = static_cast<float>(logit_scale), p->softcap = static_cast<float>(softcap);
  p->grad = grad, p->addend = addend != 0, p->threads = std::max(1, device.threads);
  const int64_t need = layout_of(*p).total;
  if (node.scratch_bytes < need)
    return node.fail("expected " + std::to_string(need) + " bytes of scratch, received " +
                     std::to_string(node.scratch_bytes) + ": compile the program for this number of threads");
  return ok_status();
}

Status prepare_forward(NodeView& node, const DeviceSpec& device, KernelPlan* plan) {
  return prepare_head(node, device, plan, false);
}
Status prepare_backward(NodeView& node, const DeviceSpec& device, KernelPlan* plan) {
  return prepare_head(node, device, plan, true);
}

// ---- one row of logits

struct RowLoss {
  float nll, correct, entropy;
  float max;
  double sum;  // of exp(z - max)
};

// The row holds raw logits on entry and softcapped ones on return.
RowLoss row_loss(const RowOps& ops, float* z, int64_t n, float softcap, int32_t label, bool want_entropy) {
  float piece[kBlock];
  if (softcap > 0) ops.softcap(z, softcap, z, n);
  RowLoss r{};
  r.max = ops.max(z, n);
  double moment = 0;  // sum of exp(z - max) (z - max)
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = std::min(kBlock, n - i);
    const double sum = ops.exp_sum(z + i, 1.0f, r.max, want_entropy ? piece : nullptr, m);
    r.sum += sum;
    if (want_entropy) moment += ops.dot[0](piece, z + i, m) - double(r.max) * sum;
  }
  const double log_sum = std::log(r.sum);
  r.nll = static_cast<float>(double(r.max) - z[label] + log_sum);
  r.entropy = static_cast<float>(log_sum - moment / r.sum);
  r.correct = z[label] == r.max && (label == 0 || ops.max(z, label) < r.max) ? 1.0f : 0.0f;
  return r;
}

// Replaces a row of (capped) logits by (softmax - onehot) * factor * cap'(z), as fp32 or, from the same address, bf16.
void row_gradient(const RowOps& ops, float* z, int64_t n, float softcap, int32_t label, const RowLoss& r, float factor,
                  DType out) {
  float piece[kBlock];
  const double lse = double(r.max) + std::log(r.sum);
  const float high = static_cast<float>(lse);
  // exp(z - lse) with lse rounded to fp32 is off by this factor in every entry.
  const float whole = factor * static_cast<float>(std::exp(double(high) - lse));
  auto* narrow = reinterpret_cast<uint16_t*>(z);
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t m = std::min(kBlock, n - i);
    ops.exp_sum(z + i, 1.0f, high, piece, m);
    if (label >= i && label < i + m)  // p - 1 without cancellation
      piece[label - i] = static_cast<float>(std::expm1(double(z[label]) - lse) * std::exp(lse - high));
    if (softcap > 0) ops.softcap_grad(piece, z + i, softcap, piece, m);
    // Writing bf16 never overtakes the fp32 that is still to be read.
    void* to = out == DType::BF16 ? static_cast<void*>(narrow + i) : z + i;
    ops.scale[0][static_cast<int>(out)](piece, whole, to, m);
  }
}

// ---- the head

// The rows of one chunk, one after the other: in place when they are neighbours, else copied to `to`.
const void* gather(const Plan& p, const void* x, const int32_t* rows, int64_t n, char* to) {
  const int64_t bytes = p.width * dtype_bytes(p.x);
  const char* from = static_cast<const char*>(x);
  if (rows[n - 1] - rows[0] == n - 1) return from + rows[0] * bytes;
  for (int64_t i = 0; i < n; i++) std::memcpy(to + i * bytes, from + rows[i] * bytes, bytes);
  return to;
}

MatOperand matrix(const void* data, DType dtype, int64_t rows, int64_t cols, int64_t ld, bool transposed) {
  MatOperand m;
  m.data = data, m.dtype = dtype, m.rows = rows, m.cols = cols, m.ld = ld, m.transposed = transposed;
  return m;
}

Status run_head(const KernelPlan& kernel_plan, const Buffers& b, Stream& stream) {
  const Plan& p = kernel_plan.get<Plan>();
  const Layout at = layout_of(p);
  char* scratch = static_cast<char*>(b.scratch);
  auto* rows = reinterpret_cast<int32_t*>(scratch);
  auto* logits = reinterpret_cast<float*>(scratch + at.logits);
  const int64_t T = p.tokens, D = p.width, V = p.vocabulary, row_bytes = D * dtype_bytes(p.x);
  const int32_t* labels = b.in<int32_t>(2);
  const float* dnll = p.grad ? b.in<float>(3) : nullptr;
  float *nll = b.out<float>(0), *correct = b.out<float>(1), *entropy = b.out<float>(2);
  char* dx = p.grad ? b.out<char>(3) : nullptr;
  float* dw = p.grad ? b.out<float>(4) : nullptr;

  for (float* out : {nll, correct, entropy})
    if (out) std::memset(out, 0, T * sizeof(float));
  int64_t count = 0;
  for (int64_t i = 0; i < T; i++) {
    if (labels[i] != kIgnore) rows[count++] = static_cast<int32_t>(i);
    else if (dx) std::memset(dx + i * row_bytes, 0, row_bytes);
  }

  const RowOps& ops = cpu::rows();
  const bool bf16 = p.x == DType::BF16;
  const DType gradient = bf16 ? DType::BF16 : DType::F32;
  const int64_t gradient_ld = bf16 ? 2 * V : V;
  const float* dw_so_far = p.addend ? b.in<float>(4) : nullptr;
  const int64_t chunks = (count + p.chunk - 1) / p.chunk;
  for (int64_t c = 0; c < chunks; c++) {
    const int64_t first = count * c / chunks, n = count * (c + 1) / chunks - first;
    const int32_t* mine = rows + first;
    const void* x = gather(p, b.inputs[0], mine, n, scratch + at.gathered);

    GemmTerm term{matrix(x, p.x, n, D, D, false), matrix(b.inputs[1], p.w, V, D, D, true)};
    GemmCall call;
    call.m = n, call.n = V, call.terms = &term, call.term_count = 1;
    call.alpha = p.logit_scale;
    call.c = logits, call.ldc = V, call.bf16_compute = bf16;
    gemm(call, *stream.pool, scratch + at.gemm);

    stream.pool->run(n, [&](int64_t i, int) {
      const int64_t row = mine[i];
      const bool valid = labels[row] >= 0 && labels[row] < V;
      const int32_t label = valid ? labels[row] : 0;
      RowLoss r = row_loss(ops, logits + i * V, V, p.softcap, label, entropy != nullptr);
      if (!valid) r.nll = r.entropy = std::numeric_limits<float>::quiet_NaN(), r.correct = 0;
      if (nll) nll[row] = r.nll;
      if (correct) correct[row] = r.correct;
      if (entropy) entropy[row] = r.entropy;
      if (dx || dw) {
        const float factor = valid ? dnll[row] * p.logit_scale : std::numeric_limits<float>::quiet_NaN();
        row_gradient(ops, logits + i * V, V, p.softcap, label, r, factor, gradient);
      }
    });

    if (dx) {
      const bool neighbours = mine[n - 1] - mine[0] == n - 1;
      char* out = neighbours ? dx + mine[0] * row_bytes : scratch + at.dx;
      term = {matrix(logits, gradient, n, V, gradient_ld, false), matrix(b.inputs[1], p.w, V, D, D, false)};
      call = {};
      call.m = n, call.n = D, call.terms = &term, call.term_count = 1;
      call.c = out, call.c_dtype = p.x, call.ldc = D, call.bf16_compute = bf16;
      gemm(call, *stream.pool, scratch + at.gemm);
      if (!neighbours)
        for (int64_t i = 0; i < n; i++) std::memcpy(dx + mine[i] * row_bytes, out + i * row_bytes, row_bytes);
    }
    if (dw) {
      term = {matrix(logits, gradient, n, V, gradient_ld, true), matrix(x, p.x, n, D, D, false)};
      call = {};
      call.m = V, call.n = D, call.terms = &term, call.term_count = 1;
      call.addend = dw_so_far, call.addend_ld = D;
      call.c = dw, call.ldc = D, call.bf16_compute = bf16;
      gemm(call, *stream.pool, scratch + at.gemm);
      dw_so_far = dw;
    }
  }
  if (dw && chunks == 0) {
    if (dw_so_far == nullptr) std::memset(dw, 0, V * D * sizeof(float));
    else if (dw_so_far != dw) std::memcpy(dw, dw_so_far, V * D * sizeof(float));
  }
  return ok_status();
}

// ---- cross_entropy of given logits

struct SmallPlan {
  int64_t rows = 0, classes = 0;
  bool bf16 = false;
};

Status prepare_small(NodeView& node, const DeviceSpec&, KernelPlan* plan, bool grad) {
  if (node.inputs.size() != (grad ? 3u : 2u) || node.outputs.size() != (grad ? 1u : 2u))
    return node.fail("unexpected number of inputs or outputs");
  const TensorType& z = node.inputs[0];
  if (!is_float(z.dtype) || z.rank != 2 || z.shape[1] < 1) return node.fail("expected logits to be f32 or bf16 [T, C]");
  if (!is(node.inputs[1], DType::I32, z.shape[0])) return node.fail("expected labels to be i32 [T]");
  if (grad ? !is(node.inputs[2], DType::F32, z.shape[0]) || !is(node.outputs[0], z.dtype, z.shape[0], z.shape[1])
           : (node.output_present[0] && !is(node.outputs[0], DType::F32, z.shape[0])) ||
                 (node.output_present[1] && !is(node.outputs[1], DType::F32, z.shape[0])))
    return node.fail(grad ? "expected dnll f32 [T] and dlogits of the type of the logits" : "expected outputs f32 [T]");
  if (grad) plan->allow_alias(0, 0);
  *plan->emplace<SmallPlan>() = {z.shape[0], z.shape[1], z.dtype == DType::BF16};
  return ok_status();
}
Status prepare_small_forward(NodeView& node, const DeviceSpec& d, KernelPlan* plan) {
  return prepare_small(node, d, plan, false);
}
Status prepare_small_backward(NodeView& node, const DeviceSpec& d, KernelPlan* plan) {
  return prepare_small(node, d, plan, true);
}

// Calls fn(row, label, valid, z, max, sum of exp(z - max)) for every row with a label; ignored(row) for the others.
template <class Fn, class Ignored>
void each_row(const SmallPlan& p, const Buffers& b, Stream& stream, Fn fn, Ignored ignored) {
  const int32_t* labels = b.in<int32_t>(1);
  stream.pool->run(p.rows, [&](int64_t row, int) {
    if (labels[row] == kIgnore) return ignored(row);
    const auto* wide = b.in<float>(0) + row * p.classes;
    const auto* narrow = b.in<uint16_t>(0) + row * p.classes;
    auto z = [&](int64_t c) {
      if (!p.bf16) return wide[c];
      const uint32_t bits = static_cast<uint32_t>(narrow[c]) << 16;
      float f;
      std::memcpy(&f, &bits, 4);
      return f;
    };
    float max = z(0);
    for (int64_t c = 1; c < p.classes; c++) max = std::max(max, z(c));
    double sum = 0;
    for (int64_t c = 0; c < p.classes; c++) sum += std::exp(double(z(c)) - max);
    fn(row, labels[row], labels[row] >= 0 && labels[row] < p.classes, z, max, sum);
  });
}

Status run_small_forward(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  const SmallPlan& p = plan.get<SmallPlan>();
  float *nll = b.out<float>(0), *correct = b.out<float>(1);
  auto put = [&](int64_t row, float loss, float hit) {
    if (nll) nll[row] = loss;
    if (correct) correct[row] = hit;
  };
  each_row(
      p, b, stream,
      [&](int64_t row, int32_t label, bool valid, auto z, float max, double sum) {
        if (!valid) return put(row, std::numeric_limits<float>::quiet_NaN(), 0);
        int64_t best = 0;
        while (z(best) != max && best + 1 < p.classes) best++;
        put(row, static_cast<float>(max + std::log(sum) - z(label)), best == label ? 1.0f : 0.0f);
      },
      [&](int64_t row) { put(row, 0, 0); });
  return ok_status();
}

Status run_small_backward(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  const SmallPlan& p = plan.get<SmallPlan>();
  const float* dnll = b.in<float>(2);
  const RowOps& ops = cpu::rows();
  auto put = [&](int64_t row, int64_t c, float g) {
    if (!p.bf16) b.out<float>(0)[row * p.classes + c] = g;
    else ops.scale[0][1](&g, 1.0f, b.out<uint16_t>(0) + row * p.classes + c, 1);
  };
  each_row(
      p, b, stream,
      [&](int64_t row, int32_t label, bool valid, auto z, float max, double sum) {
        for (int64_t c = 0; c < p.classes; c++) {
          const double prob = std::exp(double(z(c)) - max) / sum;
          const double g = (prob - (c == label ? 1 : 0)) * dnll[row];
          put(row, c, valid ? static_cast<float>(g) : std::numeric_limits<float>::quiet_NaN());
        }
      },
      [&](int64_t row) {
        for (int64_t c = 0; c < p.classes; c++) put(row, c, 0);
      });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(linear_cross_entropy, prepare_forward, run_head);
LATHE_CPU_KERNEL(linear_cross_entropy_grad, prepare_backward, run_head);
LATHE_CPU_KERNEL(cross_entropy, prepare_small_forward, run_small_forward);
LATHE_CPU_KERNEL(cross_entropy_grad, prepare_small_backward, run_small_backward);

}  // namespace lathe::cpu
