// A vector of floats, as wide as the file including this was compiled for: 16 (AVX-512), 8 (AVX2 + FMA + F16C) or 4
// (portable: GCC/Clang vector extensions, SSE2 or NEON). F is the vector, I the int32 vector of the same width, M a
// lane mask. Arithmetic operators are the compiler's own on these types; what they lack is below.
//
// Everything sits in an unnamed namespace: each including file gets its own copy compiled for its own ISA, and no
// weak symbol can leak from a wide file into the rest of the program. For that reason nothing of the standard
// library is used here.
//
// fma() is fused where the ISA fuses; the portable one rounds twice. So results of different ISAs differ in last bits.
#pragma once
#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 intrinsics read a deliberately undefined register (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#endif

namespace lathe::cpu {
namespace {

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

#define LATHE_INLINE inline __attribute__((always_inline))
// The same for a lambda, after its parameters.
#define LATHE_INLINED __attribute__((always_inline))

LATHE_INLINE float bits_to_float(uint32_t u) { float f; __builtin_memcpy(&f, &u, 4); return f; }
LATHE_INLINE uint32_t float_to_bits(float f) { uint32_t u; __builtin_memcpy(&u, &f, 4); return u; }

// Scalar half <-> float, exact in both directions (nearest even down).
LATHE_INLINE float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 1023;
  if (e == 31) return bits_to_float(sign | 0x7f800000 | (m << 13) | (m ? 0x400000 : 0));
  if (e == 0) return bits_to_float(sign | float_to_bits(float(m) * 5.9604644775390625e-8f));  // m * 2^-24
  return bits_to_float(sign | ((e + 112) << 23) | (m << 13));
}
LATHE_INLINE uint16_t float_to_half(float f) {
  uint32_t u = float_to_bits(f), sign = (u >> 16) & 0x8000;
  u &= 0x7fffffff;
  if (u > 0x7f800000) return uint16_t(sign | 0x7e00 | ((u >> 13) & 0x1ff));
  if (u >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds past 65504
  if (u < 0x38800000) {                                 // subnormal: let the adder round at 2^-24
    float r = bits_to_float(u) + 0.5f;
    return uint16_t(sign | (float_to_bits(r) - 0x3f000000));
  }
  u += 0xfff + ((u >> 13) & 1);
  return uint16_t(sign | ((u - 0x38000000) >> 13));
}

// ---------------------------------------------------------------------------------------------------------------
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
constexpr int kWidth = 16;
constexpr const char* kIsaName = "avx512";
typedef __m512 F;
typedef __m512i I;
typedef __mmask16 M;
struct Two { F a, b; };

LATHE_INLINE F splat(float x) { return _mm512_set1_ps(x); }
LATHE_INLINE I splat_i(int32_t x) { return _mm512_set1_epi32(x); }
LATHE_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
// -a * b + c
LATHE_INLINE F fnma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
// With a NaN in b the result is NaN; a NaN in a is ignored.
LATHE_INLINE F max_of(F a, F b) { return _mm512_max_ps(a, b); }
LATHE_INLINE F min_of(F a, F b) { return _mm512_min_ps(a, b); }
LATHE_INLINE F abs_of(F a) { return _mm512_abs_ps(a); }
LATHE_INLINE F sqrt_of(F a) { return _mm512_sqrt_ps(a); }
// 1 / a for a in [1, 2^126]: an estimate of 14 bits and one Newton step, whose error is below the rounding's.
LATHE_INLINE F inverse_of(F a) {
  F r = _mm512_rcp14_ps(a);
  return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.0f)), r);
}
LATHE_INLINE F nearest(F a) { return _mm512_roundscale_ps(a, 0); }
LATHE_INLINE M greater(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
LATHE_INLINE M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
LATHE_INLINE M finite(F a) { return _mm512_cmp_ps_mask(_mm512_abs_ps(a), splat(__builtin_inff()), _CMP_LT_OQ); }
LATHE_INLINE F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
LATHE_INLINE I count_if(I c, M m) { return _mm512_mask_add_epi32(c, m, c, _mm512_set1_epi32(1)); }
LATHE_INLINE I add_if(I c, M m, int32_t step) { return _mm512_mask_add_epi32(c, m, c, _mm512_set1_epi32(step)); }
LATHE_INLINE F as_float(I a) { return _mm512_cvtepi32_ps(a); }
LATHE_INLINE M both_of(M a, M b) { return M(a & b); }
// x * 2^n, n integral
LATHE_INLINE F scale_by_power(F x, F n) { return _mm512_scalef_ps(x, n); }
LATHE_INLINE F with_sign_of(F x, F s) {
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(x), _mm512_castps_si512(s),
                                                       _mm512_set1_epi32(int(0x80000000)), 0xd8));
}
LATHE_INLINE F lookup16(const float* t, I i) { return _mm512_permutexvar_ps(i, _mm512_loadu_ps(t)); }

// Descends one level of a 256-entry search tree (see CodeBounds): i becomes 2 i + (v > tree[i]).
LATHE_INLINE I descend(F v, I i, F at) {
  return _mm512_mask_add_epi32(_mm512_add_epi32(i, i), greater(v, at), _mm512_add_epi32(i, i), _mm512_set1_epi32(1));
}
LATHE_INLINE F pair_at(const float* t, I i) { return _mm512_permutex2var_ps(_mm512_loadu_ps(t), i, _mm512_loadu_ps(t + 16)); }
// 256 + the number of bounds below v. The tree lies in registers and first-level cache; gathers are several times slower.
LATHE_INLINE I search_tree(F v, const float* tree) {
  I i = _mm512_set1_epi32(1);
  F top = _mm512_loadu_ps(tree), next = _mm512_loadu_ps(tree + 16);
  for (int level = 0; level < 4; level++) i = descend(v, i, _mm512_permutexvar_ps(i, top));
  i = descend(v, i, _mm512_permutexvar_ps(i, next));
  i = descend(v, i, pair_at(tree + 32, i));
  M odd = _mm512_test_epi32_mask(i, _mm512_set1_epi32(32));
  i = descend(v, i, _mm512_mask_blend_ps(odd, pair_at(tree + 64, i), pair_at(tree + 96, i)));
  odd = _mm512_test_epi32_mask(i, _mm512_set1_epi32(32));
  M upper = _mm512_test_epi32_mask(i, _mm512_set1_epi32(64));
  F low = _mm512_mask_blend_ps(odd, pair_at(tree + 128, i), pair_at(tree + 160, i));
  F high = _mm512_mask_blend_ps(odd, pair_at(tree + 192, i), pair_at(tree + 224, i));
  return descend(v, i, _mm512_mask_blend_ps(upper, low, high));
}
// Lanes of 64 bits of which the low 32 count: a * m in full.
typedef __m512i Wide;
constexpr int kWideLanes = 8;
LATHE_INLINE Wide wide_splat(uint64_t x) { return _mm512_set1_epi64((long long)x); }
LATHE_INLINE Wide wide_load(const uint64_t* p) { return _mm512_loadu_si512(p); }
LATHE_INLINE Wide wide_multiply(Wide a, Wide m) { return _mm512_mul_epu32(a, m); }
LATHE_INLINE Wide wide_high(Wide a) { return _mm512_srli_epi64(a, 32); }
// Words a, b, c, d of lane 2 i go to block i, those of lane 2 i + 1 to block kWideLanes / 2 + i.
LATHE_INLINE void wide_store(uint32_t* words, Wide a, Wide b, Wide c, Wide d) {
  Wide ab = _mm512_mask_blend_epi32(0xaaaa, a, _mm512_slli_epi64(b, 32));
  Wide cd = _mm512_mask_blend_epi32(0xaaaa, c, _mm512_slli_epi64(d, 32));
  _mm512_storeu_si512(words, _mm512_unpacklo_epi64(ab, cd));
  _mm512_storeu_si512(words + 16, _mm512_unpackhi_epi64(ab, cd));
}

LATHE_INLINE __mmask16 first(int64_t n) { return __mmask16((1u << n) - 1); }
LATHE_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
LATHE_INLINE F load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
LATHE_INLINE void store(float* p, F v) { _mm512_storeu_ps(p, v); }
LATHE_INLINE void store(float* p, F v, int64_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
LATHE_INLINE F widen(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
// The bf16 lies in the upper half.
LATHE_INLINE I rounded(F v) {
  I u = _mm512_castps_si512(v);
  M odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
  I r = _mm512_add_epi32(u, _mm512_mask_blend_epi32(odd, _mm512_set1_epi32(0x7fff), _mm512_set1_epi32(0x8000)));
  M nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
}
LATHE_INLINE __m256i narrow(F v) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(v), 16)); }
LATHE_INLINE F load(const bf16* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
LATHE_INLINE F load(const bf16* p, int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
LATHE_INLINE void store(bf16* p, F v) { _mm256_storeu_si256((__m256i*)p, narrow(v)); }
LATHE_INLINE void store(bf16* p, F v, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), narrow(v)); }
// Two vectors of a bf16 row as even and odd elements: a shift and a mask instead of moves across lanes.
LATHE_INLINE Two load_two(const bf16* p) {
  I u = _mm512_loadu_si512(p);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(u, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32(int(0xffff0000))))};
}
LATHE_INLINE void store_two(bf16* p, Two v) {
  _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(rounded(v.a), 16), rounded(v.b)));
}
LATHE_INLINE F load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
LATHE_INLINE F load(const f16* p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
LATHE_INLINE void store(f16* p, F v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(v, 0)); }
LATHE_INLINE void store(f16* p, F v, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(v, 0)); }
LATHE_INLINE I load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
LATHE_INLINE I load_words(const uint32_t* p, int64_t n) { return _mm512_maskz_loadu_epi32(first(n), p); }
LATHE_INLINE M below_unsigned(I a, uint32_t t) { return _mm512_cmplt_epu32_mask(a, _mm512_set1_epi32(int(t))); }
LATHE_INLINE I load_bytes(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
LATHE_INLINE void store_bytes(uint8_t* p, I v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(v)); }
// kWidth codes from kWidth / 2 bytes, high nibble first.
LATHE_INLINE I load_nibbles(const uint8_t* p) {
  __m128i b = _mm_loadl_epi64((const __m128i*)p), low = _mm_set1_epi8(15);
  return _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low)));
}

// ---------------------------------------------------------------------------------------------------------------
#elif defined(__AVX2__)
#if !defined(__FMA__) || !defined(__F16C__)
#error "the AVX2 variant needs -mavx2 -mfma -mf16c"
#endif
constexpr int kWidth = 8;
constexpr const char* kIsaName = "avx2";
typedef __m256 F;
typedef __m256i I;
typedef __m256 M;
struct Two { F a, b; };

LATHE_INLINE F splat(float x) { return _mm256_set1_ps(x); }
LATHE_INLINE I splat_i(int32_t x) { return _mm256_set1_epi32(x); }
LATHE_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
LATHE_INLINE F fnma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
LATHE_INLINE F max_of(F a, F b) { return _mm256_max_ps(a, b); }
LATHE_INLINE F min_of(F a, F b) { return _mm256_min_ps(a, b); }
LATHE_INLINE F sign_bits() { return _mm256_castsi256_ps(_mm256_set1_epi32(int(0x80000000))); }
LATHE_INLINE F abs_of(F a) { return _mm256_andnot_ps(sign_bits(), a); }
LATHE_INLINE F sqrt_of(F a) { return _mm256_sqrt_ps(a); }
LATHE_INLINE F inverse_of(F a) { return splat(1.0f) / a; }
LATHE_INLINE F nearest(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
LATHE_INLINE M greater(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
LATHE_INLINE M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
LATHE_INLINE M finite(F a) { return _mm256_cmp_ps(abs_of(a), splat(__builtin_inff()), _CMP_LT_OQ); }
LATHE_INLINE F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
LATHE_INLINE I count_if(I c, M m) { return _mm256_sub_epi32(c, _mm256_castps_si256(m)); }
LATHE_INLINE I add_if(I c, M m, int32_t step) {
  return _mm256_add_epi32(c, _mm256_and_si256(_mm256_castps_si256(m), splat_i(step)));
}
LATHE_INLINE F as_float(I a) { return _mm256_cvtepi32_ps(a); }
LATHE_INLINE M both_of(M a, M b) { return _mm256_and_ps(a, b); }
LATHE_INLINE F scale_by_power(F x, F n) {
  // In two halves, so that 2^n itself need not be representable.
  I k = _mm256_cvtps_epi32(n), a = _mm256_srai_epi32(k, 1), b = _mm256_sub_epi32(k, a), bias = splat_i(127);
  F pa = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(a, bias), 23));
  F pb = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(b, bias), 23));
  return x * pa * pb;
}
LATHE_INLINE F with_sign_of(F x, F s) {
  return _mm256_or_ps(_mm256_andnot_ps(sign_bits(), x), _mm256_and_ps(sign_bits(), s));
}
LATHE_INLINE F lookup16(const float* t, I i) {
  F lo = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t), i), hi = _mm256_permutevar8x32_ps(_mm256_loadu_ps(t + 8), i);
  return _mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}

LATHE_INLINE __m256i first(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
LATHE_INLINE __m128i load_short(const void* p, int64_t n) {
  uint16_t t[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  __builtin_memcpy(t, p, size_t(n) * 2);
  return _mm_loadu_si128((const __m128i*)t);
}
LATHE_INLINE void store_short(void* p, __m128i v, int64_t n) {
  uint16_t t[8];
  _mm_storeu_si128((__m128i*)t, v);
  __builtin_memcpy(p, t, size_t(n) * 2);
}
LATHE_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
LATHE_INLINE F load(const float* p, int64_t n) { return _mm256_maskload_ps(p, first(n)); }
LATHE_INLINE void store(float* p, F v) { _mm256_storeu_ps(p, v); }
LATHE_INLINE void store(float* p, F v, int64_t n) { _mm256_maskstore_ps(p, first(n), v); }
LATHE_INLINE F widen(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
LATHE_INLINE I rounded(F v) {
  I u = _mm256_castps_si256(v);
  I r = _mm256_add_epi32(u, _mm256_add_epi32(splat_i(0x7fff), _mm256_and_si256(_mm256_srli_epi32(u, 16), splat_i(1))));
  I nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(r, _mm256_or_si256(u, splat_i(0x400000)), nan);
}
LATHE_INLINE __m128i narrow(F v) {
  I r = _mm256_srli_epi32(rounded(v), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
LATHE_INLINE F load(const bf16* p) { return widen(_mm_loadu_si128((const __m128i*)p)); }
LATHE_INLINE F load(const bf16* p, int64_t n) { return widen(load_short(p, n)); }
LATHE_INLINE void store(bf16* p, F v) { _mm_storeu_si128((__m128i*)p, narrow(v)); }
LATHE_INLINE void store(bf16* p, F v, int64_t n) { store_short(p, narrow(v), n); }
LATHE_INLINE Two load_two(const bf16* p) {
  I u = _mm256_loadu_si256((const I*)p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(u, 16)), _mm256_castsi256_ps(_mm256_and_si256(u, splat_i(int(0xffff0000))))};
}
LATHE_INLINE void store_two(bf16* p, Two v) {
  _mm256_storeu_si256((I*)p, _mm256_blend_epi16(_mm256_srli_epi32(rounded(v.a), 16), rounded(v.b), 0xaa));
}
LATHE_INLINE F load(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
LATHE_INLINE F load(const f16* p, int64_t n) { return _mm256_cvtph_ps(load_short(p, n)); }
LATHE_INLINE void store(f16* p, F v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, 0)); }
LATHE_INLINE void store(f16* p, F v, int64_t n) { store_short(p, _mm256_cvtps_ph(v, 0), n); }
typedef __m256i Wide;
constexpr int kWideLanes = 4;
LATHE_INLINE Wide wide_splat(uint64_t x) { return _mm256_set1_epi64x((long long)x); }
LATHE_INLINE Wide wide_load(const uint64_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
LATHE_INLINE Wide wide_multiply(Wide a, Wide m) { return _mm256_mul_epu32(a, m); }
LATHE_INLINE Wide wide_high(Wide a) { return _mm256_srli_epi64(a, 32); }
LATHE_INLINE void wide_store(uint32_t* words, Wide a, Wide b, Wide c, Wide d) {
  Wide ab = _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa), cd = _mm256_blend_epi32(c, _mm256_slli_epi64(d, 32), 0xaa);
  _mm256_storeu_si256((__m256i*)words, _mm256_unpacklo_epi64(ab, cd));
  _mm256_storeu_si256((__m256i*)(words + 8), _mm256_unpackhi_epi64(ab, cd));
}
LATHE_INLINE I load_words(const uint32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
LATHE_INLINE I load_words(const uint32_t* p, int64_t n) { return _mm256_maskload_epi32((const int*)p, first(n)); }
LATHE_INLINE M below_unsigned(I a, uint32_t t) {
  I flip = splat_i(int(0x80000000));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(splat_i(int(t ^ 0x80000000)), _mm256_xor_si256(a, flip)));
}
LATHE_INLINE I load_bytes(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
LATHE_INLINE void store_bytes(uint8_t* p, I v) {
  __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(w, w));
}
LATHE_INLINE I load_nibbles(const uint8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  __m128i b = _mm_cvtsi32_si128(four), low = _mm_set1_epi8(15);
  return _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low)));
}

// ---------------------------------------------------------------------------------------------------------------
#else
constexpr int kWidth = 4;
constexpr const char* kIsaName = "portable";
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef I M;
struct Two { F a, b; };

LATHE_INLINE F splat(float x) { return F{x, x, x, x}; }
LATHE_INLINE I splat_i(int32_t x) { return I{x, x, x, x}; }
LATHE_INLINE F select(M m, F yes, F no) { return (F)((m & (I)yes) | (~m & (I)no)); }
LATHE_INLINE F fma(F a, F b, F c) { return a * b + c; }
LATHE_INLINE F fnma(F a, F b, F c) { return c - a * b; }
LATHE_INLINE F max_of(F a, F b) { return select(a > b, a, b); }
LATHE_INLINE F min_of(F a, F b) { return select(a < b, a, b); }
LATHE_INLINE F abs_of(F a) { return (F)((I)a & splat_i(0x7fffffff)); }
LATHE_INLINE F sqrt_of(F a) {
  for (int i = 0; i < kWidth; i++) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
LATHE_INLINE F inverse_of(F a) { return splat(1.0f) / a; }
// Adding 1.5 * 2^23 leaves no bits for a fraction; callers stay below 2^22.
LATHE_INLINE F nearest(F a) { return (a + splat(12582912.0f)) - splat(12582912.0f); }
LATHE_INLINE M greater(F a, F b) { return a > b; }
LATHE_INLINE M less(F a, F b) { return a < b; }
LATHE_INLINE M finite(F a) { return abs_of(a) < splat(__builtin_inff()); }
LATHE_INLINE I count_if(I c, M m) { return c - m; }
LATHE_INLINE I add_if(I c, M m, int32_t step) { return c + (m & splat_i(step)); }
LATHE_INLINE F as_float(I a) { return __builtin_convertvector(a, F); }
LATHE_INLINE M both_of(M a, M b) { return a & b; }
LATHE_INLINE F scale_by_power(F x, F n) {
  I k = __builtin_convertvector(n, I), a = k >> 1, b = k - a;
  return x * (F)((a + 127) << 23) * (F)((b + 127) << 23);
}
LATHE_INLINE F with_sign_of(F x, F s) { return (F)(((I)x & splat_i(0x7fffffff)) | ((I)s & splat_i(int(0x80000000)))); }
LATHE_INLINE F lookup16(const float* t, I i) { return F{t[i[0]], t[i[1]], t[i[2]], t[i[3]]}; }

LATHE_INLINE F load(const float* p) { F v; __builtin_memcpy(&v, p, 16); return v; }
LATHE_INLINE F load(const float* p, int64_t n) { F v = splat(0); __builtin_memcpy(&v, p, size_t(n) * 4); return v; }
LATHE_INLINE void store(float* p, F v) { __builtin_memcpy(p, &v, 16); }
LATHE_INLINE void store(float* p, F v, int64_t n) { __builtin_memcpy(p, &v, size_t(n) * 4); }
typedef uint64_t Wide __attribute__((vector_size(16)));
constexpr int kWideLanes = 2;
LATHE_INLINE Wide wide_splat(uint64_t x) { return Wide{x, x}; }
LATHE_INLINE Wide wide_load(const uint64_t* p) { return Wide{p[0], p[1]}; }
LATHE_INLINE Wide wide_multiply(Wide a, Wide m) {
  return Wide{uint64_t(uint32_t(a[0])) * uint32_t(m[0]), uint64_t(uint32_t(a[1])) * uint32_t(m[1])};
}
LATHE_INLINE Wide wide_high(Wide a) { return a >> 32; }
LATHE_INLINE void wide_store(uint32_t* words, Wide a, Wide b, Wide c, Wide d) {
  for (int i = 0; i < 2; i++) {
    words[4 * i] = uint32_t(a[i]), words[4 * i + 1] = uint32_t(b[i]);
    words[4 * i + 2] = uint32_t(c[i]), words[4 * i + 3] = uint32_t(d[i]);
  }
}
typedef uint16_t Short4 __attribute__((vector_size(8)));
typedef uint32_t U __attribute__((vector_size(16)));
LATHE_INLINE F widen(Short4 h) { return (F)(__builtin_convertvector(h, U) << 16); }
LATHE_INLINE Short4 narrow(F v) {
  U u = (U)v, r = u + 0x7fff + ((u >> 16) & 1);
  U nan = (U)(abs_of(v) != abs_of(v));
  r = (nan & (u | 0x400000)) | (~nan & r);
  return __builtin_convertvector(r >> 16, Short4);
}
LATHE_INLINE F load(const bf16* p) { Short4 h; __builtin_memcpy(&h, p, 8); return widen(h); }
LATHE_INLINE F load(const bf16* p, int64_t n) { Short4 h = {0, 0, 0, 0}; __builtin_memcpy(&h, p, size_t(n) * 2); return widen(h); }
LATHE_INLINE void store(bf16* p, F v) { Short4 h = narrow(v); __builtin_memcpy(p, &h, 8); }
LATHE_INLINE void store(bf16* p, F v, int64_t n) { Short4 h = narrow(v); __builtin_memcpy(p, &h, size_t(n) * 2); }
LATHE_INLINE Two load_two(const bf16* p) { return {load(p), load(p + kWidth)}; }
LATHE_INLINE void store_two(bf16* p, Two v) { store(p, v.a), store(p + kWidth, v.b); }
LATHE_INLINE F load(const f16* p, int64_t n) {
  F v = splat(0);
  for (int64_t i = 0; i < n; i++) v[i] = half_to_float(p[i].bits);
  return v;
}
LATHE_INLINE F load(const f16* p) { return load(p, 4); }
LATHE_INLINE void store(f16* p, F v, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i].bits = float_to_half(v[i]);
}
LATHE_INLINE void store(f16* p, F v) { store(p, v, 4); }
LATHE_INLINE I load_words(const uint32_t* p) { I v; __builtin_memcpy(&v, p, 16); return v; }
LATHE_INLINE I load_words(const uint32_t* p, int64_t n) { I v = splat_i(0); __builtin_memcpy(&v, p, size_t(n) * 4); return v; }
LATHE_INLINE M below_unsigned(I a, uint32_t t) { return (I)((U)a < U{t, t, t, t}); }
LATHE_INLINE I load_bytes(const uint8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
LATHE_INLINE void store_bytes(uint8_t* p, I v) {
  for (int i = 0; i < kWidth; i++) p[i] = uint8_t(v[i]);
}
LATHE_INLINE I load_nibbles(const uint8_t* p) { return I{p[0] >> 4, p[0] & 15, p[1] >> 4, p[1] & 15}; }
#endif

// ---------------------------------------------------------------------------------------------------------------
#if !(defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__))
LATHE_INLINE I search_tree(F v, const float* tree) {
  float x[kWidth];
  int32_t at[kWidth];
  store(x, v);
  for (int j = 0; j < kWidth; j++) {
    int32_t i = 1;
    for (int level = 0; level < 8; level++) i = 2 * i + (x[j] > tree[i]);
    at[j] = i;
  }
  I r;
  __builtin_memcpy(&r, at, sizeof r);
  return r;
}
#endif

// The two ways through a row: whole vectors, then one part. Loads of a part are zero past its end.
struct Full {};
struct Part { int64_t n; };
template <class T> LATHE_INLINE F load(const T* p, Full) { return load(p); }
template <class T> LATHE_INLINE F load(const T* p, Part k) { return load(p, k.n); }
template <class T> LATHE_INLINE void store(T* p, F v, Full) { store(p, v); }
template <class T> LATHE_INLINE void store(T* p, F v, Part k) { store(p, v, k.n); }
LATHE_INLINE I load_words(const uint32_t* p, Full) { return load_words(p); }
LATHE_INLINE I load_words(const uint32_t* p, Part k) { return load_words(p, k.n); }
LATHE_INLINE F select_first(F v, F, Full) { return v; }
LATHE_INLINE F select_first(F v, F rest, Part k) {
  float t[kWidth];
  store(t, rest);
  store(t, v, k.n);
  return load(t);
}

LATHE_INLINE Two load_two(const float* p) { return {load(p), load(p + kWidth)}; }
LATHE_INLINE void store_two(float* p, Two v) { store(p, v.a), store(p + kWidth, v.b); }

// body(i, Full or Part) for every vector of a row.
template <class Body>
LATHE_INLINE void each(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) body(i, Full{});
  if (i < n) body(i, Part{n - i});
}

template <class A, class B> constexpr bool kSame = false;
template <class A> constexpr bool kSame<A, A> = true;

// y = op(x...) element by element: rows of one type two vectors at a time in the order that is cheapest for the type, what
// is left and rows of mixed types as `each` does.
template <class T, class Op, class... X>
LATHE_INLINE void map(int64_t n, T* y, Op op, const X*... x) {
  int64_t i = 0;
  for (; (kSame<X, T> && ...) && i + 2 * kWidth <= n; i += 2 * kWidth)
    [&](auto... v) LATHE_INLINED { store_two(y + i, {op(v.a...), op(v.b...)}); }(load_two(x + i)...);
  for (; i + kWidth <= n; i += kWidth) store(y + i, op(load(x + i)...));
  if (i < n) store(y + i, op(load(x + i, n - i)...), n - i);
}

// Brings a cache line near. Worth it for rows that lie apart; along one row the hardware does better alone.
LATHE_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

// Reductions across lanes: halves are folded, so the order is fixed by the width.
LATHE_INLINE float lane_sum(F v) {
  float t[kWidth];
  store(t, v);
  for (int w = kWidth / 2; w > 0; w /= 2)
    for (int i = 0; i < w; i++) t[i] += t[i + w];
  return t[0];
}
LATHE_INLINE float lane_max(F v) {
  float t[kWidth];
  store(t, v);
  for (int w = kWidth / 2; w > 0; w /= 2)
    for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}

// Sum over a row: body(i, Full or Part, accumulator) returns the accumulator. Four of them hide the adder's latency;
// they are folded into a total every 64 vectors, which keeps the rounding error of long rows down.
template <class Body>
LATHE_INLINE float reduce(int64_t n, Body body) {
  F total = splat(0), a = total, b = total, c = total, d = total;
  int64_t i = 0;
  while (i + 4 * kWidth <= n) {
    int64_t end = n - i < 64 * kWidth ? n : i + 64 * kWidth;
    for (; i + 4 * kWidth <= end; i += 4 * kWidth) {
      a = body(i, Full{}, a);
      b = body(i + kWidth, Full{}, b);
      c = body(i + 2 * kWidth, Full{}, c);
      d = body(i + 3 * kWidth, Full{}, d);
    }
    total = total + ((a + b) + (c + d));
    a = b = c = d = splat(0);
  }
  for (; i + kWidth <= n; i += kWidth) a = body(i, Full{}, a);
  if (i < n) b = body(i, Part{n - i}, b);
  return lane_sum(total + (a + b));
}

// Two such sums in one pass, each in reduce's order: body(i, Full or Part, first accumulator, second) updates both.
struct Sums { float a, b; };
template <class Body>
LATHE_INLINE Sums reduce_two(int64_t n, Body body) {
  F zero = splat(0), total[2] = {zero, zero}, s[4] = {zero, zero, zero, zero}, t[4] = {zero, zero, zero, zero};
  int64_t i = 0;
  while (i + 4 * kWidth <= n) {
    int64_t end = n - i < 64 * kWidth ? n : i + 64 * kWidth;
    for (; i + 4 * kWidth <= end; i += 4 * kWidth)
      for (int j = 0; j < 4; j++) body(i + j * kWidth, Full{}, s[j], t[j]);
    total[0] = total[0] + ((s[0] + s[1]) + (s[2] + s[3]));
    total[1] = total[1] + ((t[0] + t[1]) + (t[2] + t[3]));
    for (int j = 0; j < 4; j++) s[j] = t[j] = zero;
  }
  for (; i + kWidth <= n; i += kWidth) body(i, Full{}, s[0], t[0]);
  if (i < n) body(i, Part{n - i}, s[1], t[1]);
  return {lane_sum(total[0] + (s[0] + s[1])), lane_sum(total[1] + (t[0] + t[1]))};
}

}  // namespace
}  // namespace lathe::cpu
