/*
 * What the GEMM reads: a two-dimensional operand exactly as it lies in memory.
 *
 * The idea: no caller ever casts, dequantises or transposes before a product. The packing step reads
 * the stored form (fp32, bf16, fp16, or 4-bit codes with block scales) and writes what the micro-kernel
 * wants, so an operand is only described here.
 *
 * Plain data, no standard library: this header is included by the per-ISA translation units, which must
 * not emit weak symbols.
 */
#pragma once

#include <cstdint>

#include "lathe/types.h"

namespace lathe::cpu {

enum class MatFormat : uint8_t { kDense, kNf4, kFp4 };

/*
 * A stored row-major matrix of `rows` x `cols` elements.
 *
 * Dense: `data` points at elements of `dtype`; row r starts `ld` elements after row r-1.
 * 4-bit: `data` points at bytes of two codes each, first element in the HIGH nibble; `ld` must equal
 *   `cols`; element i of the row-major flattening belongs to block i / `block` (a block may cross rows).
 *   The scale of block b is `absmax[b]`, or, when `absmax_q` is set (double quantisation),
 *   dynamic_map[absmax_q[b]] * nested_absmax[b / 256] + nested_offset, rounded after the product and
 *   after the sum. The value is code_table[code] * scale, in fp32.
 */
struct MatOperand {
  const void* data = nullptr;
  DType dtype = DType::F32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;
  bool transposed = false;  // the product uses the transpose of what is stored
  MatFormat format = MatFormat::kDense;
  int block = 64;
  const float* absmax = nullptr;
  const uint8_t* absmax_q = nullptr;
  const float* nested_absmax = nullptr;
  float nested_offset = 0.0f;
};

}  // namespace lathe::cpu
