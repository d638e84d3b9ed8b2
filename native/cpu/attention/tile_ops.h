/*
 * Register tiles, layouts and vector math of attention, compiled once per instruction set.
 *
 * The idea: all operands are arrays of 32-bit units. A unit is one float, or (AVX-512 BF16) two bf16 that are
 * neighbours along the summed axis; `dot` is then FMA or VDPBF16PS and everything else is shared. Three layouts:
 *   rows   [n][d / pair]   as in memory: the left operand, read by broadcasts
 *   lanes  [d / pair][n]   rows, transposed: the right operand when d is summed
 *   pairs  [n / pair][d]   neighbours n, n+1 in one unit: the right operand when n is summed
 * A transposed `pairs` is the left operand [d][n / pair] when n is summed.
 *
 * Invariants: unnamed namespace, no standard library. An element of a tile is one chain of dots over k upwards.
 * exp2 after Cephes' scheme (round, polynomial, exponent add); its coefficients are minimax on [-1/2, 1/2].
 */
#pragma once

#include "../isa/simd.h"
#include "tiles.h"

#include <cstring>

namespace lathe::cpu::attention {
namespace {

#if defined(__AVX512BF16__)
constexpr int kPair = 2;
constexpr const char* kVariant = "avx512bf16";
#else
constexpr int kPair = 1;
constexpr const char* kVariant = kIsaName;
#endif
constexpr int kTileColumns = kWidth == 16 ? 4 : 2;  // vectors of a register tile's row

LATHE_INLINE F dot(F acc, F a, F b) {
#if defined(__AVX512BF16__)
  return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
#else
  return fma(a, b, acc);
#endif
}

// ---- the register tile: c[R][C * kWidth] = start + a[R][k] b[k][...]

enum Start { kZero, kAdd, kScaleLanes };  // start = 0, c, or c * alpha (one factor per column)

template <int R, int C>
__attribute__((noinline)) void tile(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, float* c,
                                    int64_t ldc, Start start, const float* alpha) {
  F acc[R][C];
  if (start == kZero) {
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) acc[r][j] = splat(0);
  } else if (start == kAdd) {
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) acc[r][j] = load(c + r * ldc + j * kWidth);
  } else {
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) {
      F f = load(alpha + j * kWidth);
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) acc[r][j] = load(c + r * ldc + j * kWidth) * f;
    }
  }
  for (; k > 0; k--) {
    F right[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) right[j] = load(b + j * kWidth);
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      F left = splat(a[r * lda]);
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) acc[r][j] = dot(acc[r][j], left, right[j]);
    }
    a++;
    b += ldb;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) store(c + r * ldc + j * kWidth, acc[r][j]);
}

using TileFn = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, Start, const float*);

template <int R>
LATHE_INLINE TileFn tile_of(int64_t columns) {
  if constexpr (kTileColumns == 4) {
    if (columns >= 4) return tile<R, 4>;
    if (columns == 3) return tile<R, 3>;
  }
  return columns >= 2 ? tile<R, 2> : tile<R, 1>;
}

// c[m][n] over register tiles; n counts floats and is a multiple of kLanes.
inline void product(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t m, int64_t n, int64_t k, float* c,
                    int64_t ldc, Start start, const float* alpha = nullptr) {
  for (int64_t j = 0; j < n; j += kTileColumns * kWidth) {
    int64_t columns = (n - j) / kWidth;
    const float* f = alpha ? alpha + j : nullptr;
    int64_t i = 0;
    for (TileFn six = tile_of<6>(columns); i + 6 <= m; i += 6)
      six(a + i * lda, lda, b + j, ldb, k, c + i * ldc + j, ldc, start, f);
    const float* left = a + i * lda;
    float* out = c + i * ldc + j;
    switch (m - i) {
      case 5: tile_of<5>(columns)(left, lda, b + j, ldb, k, out, ldc, start, f); break;
      case 4: tile_of<4>(columns)(left, lda, b + j, ldb, k, out, ldc, start, f); break;
      case 3: tile_of<3>(columns)(left, lda, b + j, ldb, k, out, ldc, start, f); break;
      case 2: tile_of<2>(columns)(left, lda, b + j, ldb, k, out, ldc, start, f); break;
      case 1: tile_of<1>(columns)(left, lda, b + j, ldb, k, out, ldc, start, f); break;
      default: break;
    }
  }
}

// ---- layouts

inline void set_zero(float* p, int64_t n) { std::memset(p, 0, size_t(n) * sizeof(float)); }

// rows layout of n rows of d elements; columns up to padded_dim and rows up to n_padded become 0.
template <class T>
void pack_rows(const T* src, int64_t ld, int64_t n, int64_t n_padded, int64_t d, int64_t dp, float* dst) {
  int64_t units = dp / kPair;
  for (int64_t r = 0; r < n; r++, src += ld, dst += units) {
    // Rows of one head are far apart: the hardware does not see the pattern in time.
    for (int64_t c = 0; c < d && r + 8 < n; c += 64 / int64_t(sizeof(T))) __builtin_prefetch(src + 8 * ld + c);
    if constexpr (kPair == 2) {
      const float* from = (const float*)src;  // units
      int64_t c = 0;
      for (; 2 * (c + kWidth) <= d; c += kWidth) store(dst + c, load(from + c));
      if (2 * c < d) std::memcpy(dst + c, from + c, size_t(d - 2 * c) * 2);
      if (d < dp) std::memset((char*)dst + d * 2, 0, size_t(dp - d) * 2);
    } else {
      int64_t c = 0;
      for (; c + kWidth <= d; c += kWidth) store(dst + c, load(src + c));
      if (c < d) store(dst + c, load(src + c, d - c), d - c);
      if (d < dp) set_zero(dst + d, dp - d);
    }
  }
  if (n < n_padded) set_zero(dst, (n_padded - n) * units);
}

// pairs layout from rows layout; n is even when kPair is 2.
inline void pack_pairs(const float* rows, int64_t n, int64_t dp, float* dst) {
  if constexpr (kPair == 1) {
    std::memcpy(dst, rows, size_t(n * dp) * sizeof(float));
  } else {
    const uint16_t* s = (const uint16_t*)rows;
    uint32_t* out = (uint32_t*)dst;
    for (int64_t r = 0; r < n; r += 2, s += 2 * dp, out += dp)
      for (int64_t c = 0; c < dp; c++) out[c] = uint32_t(s[c]) | uint32_t(s[dp + c]) << 16;
  }
}

#if defined(__AVX512F__)
constexpr int kBlock = 16;
inline void transpose_block(const float* s, int64_t lds, float* d, int64_t ldd) {
  __m512 r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(s + i * lds);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[i + 2])));
    r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
    r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i + 1]), _mm512_castps_pd(t[i + 3])));
  }
  // r[4 q + j] holds column 4 l + j of rows 4 q .. 4 q + 3 in 128-bit lane l: transpose the 4 x 4 of lanes.
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    __m512 a = _mm512_shuffle_f32x4(r[j], r[4 + j], 0x44), b = _mm512_shuffle_f32x4(r[j], r[4 + j], 0xee);
    __m512 c = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0x44), e = _mm512_shuffle_f32x4(r[8 + j], r[12 + j], 0xee);
    _mm512_storeu_ps(d + j * ldd, _mm512_shuffle_f32x4(a, c, 0x88));
    _mm512_storeu_ps(d + (4 + j) * ldd, _mm512_shuffle_f32x4(a, c, 0xdd));
    _mm512_storeu_ps(d + (8 + j) * ldd, _mm512_shuffle_f32x4(b, e, 0x88));
    _mm512_storeu_ps(d + (12 + j) * ldd, _mm512_shuffle_f32x4(b, e, 0xdd));
  }
}
#elif defined(__AVX2__)
constexpr int kBlock = 8;
inline void transpose_block(const float* s, int64_t lds, float* d, int64_t ldd) {
  __m256 r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(s + i * lds);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(t[i]), _mm256_castps_pd(t[i + 2])));
    r[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(t[i]), _mm256_castps_pd(t[i + 2])));
    r[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(t[i + 1]), _mm256_castps_pd(t[i + 3])));
    r[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(t[i + 1]), _mm256_castps_pd(t[i + 3])));
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    _mm256_storeu_ps(d + j * ldd, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
    _mm256_storeu_ps(d + (4 + j) * ldd, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
  }
}
#else
constexpr int kBlock = 4;
inline void transpose_block(const float* s, int64_t lds, float* d, int64_t ldd) {
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) std::memcpy(d + j * ldd + i, s + i * lds + j, 4);
}
#endif

// d[c][r] = s[r][c], units moved as they are.
inline void transpose(const float* s, int64_t lds, int64_t rows, int64_t cols, float* d, int64_t ldd) {
  int64_t whole_rows = rows / kBlock * kBlock, whole_cols = cols / kBlock * kBlock;
  for (int64_t r = 0; r < whole_rows; r += kBlock)
    for (int64_t c = 0; c < whole_cols; c += kBlock) transpose_block(s + r * lds + c, lds, d + c * ldd + r, ldd);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = r < whole_rows ? whole_cols : 0; c < cols; c++) std::memcpy(d + c * ldd + r, s + r * lds + c, 4);
}

// ---- vector math

constexpr float kLog2E = 1.44269504088896341f;

// 2^x. Below -126 the result is 2^-126: masked entries are zeroed by their mask, not here. NaN stays NaN.
LATHE_INLINE F exp2_of(F x) {
  const F magic = splat(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the rounded integer
  x = max_of(splat(-126.0f), x);
  F t = x + magic, f = x - (t - magic), p;
  if constexpr (kPair == 2) {  // relative error 2.6e-6, P is rounded to 2^-9 anyway
    p = splat(0.00957010186f);
    p = fma(p, f, splat(0.0559178603f));
    p = fma(p, f, splat(0.240247448f));
    p = fma(p, f, splat(0.693121815f));
    p = fma(p, f, splat(0.999999261f));
  } else {  // 7.5e-8
    p = splat(0.00132764726f);
    p = fma(p, f, splat(0.00967554134f));
    p = fma(p, f, splat(0.0555071327f));
    p = fma(p, f, splat(0.240221197f));
    p = fma(p, f, splat(0.693146967f));
    p = fma(p, f, splat(1.00000007f));
  }
#if defined(__AVX512F__)
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
#elif defined(__AVX2__)
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
#else
  return (F)((U)p + ((U)t << 23));
#endif
}

// tanh, absolute error about 1e-7: the odd polynomial of Cephes near 0, else through exp2.
LATHE_INLINE F tanh_of(F x) {
  F a = min_of(splat(10.0f), abs_of(x)), z = a * a;
  F small = splat(-5.70498872745e-3f);
  small = fma(small, z, splat(2.06390887954e-2f));
  small = fma(small, z, splat(-5.37397155531e-2f));
  small = fma(small, z, splat(1.33314422036e-1f));
  small = fma(small, z, splat(-3.33332819422e-1f));
  small = fma(small * z, a, a);
  F large = splat(1.0f) - splat(2.0f) / (exp2_of(a * splat(2 * kLog2E)) + splat(1.0f));
  return with_sign_of(select(less(a, splat(0.625f)), small, large), x);
}

// Two rows of probabilities as one row of units (kPair 2).
#if defined(__AVX512BF16__)
LATHE_INLINE void store_pairs(float* dst, F even, F odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  _mm512_storeu_si512(dst, _mm512_permutexvar_epi16(order, both));
}
#endif

// Probabilities in rows layout: kWidth lanes from lane `lane` of a row of kQueries.
LATHE_INLINE void store_row_lanes(float* row, int64_t lane, F x) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256((__m256i*)(row + lane / 2), (__m256i)_mm512_cvtneps_pbh(x));
#else
  store(row + lane, x);
#endif
}

// The sum of a vector's lanes, halves added to halves.
LATHE_INLINE float sum_lanes(F v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#elif defined(__AVX2__)
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

// ---- masks

// Which keys a query of a document sees: lo(i) .. hi(i), both non-decreasing in i.
struct Mask {
  int64_t len, window;
  bool causal;
  int64_t lo(int64_t i) const { return window > 0 && i - window + 1 > 0 ? i - window + 1 : 0; }
  int64_t hi(int64_t i) const {
    int64_t h = causal ? i : window > 0 ? i + window - 1 : len - 1;
    return h < len ? h : len - 1;
  }
};

// The strips of a key tile that each group of kLanes queries needs. Groups past the tile's queries need none.
struct Strips {
  int64_t groups;
  int64_t begin[kQueries / kLanes], end[kQueries / kLanes];
  int64_t inner_begin[kQueries / kLanes], inner_end[kQueries / kLanes];  // seen whole by every lane: no masking
  bool any;

  Strips(const Mask& mask, int64_t q0, int64_t queries, int64_t k0, int64_t keys) {
    groups = (queries + kLanes - 1) / kLanes;
    any = false;
    int64_t strips = (keys + kStrip - 1) / kStrip;
    for (int64_t g = 0; g < groups; g++) {
      int64_t first = q0 + g * kLanes, last = first + kLanes - 1;
      int64_t lo = mask.lo(first) - k0, hi = mask.hi(last) - k0;
      begin[g] = lo > 0 ? lo / kStrip : 0;
      end[g] = hi < 0 ? 0 : hi / kStrip + 1;
      if (end[g] > strips) end[g] = strips;
      if (begin[g] >= end[g]) begin[g] = end[g] = 0;
      any = any || begin[g] < end[g];
      int64_t all_lo = mask.lo(last) - k0, all_hi = mask.hi(first) - k0;
      inner_begin[g] = all_lo > 0 ? (all_lo + kStrip - 1) / kStrip : 0;
      inner_end[g] = all_hi < 0 ? 0 : (all_hi + 1) / kStrip;
    }
  }
  bool has(int64_t g, int64_t s) const { return begin[g] <= s && s < end[g]; }
  bool edge(int64_t g, int64_t s) const { return s < inner_begin[g] || s >= inner_end[g]; }
  // The groups of strip s: a contiguous range, because lo and hi are monotone.
  int64_t first_group(int64_t s) const {
    int64_t g = 0;
    while (g < groups && !has(g, s)) g++;
    return g;
  }
  int64_t last_group(int64_t s) const {
    int64_t g = groups;
    while (g > 0 && !has(g - 1, s)) g--;
    return g;
  }
  // One past the last group from g on with the same strips.
  int64_t same(int64_t g) const {
    int64_t e = g + 1;
    while (e < groups && begin[e] == begin[g] && end[e] == end[g]) e++;
    return e;
  }
};

// lo and hi of every lane of a query tile, as floats.
inline void mask_lanes(const Mask& mask, int64_t q0, float* lo, float* hi) {
  for (int64_t i = 0; i < kQueries; i++) {
    lo[i] = float(mask.lo(q0 + i));
    hi[i] = float(mask.hi(q0 + i));
  }
}

}  // namespace
}  // namespace lathe::cpu::attention
