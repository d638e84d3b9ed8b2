// What the kernels of gemm.cuh share on the device: reading an operand of any format, and finishing an element of C.
#pragma once
#include "cuda/code_tables.cuh"
#include "cuda/gemm.cuh"

namespace lathe::cuda {

__device__ __forceinline__ int64_t limited(const GemmLimit& l, int64_t most) {
  if (!l.count) return most;
  const int64_t left = int64_t(*l.count) - l.first;
  return left < 0 ? 0 : left < most ? left : most;
}

// The code books in shared memory: lanes look up different codes.
struct GemmTables {
  const float* four_bit;  // nf4, then fp4
  const float* dynamic;
};
__device__ __forceinline__ void fill_tables(float* four_bit, float* dynamic) {
  for (int i = int(threadIdx.x); i < 256; i += int(blockDim.x)) {
    dynamic[i] = kDynamicSigned[i];
    if (i < 32) four_bit[i] = i < 16 ? kNf4Table[i] : kFp4Table[i - 16];
  }
}

__device__ __forceinline__ float block_scale(const GemmOperand& o, const GemmTables& t, int64_t block) {
  return o.nested ? add_rn(mul_rn(t.dynamic[static_cast<const uint8_t*>(o.absmax)[block]], o.nested[block / 256]), *o.offset)
                  : static_cast<const float*>(o.absmax)[block];
}
// Element (r, c) of the stored matrix.
__device__ __forceinline__ float fetch(const GemmOperand& o, const GemmTables& t, int64_t r, int64_t c) {
  const int64_t i = r * o.ld + c;
  if (o.format < kFormatNf4) return load_as(o.data, i, o.format);
  const int byte = static_cast<const uint8_t*>(o.data)[i / 2];
  const float value = t.four_bit[(o.format - kFormatNf4) * 16 + (i % 2 ? byte & 15 : byte >> 4)];
  return mul_rn(value, block_scale(o, t, i / 64));
}
// 16 values of one row, from codes in 8 bytes: pairs as bf16.
__device__ __forceinline__ void decode_16(uint32_t (&out)[8], uint32_t low, uint32_t high, const float* table, float scale) {
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const uint32_t byte = (j < 4 ? low : high) >> (j % 4 * 8);
    out[j] = bf16_pair(mul_rn(table[byte >> 4 & 15], scale), mul_rn(table[byte & 15], scale));
  }
}

__device__ __forceinline__ void finish(const GemmCall& g, int64_t row, int64_t col, int64_t m, float sum) {
  if (row >= m || col >= g.n) return;
  float v = g.alpha * sum;
  if (g.bias) v += load_as(g.bias, col, g.bias_dtype);
  if (g.addend) v += load_as(g.addend, row * g.ldc + col, g.c_dtype);
  store_as(g.c, row * g.ldc + col, g.c_dtype, v);
}

}  // namespace lathe::cuda
