// linear_cross_entropy(_grad): the language-model head and its loss without the logits of all tokens.
// cross_entropy(_grad): the loss of logits that exist anyway (classification).
//
// The idea (Liger Kernel, arXiv 2410.10989), as in native/cpu/loss.cpp: rows whose label is -100 are dropped first, the
// rest go through in chunks: one GEMM makes the chunk's logits in fp32, one kernel turns each row into its loss and,
// in place, its gradient (as bf16 over the row's own bytes in bf16 arithmetic), and two GEMMs add to dx and dw.
//   z = softcap(logit_scale x w^T)      nll = lse - z[label]      dz = (softmax(z) - onehot) dnll
// How many rows have labels is known on the device only: the list and its length lie in scratch, all chunks are
// launched, and kernels past the end leave at once. So nothing waits for the host and a graph can be captured.
//
// Invariants: fp32 logits; a row's sums are a fixed tree of fp32 with f64 at the block level, so its result does not
// depend on where it stands. dw adds chunk after chunk. A label that is neither -100 nor in [0, V) gives NaN.
//
// Scratch, in bytes, with c = min(max(chunk, 512), T), e = bytes of x's dtype, W = V up to 8, up(x) = 256 * ceil(x / 256):
//   scratch(linear_cross_entropy)      = 256 + up(4 * T) + up(4 * c * W) + up(c * D * e) + the GEMM's (gemm.cuh; of full and last chunk)
//   scratch(linear_cross_entropy_grad) = 256 + up(4 * T) + up(4 * c * W) + 2 up(c * D * e) + the largest of its three GEMMs'
// cross_entropy and cross_entropy_grad need none.
#include "cuda/common.cuh"
#include "cuda/gemm.cuh"

namespace lathe::cuda {
namespace {

constexpr int32_t kIgnore = -100;
constexpr unsigned kThreads = 256;

// ---- which rows count, in order: one block, 1024 labels at a time. Also clears the outputs of those that do not.

__global__ void __launch_bounds__(1024) list_kernel(const int32_t* labels, int64_t tokens, int32_t* count, int32_t* rows, float* nll, float* correct, float* entropy) {
  LATHE_SHARED(int32_t, counts, 32);
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  int32_t found = 0;
  for (int64_t start = 0; start < tokens; start += 1024) {
    const int64_t i = start + threadIdx.x;
    const bool keep = i < tokens && labels[i] != kIgnore;
    const unsigned votes = warp_ballot(keep);
    if (lane == 0) counts[warp] = count_bits(votes);
    block_sync();
    int32_t before = found;
    for (int w = 0; w < 32; w++) {
      if (w < warp) before += counts[w];
      found += counts[w];
    }
    if (keep) rows[before + count_bits(votes & ((1u << lane) - 1))] = int32_t(i);
    else if (i < tokens) {
      if (nll) nll[i] = 0;
      if (correct) correct[i] = 0;
      if (entropy) entropy[i] = 0;
    }
    block_sync();
  }
  if (threadIdx.x == 0) *count = found;
}

// Rows past the last are cleared: a product that sums over rows may read them.
template <class T>
__global__ void __launch_bounds__(kThreads) gather_kernel(const T* x, const int32_t* count, const int32_t* rows, int64_t first, T* to, int64_t width) {
  const int64_t i = blockIdx.x;
  if (first + i >= *count) {
    for (int64_t c = threadIdx.x; c < width; c += kThreads) to[i * width + c] = T{};
    return;
  }
  const T* from = x + int64_t(rows[first + i]) * width;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) to[i * width + c] = from[c];
}
template <class T>
__global__ void __launch_bounds__(kThreads) scatter_kernel(const T* from, const int32_t* count, const int32_t* rows, int64_t first, T* dx, int64_t width) {
  const int64_t i = blockIdx.x;
  if (first + i >= *count) return;
  T* to = dx + int64_t(rows[first + i]) * width;
  for (int64_t c = threadIdx.x; c < width; c += kThreads) to[c] = from[i * width + c];
}

// ---- one row of logits

struct RowArguments {
  float* logits;
  const int32_t *count, *rows, *labels;
  const float* dnll;  // null: no gradient
  float *nll, *correct, *entropy;
  int64_t first, vocab, ld;
  float softcap, logit_scale;
  int bf16, clear;  // clear: rows past the last become zero
};

__global__ void __launch_bounds__(kThreads) row_kernel(RowArguments p) {
  LATHE_SHARED(float, floats, 32);
  LATHE_SHARED(double, doubles, 32);
  LATHE_SHARED(float, label_value, 1);
  const int64_t n = p.vocab;
  float* z = p.logits + int64_t(blockIdx.x) * p.ld;
  if (p.first + blockIdx.x >= *p.count) {
    if (p.clear)
      for (int64_t i = threadIdx.x; i < n; i += kThreads) z[i] = 0;
    return;
  }
  const int64_t row = p.rows[p.first + blockIdx.x];
  const bool valid = p.labels[row] >= 0 && p.labels[row] < n;
  const int64_t label = valid ? p.labels[row] : 0;
  const float nan = bits_float(0x7fc00000u);

  float top = -INFINITY;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    float v = z[i];
    if (p.softcap > 0) z[i] = v = p.softcap * tanhf(v / p.softcap);
    top = v > top ? v : top;
    if (i == label) *label_value = v;
  }
  top = block_reduce(top, floats, Max{});  // its barriers publish label_value
  const float at_label = *label_value;
  float sum = 0, moment = 0;  // of exp(z - top), of exp(z - top) (z - top)
  unsigned before = 0;        // does an earlier class reach the top?
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const float d = z[i] - top, e = expf(d);
    sum += e;
    moment += e > 0 ? e * d : 0.0f;
    before |= unsigned(i < label && z[i] == top);
  }
  const double total = block_reduce(double(sum), doubles, Sum{});
  const double moments = block_reduce(double(moment), doubles, Sum{});
  before = block_any(before);
  const double log_total = log(total);
  if (threadIdx.x == 0) {
    if (p.nll) p.nll[row] = valid ? float(double(top) - double(at_label) + log_total) : nan;
    if (p.correct) p.correct[row] = valid && at_label == top && !before ? 1.0f : 0.0f;
    if (p.entropy) p.entropy[row] = valid ? float(log_total - moments / total) : nan;
  }
  if (!p.dnll) return;

  const double lse = double(top) + log_total;
  const float high = float(lse);
  const float factor = valid ? p.dnll[row] * p.logit_scale : nan;
  // exp(z - lse) with lse rounded to fp32 is off by this factor in every entry.
  const float whole = factor * float(exp(double(high) - lse));
  for (int64_t start = 0; start < n; start += kThreads) {
    const int64_t i = start + threadIdx.x;
    float g = 0;
    if (i < n) {
      g = expf(z[i] - high);
      if (i == label) g = float(expm1(double(z[i]) - lse) * exp(lse - double(high)));
      if (p.softcap > 0) {
        const float t = z[i] / p.softcap;
        g *= (1 - t) * (1 + t);
      }
      g *= whole;
    }
    // bf16 never overtakes the fp32 that is still to be read, once all of this piece has been read.
    if (p.bf16) {
      block_sync();
      if (i < n) reinterpret_cast<uint16_t*>(z)[i] = round_bf16(float_bits(g));
    } else if (i < n) {
      z[i] = g;
    }
  }
}

// ---- the head

struct Head {
  int64_t tokens = 0, width = 0, vocab = 0, chunk = 0;
  DType x = DType::F32, w = DType::F32;
  float logit_scale = 1, softcap = 0;
  bool grad = false, addend = false;
};
// Larger chunks than the CPU's: a product of 512 rows is what keeps a GPU busy.
constexpr int64_t kLeastChunk = 512;

GemmOperand matrix(const void* data, DType dtype, int64_t ld, bool transposed) {
  GemmOperand o;
  o.data = data, o.ld = ld, o.format = int(dtype), o.transposed = transposed;
  return o;
}
GemmCall one_term(GemmOperand a, GemmOperand b, int64_t k, int64_t m, int64_t n, int64_t ldc, void* c, DType dtype) {
  GemmCall call;
  call.term_count = 1;
  call.terms[0] = {a, b, k};
  call.m = m, call.n = n, call.ldc = ldc, call.c = c, call.c_dtype = int(dtype);
  return call;
}
// The three products of a chunk of `rows` rows; pointers may be null when only sizes matter.
struct Products { GemmCall logits, back, grow; };
Products products_of(const Head& p, int64_t rows, const void* w, void* gathered, void* logits, void* dx, void* dw) {
  const bool bf16 = p.x == DType::BF16;
  const int64_t ld = round_up(p.vocab, 8);
  GemmOperand dz = matrix(logits, bf16 ? DType::BF16 : DType::F32, bf16 ? 2 * ld : ld, false);
  Products all;
  all.logits = one_term(matrix(gathered, p.x, p.width, false), matrix(w, p.w, p.width, true), p.width, rows, p.vocab, ld, logits, DType::F32);
  all.logits.alpha = p.logit_scale;
  all.back = one_term(dz, matrix(w, p.w, p.width, false), p.vocab, rows, p.width, p.width, dx, p.x);
  dz.transposed = 1;
  all.grow = one_term(dz, matrix(gathered, p.x, p.width, false), rows, p.vocab, p.width, p.width, dw, DType::F32);
  return all;
}

struct Layout { int64_t rows, logits, gathered, dx, gemm, total; };
Layout layout_of(const Head& p) {
  const int64_t gather = round_up(p.chunk * p.width * dtype_bytes(p.x), 256);
  const bool bf16 = p.x == DType::BF16;
  int64_t gemm = 0;
  // A chunk is full, or the last one.
  for (int64_t rows : {p.chunk, p.tokens % p.chunk}) {
    const Products all = products_of(p, rows, nullptr, nullptr, nullptr, nullptr, nullptr);
    gemm = std::max(gemm, gemm_scratch(all.logits, bf16).total);
    if (p.grad) gemm = std::max({gemm, gemm_scratch(all.back, bf16).total, gemm_scratch(all.grow, bf16).total});
  }
  Layout l;
  l.rows = 256;
  l.logits = l.rows + round_up(4 * p.tokens, 256);
  l.gathered = l.logits + round_up(4 * p.chunk * round_up(p.vocab, 8), 256);
  l.dx = l.gathered + gather;
  l.gemm = l.dx + (p.grad ? gather : 0);
  l.total = l.gemm + gemm;
  return l;
}
bool is(const TensorType& t, DType dtype, int64_t rows, int64_t cols = 0) {
  return t.dtype == dtype && t.rank == (cols > 0 ? 2 : 1) && t.shape[0] == rows && (cols == 0 || t.shape[1] == cols);
}
Status prepare_head(NodeView& node, KernelPlan* plan, bool grad) {
  auto* p = plan->emplace<Head>();
  double logit_scale = 0, softcap = 0;
  int64_t chunk = 0;
  LATHE_TRY(node.attributes.number("logit_scale", &logit_scale));
  LATHE_TRY(node.attributes.number("softcap", &softcap));
  LATHE_TRY(node.attributes.integer("chunk", &chunk));
  bool trained = false;
  if (grad) LATHE_TRY(flag(node, "addend", &p->addend));
  if (grad) LATHE_TRY(flag(node, "trained", &trained));
  LATHE_TRY(expect_arity(node, grad ? 4 + size_t(p->addend) : 3, grad ? 5 : 3));
  const TensorType &x = node.inputs[0], &w = node.inputs[1];
  LATHE_EXPECT(node, is_float(x) && x.rank == 2 && is_float(w) && w.rank == 2 && w.shape[1] == x.shape[1], "expected x [T, D] and w [V, D], f32 or bf16");
  const int64_t t = x.shape[0];
  LATHE_EXPECT(node, is(node.inputs[2], DType::I32, t), "expected labels to be i32 [T]");
  for (size_t i = 0; i < 3; i++) LATHE_EXPECT(node, !has_output(node, i) || is(node.outputs[i], DType::F32, t), "expected nll, correct and entropy to be f32 [T]");
  if (grad) {
    LATHE_EXPECT(node, is(node.inputs[3], DType::F32, t), "expected dnll to be f32 [T]");
    LATHE_EXPECT(node, !p->addend || is(node.inputs[4], DType::F32, w.shape[0], w.shape[1]), "expected the addend to be f32 [V, D]");
    LATHE_EXPECT(node, is(node.outputs[3], x.dtype, t, x.shape[1]), "expected dx to have the type of x");
    LATHE_EXPECT(node, !has_output(node, 4) || is(node.outputs[4], DType::F32, w.shape[0], w.shape[1]), "expected dw to be f32 [V, D]");
    LATHE_EXPECT(node, !has_output(node, 4) || trained, "expected trained = 1 where dw is wanted");
    if (p->addend) plan->allow_alias(4, 4);
  }
  LATHE_EXPECT(node, chunk >= 1, "expected chunk >= 1, received " + std::to_string(chunk));
  LATHE_EXPECT(node, std::isfinite(logit_scale) && softcap >= 0, "expected a finite logit_scale and softcap >= 0");
  p->tokens = t, p->width = x.shape[1], p->vocab = w.shape[0], p->chunk = std::min(std::max(chunk, kLeastChunk), std::max<int64_t>(t, 1));
  p->x = x.dtype, p->w = w.dtype;
  p->logit_scale = float(logit_scale), p->softcap = float(softcap);
  p->grad = grad;
  return expect_scratch(node, layout_of(*p).total);
}
Status prepare_forward(NodeView& node, const DeviceSpec&, KernelPlan* plan) { return prepare_head(node, plan, false); }
Status prepare_backward(NodeView& node, const DeviceSpec&, KernelPlan* plan) { return prepare_head(node, plan, true); }

Status run_head(const KernelPlan& kernel_plan, const Buffers& b, Stream& stream) {
  auto& p = kernel_plan.get<Head>();
  const Layout at = layout_of(p);
  auto* scratch = static_cast<char*>(b.scratch);
  auto* count = reinterpret_cast<int32_t*>(scratch);
  auto* rows = reinterpret_cast<int32_t*>(scratch + at.rows);
  auto* logits = reinterpret_cast<float*>(scratch + at.logits);
  const int64_t T = p.tokens, D = p.width, V = p.vocab;
  const bool bf16 = p.x == DType::BF16;
  void* dx = p.grad ? b.outputs[3] : nullptr;
  void* dw = p.grad ? b.outputs[4] : nullptr;
  if (dx && T * D > 0) LATHE_TRY(zero_queued(queue_of(stream), dx, uint64_t(T * D * dtype_bytes(p.x))));
  LATHE_TRY(launch(stream, list_kernel, Grid(1), 1024, 0, b.in<int32_t>(2), T, count, rows, b.out<float>(0), b.out<float>(1), b.out<float>(2)));

  // dw is written by the first chunk even when it has no rows.
  for (int64_t first = 0; first < T || (dw && first == 0); first += p.chunk) {
    const int64_t most = std::max<int64_t>(1, std::min(p.chunk, T - first));
    const GemmLimit limit{count, first};
    LATHE_TRY(with_float(p.x, [&](auto t) {
      using E = decltype(t);
      return launch(stream, gather_kernel<E>, Grid(most), kThreads, 0, b.in<E>(0), count, rows, first, reinterpret_cast<E*>(scratch + at.gathered), D);
    }));
    Products all = products_of(p, most, b.inputs[1], scratch + at.gathered, logits, scratch + at.dx, dw);
    all.logits.limit_m = all.back.limit_m = all.grow.limit_k = limit;
    LATHE_TRY(multiply(stream, all.logits, bf16, scratch + at.gemm));

    RowArguments r{};
    r.logits = logits, r.count = count, r.rows = rows, r.labels = b.in<int32_t>(2);
    r.dnll = dx || dw ? b.in<float>(3) : nullptr;
    r.nll = b.out<float>(0), r.correct = b.out<float>(1), r.entropy = b.out<float>(2);
    r.first = first, r.vocab = V, r.ld = round_up(V, 8), r.softcap = p.softcap, r.logit_scale = p.logit_scale, r.bf16 = bf16, r.clear = dw != nullptr;
    LATHE_TRY(launch(stream, row_kernel, Grid(most), kThreads, 0, r));

    if (dx) {
      LATHE_TRY(multiply(stream, all.back, bf16, scratch + at.gemm));
      LATHE_TRY(with_float(p.x, [&](auto t) {
        using E = decltype(t);
        return launch(stream, scatter_kernel<E>, Grid(most), kThreads, 0, reinterpret_cast<const E*>(scratch + at.dx), count, rows, first, static_cast<E*>(dx), D);
      }));
    }
    if (dw) {
      all.grow.addend = first == 0 ? (p.addend ? b.inputs[4] : nullptr) : dw;
      all.grow.keep_when_empty = first > 0;
      LATHE_TRY(multiply(stream, all.grow, bf16, scratch + at.gemm));
    }
  }
  return ok_status();
}

// ---- cross_entropy of given logits: a warp per row, f64 inside

template <class T>
__global__ void __launch_bounds__(128, 8) small_kernel(const T* logits, const int32_t* labels, const float* dnll, float* nll, float* correct, T* dlogits, int64_t tokens, int64_t classes) {
  const int64_t row = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
  if (row >= tokens) return;
  const int lane = int(threadIdx.x % 32);
  const T* z = logits + row * classes;
  const int32_t label = labels[row];
  const bool valid = label >= 0 && label < classes, ignored = label == kIgnore;
  float top = -INFINITY;
  for (int64_t c = lane; c < classes; c += 32) top = load(z[c]) > top ? load(z[c]) : top;
  top = warp_reduce(top, Max{});
  double sum = 0;
  int64_t best = classes;
  for (int64_t c = lane; c < classes; c += 32) {
    sum += exp(double(load(z[c])) - double(top));
    if (load(z[c]) == top && c < best) best = c;
  }
  sum = warp_reduce(sum, Sum{});
  best = warp_reduce(best, [](int64_t a, int64_t b) { return a < b ? a : b; });
  const float nan = bits_float(0x7fc00000u);
  if (!dlogits) {
    if (lane > 0) return;
    if (nll) nll[row] = ignored ? 0.0f : !valid ? nan : float(double(top) + log(sum) - double(load(z[label])));
    if (correct) correct[row] = !ignored && valid && best == label ? 1.0f : 0.0f;
    return;
  }
  for (int64_t c = lane; c < classes; c += 32) {
    const double prob = exp(double(load(z[c])) - double(top)) / sum;
    const float g = float((prob - (c == label ? 1 : 0)) * double(dnll[row]));
    store(dlogits + row * classes + c, ignored ? 0.0f : valid ? g : nan);
  }
}

struct Small {
  int64_t rows = 0, classes = 0;
  DType type = DType::F32;
};
Status prepare_small(NodeView& node, KernelPlan* plan, bool grad) {
  LATHE_TRY(expect_arity(node, grad ? 3 : 2, grad ? 1 : 2));
  const TensorType& z = node.inputs[0];
  LATHE_EXPECT(node, is_float(z) && z.rank == 2 && z.shape[1] >= 1, "expected logits to be f32 or bf16 [T, C]");
  LATHE_EXPECT(node, is(node.inputs[1], DType::I32, z.shape[0]), "expected labels to be i32 [T]");
  if (grad) {
    LATHE_EXPECT(node, is(node.inputs[2], DType::F32, z.shape[0]) && same_type(node.outputs[0], z), "expected dnll f32 [T] and dlogits of the type of the logits");
    plan->allow_alias(0, 0);
  } else {
    for (size_t i = 0; i < 2; i++) LATHE_EXPECT(node, !has_output(node, i) || is(node.outputs[i], DType::F32, z.shape[0]), "expected outputs f32 [T]");
  }
  *plan->emplace<Small>() = {z.shape[0], z.shape[1], z.dtype};
  return ok_status();
}
Status prepare_small_forward(NodeView& node, const DeviceSpec&, KernelPlan* plan) { return prepare_small(node, plan, false); }
Status prepare_small_backward(NodeView& node, const DeviceSpec&, KernelPlan* plan) { return prepare_small(node, plan, true); }
template <bool kGrad>
Status run_small(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& p = plan.get<Small>();
  if (p.rows == 0) return ok_status();
  return with_float(p.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, small_kernel<T>, Grid(ceil_div(p.rows, 4)), 128, 0, b.in<T>(0), b.in<int32_t>(1), kGrad ? b.in<float>(2) : nullptr,
                  kGrad ? nullptr : b.out<float>(0), kGrad ? nullptr : b.out<float>(1), kGrad ? b.out<T>(0) : nullptr, p.rows, p.classes);
  });
}

}  // namespace

LATHE_CUDA_KERNEL(linear_cross_entropy, prepare_forward, run_head);
LATHE_CUDA_KERNEL(linear_cross_entropy_grad, prepare_backward, run_head);
LATHE_CUDA_KERNEL(cross_entropy, prepare_small_forward, run_small<false>);
LATHE_CUDA_KERNEL(cross_entropy_grad, prepare_small_backward, run_small<true>);

}  // namespace lathe::cuda
