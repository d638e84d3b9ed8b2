// Matrix products: C = alpha * sum_i op(a_i) op(b_i) + bias + addend, one fp32 sum over the concatenated K of all terms.
//
// `multiply` chooses among four ways, by shapes and by what the machine has:
//   rows     up to 32 rows: 4-bit or dense weights go through tensor cores as they are read, once (gemm_rows.cu)
//   cuBLASLt where the library is found: 4-bit and fp32 operands are first turned into bf16 in scratch, and several
//            terms are laid side by side along K, so that LoRA is extra columns of one product (cublaslt.h)
//   mma      our own: 128 x 128 tiles, cp.async, ldmatrix, mma.m16n8k16; the same scratch for 4-bit weights (gemm_mma.cu)
//   general  any dtype and alignment, element by element; fp32 arithmetic without cuBLASLt (gemm.cu)
// bf16 arithmetic rounds operands to bf16 and sums in fp32, with one rounding at the end, in all of them. Work is cut over
// M and N only (or in a fixed way over K), so the bits depend on shapes alone.
#pragma once
#include "cuda/common.cuh"

namespace lathe::cuda {

constexpr int kGemmTerms = 8;

// A stored matrix [rows, cols], row-major; `transposed`: op() is its transpose.
struct GemmOperand {
  const void* data = nullptr;
  int64_t ld = 0;
  int format = 0;  // DType code of F32, BF16, F16; 16 nf4; 17 fp4
  int transposed = 0;
  const void* absmax = nullptr;    // f32 per block of 64, or with `nested` u8 codes
  const float* nested = nullptr;   // per 256 blocks
  const float* offset = nullptr;
};
constexpr int kFormatBf16 = int(DType::BF16), kFormatNf4 = 16, kFormatFp4 = 17;

struct GemmTerm {
  GemmOperand a, b;
  int64_t k = 0;
};
// Rows that exist only at run time: max(0, min(most, *count - first)). Null: all of them.
struct GemmLimit {
  const int32_t* count = nullptr;
  int64_t first = 0;
};
struct GemmCall {
  GemmTerm terms[kGemmTerms];
  int term_count = 0;
  int64_t m = 0, n = 0, ldc = 0;
  float alpha = 1;
  const void* bias = nullptr;
  const void* addend = nullptr;  // [m, n] with ldc, of C's dtype
  void* c = nullptr;
  int bias_dtype = 0, c_dtype = 0;
  // A library may compute rows past limit_m (nobody reads them) and add rows past limit_k (they must be zero).
  GemmLimit limit_m, limit_k;    // limit_k holds for the only term
  int keep_when_empty = 0;       // with no K at all, leave C as it is
};

// What `multiply` may use, in bytes; restated in src/ops/cuda-scratch.ts. Depends on shapes and formats alone.
//   workspace of cuBLASLt    64 MiB
//   A in bf16, in chunks     2 * chunk * K   if there are several terms, or A is not bf16 with rows of 16 bytes
//   B in bf16, in panels     2 * panel * K   if there are several terms, or B is not; K sums the terms', each up to 8
struct GemmScratch {
  int64_t k = 0, chunk = 0, panel = 0, a_bytes = 0, b_bytes = 0, total = 0;
};
constexpr int64_t kGemmWorkspace = int64_t(64) << 20;
// Elements of a chunk of A and of a panel of B, at most (unless one row strip is more). Smaller ones are for tests.
struct GemmLimits {
  int64_t most_a = int64_t(1) << 25, most_b = int64_t(1) << 26, rows = 128, columns = 256;
};
GemmScratch gemm_scratch(const GemmCall& call, bool bf16_compute, const GemmLimits& limits = {});

Status multiply(Stream& stream, const GemmCall& call, bool bf16_compute, void* scratch, const GemmLimits& limits = {});

// ---- the ways

Status gemm_general(Stream& stream, const GemmCall& call, bool bf16_compute);
bool gemm_rows_takes(const GemmCall& call);
Status gemm_rows(Stream& stream, const GemmCall& call);
bool gemm_mma_takes(const GemmCall& call);
Status gemm_mma(Stream& stream, const GemmCall& call);
// Rows [row, row + rows) and columns [col, col + cols) of a stored operand as bf16, in a matrix of `ld` columns; zeros up
// to out_rows and out_cols.
Status gemm_pack(Stream& stream, const GemmOperand& from, int64_t row, int64_t rows, int64_t col, int64_t cols, uint16_t* to, int64_t ld, int64_t out_rows, int64_t out_cols);

}  // namespace lathe::cuda
