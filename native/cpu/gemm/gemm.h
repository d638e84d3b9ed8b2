/*
 * One packed matrix product for fp32, bf16 and 4-bit weights:
 *
 *     C = alpha * sum_i op(a_i) op(b_i) + bias + addend
 *
 * The idea (Goto and van de Geijn 2008, BLIS): operands are read through a packing step that casts,
 * dequantises and transposes, and one register tile per instruction set does all the arithmetic. Extra
 * terms are extra K columns, so a LoRA update x A^T B^T rides in the same tile as x W^T.
 *
 * Invariants
 *  - Element (i, j) is one chain of fused multiply-adds over the terms in order and over k upwards,
 *    whatever the tile, the blocking, the chunk schedule or the thread count. So results are
 *    bit-identical for any number of threads, and a row's result does not depend on M or on where the
 *    row stands. (bf16 on AVX-512 BF16 steps through k in pairs: odd k first, then even.)
 *  - bf16_compute rounds every operand element to bf16 (RNE; once, also for 4-bit) and accumulates in fp32.
 *  - The sum leaves fp32 once: c = round(fma(alpha, sum, bias) + addend).
 *  - No allocation, no throw. Scratch is sized by gemm_scratch_bytes and owned by the caller.
 */
#pragma once

#include <cstdint>

#include "operand.h"

namespace lathe::cpu {

class Pool;

struct GemmTerm {
  MatOperand a;  // op(a): m x k
  MatOperand b;  // op(b): k x n
};

struct GemmCall {
  int64_t m = 0;
  int64_t n = 0;
  const GemmTerm* terms = nullptr;
  int term_count = 0;  // 1 .. kGemmMaxTerms; every term has its own k
  float alpha = 1.0f;
  const void* bias = nullptr;  // [n] or null
  DType bias_dtype = DType::F32;
  const void* addend = nullptr;  // [m, n] or null; may be exactly c (same pointer, dtype and ld)
  DType addend_dtype = DType::F32;
  int64_t addend_ld = 0;
  void* c = nullptr;           // [m, n]; must not overlap any operand
  DType c_dtype = DType::F32;  // F32 or BF16
  int64_t ldc = 0;
  bool bf16_compute = false;
};

inline constexpr int kGemmMaxTerms = 8;

/*
 * Scratch for one call, in bytes. It depends on shapes only, never on the CPU, so that a plan made
 * elsewhere is right here too. With K = sum of the terms' k and up(x, y) = y * ceil(x / y):
 *
 *   kA     = K + 16 * terms
 *   rowsA  = min(up(m, 6), max(96, 6 * floor(4 MiB / (24 * kA))))
 *   shared = 4 * rowsA * kA                            op(a), packed, for rowsA rows at a time
 *   worker = 256 * min(K, 1024)                        one 64-column panel of op(b)
 *          + 256 * min(up(m, 6), 1032)                 fp32 sums carried between K blocks
 *   bytes  = shared + threads * worker + 64 * (2 * threads + 2)
 */
int64_t gemm_scratch_bytes(int64_t m, int64_t n, int64_t total_k, int term_count, int threads);

/* `scratch` holds gemm_scratch_bytes(...) bytes for pool.threads() threads; any alignment. */
void gemm(const GemmCall& call, Pool& pool, void* scratch);

/* The variant in use: "avx512bf16", "avx512", "avx2" or "portable" (LATHE_ISA can only lower it). */
const char* gemm_isa();

}  // namespace lathe::cpu
