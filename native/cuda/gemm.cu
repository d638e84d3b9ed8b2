// Chooses how a product is computed, and brings its operands into the form that the fast ways want. See gemm.cuh.
#include "cuda/gemm.cuh"

#include "cuda/cublaslt.h"

namespace lathe::cuda {
namespace {

bool suits(const GemmOperand& o) { return o.format == kFormatBf16 && o.ld % 8 == 0; }

struct Needs { bool a = false, b = false; };
Needs needs_of(const GemmCall& call) {
  Needs n{call.term_count > 1, call.term_count > 1};
  for (int i = 0; i < call.term_count; i++) {
    n.a = n.a || !suits(call.terms[i].a);
    n.b = n.b || !suits(call.terms[i].b);
  }
  return n;
}

int64_t format_bytes(int dtype) { return dtype_bytes(DType(dtype)); }

// The operand whose first row or column of M or N is `first`; 4-bit ones are packed instead.
GemmOperand from(GemmOperand o, int64_t first, bool rows_are_k) {
  o.data = static_cast<const char*>(o.data) + (rows_are_k ? first : first * o.ld) * format_bytes(o.format);
  return o;
}
// C [m0.., n0..] of a call.
GemmCall part_of(GemmCall c, int64_t m0, int64_t m, int64_t n0, int64_t n) {
  const int64_t at = (m0 * c.ldc + n0) * format_bytes(c.c_dtype);
  c.m = m, c.n = n;
  c.c = static_cast<char*>(c.c) + at;
  if (c.addend) c.addend = static_cast<const char*>(c.addend) + at;
  if (c.bias) c.bias = static_cast<const char*>(c.bias) + n0 * format_bytes(c.bias_dtype);
  c.limit_m.first += m0;
  return c;
}

// Puts `count` rows or columns of M or N, from `first`, of one operand into `to` as bf16 in its own orientation: with K
// along the rows, at column `k0` of rows of `ld`; across, at row `k0`. K is padded with zeros to a multiple of 8.
Status pack(Stream& stream, const GemmOperand& o, int64_t k, bool along_k, int64_t first, int64_t count, uint16_t* to, int64_t ld, int64_t k0) {
  const int64_t padded = round_up(k, 8);
  if (along_k) return gemm_pack(stream, o, first, count, 0, k, to + k0, ld, count, padded);
  return gemm_pack(stream, o, 0, k, first, count, to + k0 * ld, ld, padded, ld);
}
GemmOperand packed(const uint16_t* data, int64_t ld, int transposed) {
  GemmOperand o;
  o.data = data, o.ld = ld, o.format = kFormatBf16, o.transposed = transposed;
  return o;
}

// Brings one side of every term, `count` rows or columns of M or N from `first`, to where and how the kernels read it: where it is,
// if it suits; else packed into `place`. With `together`, the K of all terms, terms lie side by side along K.
Status bring(Stream& stream, GemmCall& call, GemmOperand GemmTerm::*side, int64_t first, int64_t count, int64_t together, uint16_t* place) {
  int64_t k0 = 0;
  for (int i = 0; i < call.term_count; i++) {
    GemmOperand& o = call.terms[i].*side;
    const bool along = (o.transposed != 0) == (side == &GemmTerm::b);
    const int64_t k = round_up(call.terms[i].k, 8), across = round_up(count, 8);
    if (together || !suits(o)) {
      const int64_t ld = along ? (together ? together : k) : across;
      uint16_t* to = together ? place : place + k0 * across;
      LATHE_TRY(pack(stream, o, call.terms[i].k, along, first, count, to, ld, together ? k0 : 0));
      o = packed(to, ld, o.transposed);
    } else {
      o = from(o, first, !along);
    }
    k0 += k;
  }
  return ok_status();
}

bool alike(const GemmCall& c) {
  for (int i = 0; i < c.term_count; i++)
    if (c.terms[i].a.transposed != c.terms[0].a.transposed || c.terms[i].b.transposed != c.terms[0].b.transposed) return false;
  return true;
}

}  // namespace

GemmScratch gemm_scratch(const GemmCall& call, bool bf16_compute, const GemmLimits& limits) {
  GemmScratch s;
  for (int i = 0; i < call.term_count; i++) s.k += round_up(call.terms[i].k, 8);
  const int64_t k = std::max<int64_t>(s.k, 1), m = round_up(call.m, 8), n = round_up(call.n, 8);
  s.chunk = m * k <= limits.most_a ? m : std::max(limits.rows, limits.most_a / k / limits.rows * limits.rows);
  s.panel = n * k <= limits.most_b ? n : round_up(ceil_div(n, ceil_div(n * k, limits.most_b)), limits.columns);
  if (bf16_compute) {
    const Needs needs = needs_of(call);
    if (needs.a) s.a_bytes = round_up(2 * s.chunk * k, 256);
    if (needs.b) s.b_bytes = round_up(2 * s.panel * k, 256);
  }
  s.total = kGemmWorkspace + s.a_bytes + s.b_bytes;
  return s;
}

Status multiply(Stream& stream, const GemmCall& call, bool bf16_compute, void* scratch, const GemmLimits& limits) {
  if (call.m == 0 || call.n == 0) return ok_status();
  CublasLt* lt = cublaslt_of(queue_of(stream));
  if (!bf16_compute) {
    bool done = false;
    if (lt) LATHE_TRY(cublaslt_multiply(*lt, stream, call, false, scratch, &done));
    return done ? ok_status() : gemm_general(stream, call, false);
  }
  if (gemm_rows_takes(call)) return gemm_rows(stream, call);

  const GemmScratch s = gemm_scratch(call, true, limits);
  const Needs needs = needs_of(call);
  const bool together = call.term_count > 1 && lt && alike(call);
  auto* a_place = reinterpret_cast<uint16_t*>(static_cast<char*>(scratch) + kGemmWorkspace);
  auto* b_place = reinterpret_cast<uint16_t*>(static_cast<char*>(scratch) + kGemmWorkspace + s.a_bytes);
  // Own kernels read suitable operands where they are, even of several terms.
  bool any_a = together, any_b = together;
  for (int i = 0; i < call.term_count; i++) any_a = any_a || !suits(call.terms[i].a), any_b = any_b || !suits(call.terms[i].b);
  const int64_t chunk = any_a && needs.a ? s.chunk : call.m, panel = any_b && needs.b ? s.panel : call.n;
  for (int64_t n0 = 0; n0 < call.n; n0 += panel) {
    const int64_t n = std::min(panel, call.n - n0);
    GemmCall column = call;
    LATHE_TRY(bring(stream, column, &GemmTerm::b, n0, n, together ? s.k : 0, b_place));
    for (int64_t m0 = 0; m0 < call.m; m0 += chunk) {
      const int64_t m = std::min(chunk, call.m - m0);
      GemmCall tile = part_of(column, m0, m, n0, n);
      LATHE_TRY(bring(stream, tile, &GemmTerm::a, m0, m, together ? s.k : 0, a_place));
      if (together) {
        tile.term_count = 1;
        tile.terms[0].k = s.k;
      }
      bool done = false;
      if (lt) LATHE_TRY(cublaslt_multiply(*lt, stream, tile, true, scratch, &done));
      if (done) continue;
      LATHE_TRY(gemm_mma_takes(tile) ? gemm_mma(stream, tile) : gemm_general(stream, tile, true));
    }
  }
  return ok_status();
}

}  // namespace lathe::cuda
