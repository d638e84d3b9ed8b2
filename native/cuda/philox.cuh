// Philox4x32-10 (Salmon et al., SC 2011): the same words as the CPU's, for every element of every tensor.
#pragma once
#include "cuda/common.cuh"

namespace lathe::cuda {

struct Words { uint32_t at[4]; };

// Counter (block low, block high, c2, c3), key (k0, k1).
__device__ __forceinline__ Words philox(uint32_t k0, uint32_t k1, uint64_t block, uint32_t c2, uint32_t c3) {
  uint32_t a = uint32_t(block), b = uint32_t(block >> 32), c = c2, d = c3;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint32_t high0 = mul_high(0xD2511F53u, a), low0 = 0xD2511F53u * a;
    const uint32_t high1 = mul_high(0xCD9E8D57u, c), low1 = 0xCD9E8D57u * c;
    a = high1 ^ b ^ k0, b = low1, c = high0 ^ d ^ k1, d = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{a, b, c, d}};
}

}  // namespace lathe::cuda
