// Our own GEMM: C = alpha * sum_i op(a_i) op(b_i) + bias + addend, one pass over the concatenated K of all terms.
//
// Operands are read through a fetch that knows their dtype, transposition and 4-bit blocks, so that a quantised weight
// never exists in full here either; accumulation is fp32 across all terms, with one rounding at the end. bf16
// arithmetic rounds operands to bf16 in shared memory and multiplies with mma.m16n8k16; fp32 arithmetic is fma.
// Work is cut over M and N only, so the bits depend on shapes alone.
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
constexpr int kFormatNf4 = 16, kFormatFp4 = 17;

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
  GemmLimit limit_m, limit_k;    // limit_k holds for the only term
  int keep_when_empty = 0;       // with no K at all, leave C as it is
};

Status gemm(Stream& stream, const GemmCall& call, bool bf16_compute);

}  // namespace lathe::cuda
