// Every instruction that C++ cannot say, and every meeting of threads, behind a name; each with a twin for the host.
//
// Kernels use these and nothing else of CUDA beyond threadIdx and its kind, so the same files compile with g++ and the
// shim of native/tests/cuda-on-host, where warps really meet and copies are really late. PTX ISA 8.x: mma.m16n8k16
// fragment layouts, cp.async, cvt.
#pragma once
#include <cstdint>

#if defined(LATHE_CUDA_ON_HOST)
#include "shim.h"
#endif

namespace lathe::cuda {

#if defined(LATHE_CUDA_ON_HOST)
// Where a barrier stands in the source: two of them must not meet. (Its address would not do: compilers copy code.)
inline const void* site_of(int line, const char* file) {
  uintptr_t h = uintptr_t(line) * 2654435761u;
  for (; *file; file++) h = h * 31 + uintptr_t(*file);
  return reinterpret_cast<const void*>(h);
}
#define LATHE_SITE int line = __builtin_LINE(), const char* file = __builtin_FILE()
#endif

// ---- shared memory

// LATHE_SHARED(float, sums, 32): an array of the block. LATHE_DYNAMIC_SHARED(bytes): what the launch asked for.
#if defined(LATHE_CUDA_ON_HOST)
#define LATHE_SHARED(type, name, count)                      \
  static const int name##_slot = ::shim::new_shared_slot();  \
  type* const name = static_cast<type*>(::shim::static_shared(name##_slot, sizeof(type) * (count)))
#define LATHE_DYNAMIC_SHARED(name) unsigned char* const name = ::shim::dynamic_shared()
#else
#define LATHE_SHARED(type, name, count) __shared__ type name[count]
#define LATHE_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

// ---- bits

__device__ __forceinline__ uint32_t float_bits(float x) {
#if defined(LATHE_CUDA_ON_HOST)
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
#else
  return __float_as_uint(x);
#endif
}
__device__ __forceinline__ float bits_float(uint32_t u) {
#if defined(LATHE_CUDA_ON_HOST)
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
#else
  return __uint_as_float(u);
#endif
}

// The bits of a float rounded to bf16, nearest even. A NaN stays one; its other bits are the machine's business.
__host__ __device__ inline uint16_t round_bf16(uint32_t u) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint16_t r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(__uint_as_float(u)));
  return r;
#else
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t(u >> 16 | 0x40);
  return uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
#endif
}
// Two of them, the first in the low half: one instruction from sm_80 up.
__device__ __forceinline__ uint32_t bf16_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  return uint32_t(round_bf16(float_bits(low))) | uint32_t(round_bf16(float_bits(high))) << 16;
#endif
}

// ---- arithmetic that must not be contracted, or must be

#if defined(LATHE_CUDA_ON_HOST)
inline float mul_rn(float a, float b) { return a * b; }
inline float add_rn(float a, float b) { return a + b; }
inline float sub_rn(float a, float b) { return a - b; }
inline float fma_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float div_rn(float a, float b) { return a / b; }
inline float sqrt_rn(float a) { return __builtin_sqrtf(a); }
inline double mul_rn(double a, double b) { return a * b; }
inline float normal_cdf(float x) { return float(0.5 * std::erfc(-0.70710678118654752440 * double(x))); }
inline uint32_t mul_high(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
#else
__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub_rn(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ __forceinline__ float div_rn(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ float sqrt_rn(float a) { return __fsqrt_rn(a); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ float normal_cdf(float x) { return normcdff(x); }
__device__ __forceinline__ uint32_t mul_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }
#endif

// ---- fp16

__device__ __forceinline__ float half_float(uint16_t h) {
#if defined(LATHE_CUDA_ON_HOST)
  _Float16 x;
  __builtin_memcpy(&x, &h, 2);
  return float(x);
#else
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
#endif
}
__device__ __forceinline__ uint16_t float_half(float x) {
#if defined(LATHE_CUDA_ON_HOST)
  const _Float16 y = static_cast<_Float16>(x);
  uint16_t h;
  __builtin_memcpy(&h, &y, 2);
  return h;
#else
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
#endif
}

// ---- meetings

#if defined(LATHE_CUDA_ON_HOST)

inline void block_sync(LATHE_SITE) { ::shim::block_barrier(site_of(line, file)); }
// Meets the block; non-zero when any thread's value was.
inline unsigned block_any(unsigned value, LATHE_SITE) { return ::shim::block_or(value, site_of(line, file)); }
inline void warp_sync() { ::shim::warp_barrier(true); }
template <class T>
inline T warp_shuffle(T v, int from) {
  ::shim::deposit(&v, sizeof v);
  T out;
  __builtin_memcpy(&out, ::shim::slot(from), sizeof out);
  return out;
}
template <class T>
inline T warp_shuffle_xor(T v, int mask) { return warp_shuffle(v, ::shim::lane() ^ mask); }
inline unsigned warp_ballot(bool p) {
  const unsigned v = p;
  ::shim::deposit(&v, sizeof v);
  unsigned out = 0;
  for (int i = 0; i < 32; i++) out |= *static_cast<const unsigned*>(::shim::slot(i)) << i;
  return out;
}
inline int count_bits(unsigned x) { return __builtin_popcount(x); }

#else

__device__ __forceinline__ void block_sync() { __syncthreads(); }
__device__ __forceinline__ unsigned block_any(unsigned value) { return unsigned(__syncthreads_or(int(value))); }
__device__ __forceinline__ void warp_sync() { __syncwarp(); }
template <class T>
__device__ __forceinline__ T warp_shuffle(T v, int from) { return __shfl_sync(0xffffffffu, v, from); }
template <class T>
__device__ __forceinline__ T warp_shuffle_xor(T v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
__device__ __forceinline__ unsigned warp_ballot(bool p) { return __ballot_sync(0xffffffffu, p); }
__device__ __forceinline__ int count_bits(unsigned x) { return __popc(x); }

#endif

// ---- tensor cores: c += a b for one warp, 16 x 16 by 16 x 8, bf16 operands, fp32 sums.
// Lane l, g = l / 4, t = l % 4. a[0]: row g, columns 2t, 2t+1; a[1]: row g+8; a[2], a[3]: the same, columns + 8.
// b[0]: rows 2t, 2t+1 of column g; b[1]: rows + 8. c[0], c[1]: row g, columns 2t, 2t+1; c[2], c[3]: row g+8.

__device__ __forceinline__ float low_bf16(uint32_t pair) { return bits_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) { return bits_float(pair & 0xffff0000u); }

#if defined(LATHE_CUDA_ON_HOST)
inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  ::shim::deposit(mine, sizeof mine);
  const int lane = ::shim::lane(), g = lane / 4, t = lane % 4;
  for (int j = 0; j < 4; j++) {
    const auto* row = static_cast<const uint32_t*>(::shim::slot(4 * g + j));
    for (int column = 0; column < 2; column++) {
      const auto* col = static_cast<const uint32_t*>(::shim::slot(4 * (2 * t + column) + j));
      for (int half = 0; half < 2; half++) {
        c[column] += low_bf16(row[2 * half]) * low_bf16(col[4 + half]) + high_bf16(row[2 * half]) * high_bf16(col[4 + half]);
        c[2 + column] += low_bf16(row[2 * half + 1]) * low_bf16(col[4 + half]) + high_bf16(row[2 * half + 1]) * high_bf16(col[4 + half]);
      }
    }
  }
}
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
// sm_75 has no bf16 in its tensor cores: the same by shuffles and fma, slow and correct. Called, not inlined: a kernel has
// hundreds of these, and ptxas took longer than a quarter of an hour over them.
static __device__ __noinline__ float4 mma_bf16_emulated(float4 c, uint4 a, uint2 b) {
  const int lane = threadIdx.x & 31, g = lane / 4, t = lane % 4;
  const uint32_t mine[4] = {a.x, a.y, a.z, a.w}, other[2] = {b.x, b.y};
  float sum[4] = {c.x, c.y, c.z, c.w};
  for (int j = 0; j < 4; j++) {
    uint32_t row[4], col[2][2];
    for (int i = 0; i < 4; i++) row[i] = warp_shuffle(mine[i], 4 * g + j);
    for (int column = 0; column < 2; column++)
      for (int half = 0; half < 2; half++) col[column][half] = warp_shuffle(other[half], 4 * (2 * t + column) + j);
    for (int column = 0; column < 2; column++)
      for (int half = 0; half < 2; half++) {
        sum[column] = fmaf(low_bf16(row[2 * half]), low_bf16(col[column][half]), sum[column]);
        sum[column] = fmaf(high_bf16(row[2 * half]), high_bf16(col[column][half]), sum[column]);
        sum[2 + column] = fmaf(low_bf16(row[2 * half + 1]), low_bf16(col[column][half]), sum[2 + column]);
        sum[2 + column] = fmaf(high_bf16(row[2 * half + 1]), high_bf16(col[column][half]), sum[2 + column]);
      }
  }
  return make_float4(sum[0], sum[1], sum[2], sum[3]);
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const float4 sum = mma_bf16_emulated(make_float4(c[0], c[1], c[2], c[3]), make_uint4(a[0], a[1], a[2], a[3]), make_uint2(b[0], b[1]));
  c[0] = sum.x, c[1] = sum.y, c[2] = sum.z, c[3] = sum.w;
}
#endif

// ---- four 8 x 8 matrices of 16-bit values from shared memory: lane 8 i + r names row r of matrix i, 16 aligned bytes.
// Lane l, g = l / 4, t = l % 4, gets columns 2t, 2t+1 of row g of each; transposed: rows 2t, 2t+1 of column g.

#if defined(LATHE_CUDA_ON_HOST)
template <bool kTransposed>
inline void load_matrices(uint32_t (&out)[4], const uint16_t* row) {
  ::shim::deposit(&row, sizeof row);
  const int lane = ::shim::lane(), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++) {
    uint16_t pair[2];
    for (int j = 0; j < 2; j++) {
      const int r = kTransposed ? 2 * t + j : g, c = kTransposed ? g : 2 * t + j;
      pair[j] = (*static_cast<const uint16_t* const*>(::shim::slot(8 * i + r)))[c];
    }
    out[i] = uint32_t(pair[0]) | uint32_t(pair[1]) << 16;
  }
}
#else
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const uint16_t* row) {
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
}
#endif

// ---- asynchronous copies into shared memory: 16 bytes, of which the first `valid` come from `from`, zeros after.
// sm_75 copies at once.

#if defined(LATHE_CUDA_ON_HOST)
inline void copy_async(void* to, const void* from, int valid) { ::shim::async_copy(to, from, 16, valid); }
inline void copy_commit() { ::shim::async_commit(); }
template <int kNewest>
inline void copy_wait() { ::shim::async_wait(kNewest); }
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__device__ __forceinline__ void copy_async(void* to, const void* from, int valid) {
  const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(valid) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kNewest>
__device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory"); }
#else
__device__ __forceinline__ void copy_async(void* to, const void* from, int valid) {
  uint4 v = {0, 0, 0, 0};
  if (valid == 16) v = *static_cast<const uint4*>(from);
  *static_cast<uint4*>(to) = v;
  if (valid > 0 && valid < 16)
    for (int i = 0; i < valid; i++) static_cast<unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
}
__device__ __forceinline__ void copy_commit() {}
template <int kNewest>
__device__ __forceinline__ void copy_wait() {}
#endif

}  // namespace lathe::cuda
