/*
 * fp32 arithmetic with AVX2 and FMA: packing into fp32 units (optionally rounded to bf16 on the way) and a
 * 6x16 tile, run four times over the columns of a panel so that a row of op(a) is fetched once.
 *
 * Tile: 12 sums, 2 registers for the panel, 2 for broadcasts. Panel layout: sub-panels of 16, each [unit][16].
 */
// A nested scale is rounded after the product and after the sum. Before any header, because g++ does not
// inline across functions with different options.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif

#if defined(__AVX2__) && defined(__FMA__)

// g++ 12 warns about its own headers' undefined vectors (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "pack_simd.h"

namespace lathe::cpu {
namespace {

constexpr int kSub = 16;

inline __m256 widen(__m128i h, DType dtype) {
  if (dtype == DType::F16) return _mm256_cvtph_ps(h);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

// 8 elements as fp32; only the first `valid` are read.
inline __m256 load_f32(const char* p, DType dtype, int64_t valid) {
  if (valid >= 8) {
    if (dtype == DType::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), dtype);
  }
  char bytes[32] = {};
  const int64_t size = dtype == DType::F32 ? 4 : 2;
  if (valid > 0) std::memcpy(bytes, p, static_cast<size_t>(valid * size));
  if (dtype == DType::F32) return _mm256_loadu_ps(reinterpret_cast<const float*>(bytes));
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)), dtype);
}

// The bits of x rounded to bf16, in the high halves; low halves are not cleared.
inline __m256i rounded_bits(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), lsb);
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan));
}

template <bool kRounded>
struct F32Units {
  using Reg = __m256;
  using Code = float;
  static constexpr int kWidth = 8;
  static constexpr int kPerUnit = 1;
  static constexpr DType kCodeType = DType::F32;
  static constexpr bool kUnitsFromCodes = false;
  static constexpr bool kLine = false;

  static int64_t panel_width(int64_t) { return kSub; }
  static Reg zero() { return _mm256_setzero_ps(); }
  static void store(uint32_t* p, Reg x) { _mm256_storeu_ps(reinterpret_cast<float*>(p), x); }
  static void store_part(uint32_t* p, Reg x, int64_t n) {
    if (n >= 8) return store(p, x);
    alignas(32) uint32_t all[8];
    store(all, x);
    if (n > 0) std::memcpy(p, all, static_cast<size_t>(n) * 4);
  }
  static constexpr int kAcross = 8;
  static void transpose_rows(const char* p, int64_t row_bytes, Reg* out) {
    Reg r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(p + i * row_bytes));
    for (int i = 0; i < 2; ++i) {
      const Reg a = _mm256_unpacklo_ps(r[4 * i], r[4 * i + 1]);
      const Reg b = _mm256_unpackhi_ps(r[4 * i], r[4 * i + 1]);
      const Reg c = _mm256_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]);
      const Reg d = _mm256_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]);
      t[4 * i] = _mm256_shuffle_ps(a, c, 0x44);
      t[4 * i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[4 * i + 2] = _mm256_shuffle_ps(b, d, 0x44);
      t[4 * i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int j = 0; j < 4; ++j) {
      out[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
      out[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
  }
  template <DType D>
  static constexpr bool kStoredUnits = false;
  static void narrow(float x, Code* out) { *out = x; }

  template <DType D>
  static Reg along_k(const char* p, int64_t valid) {
    const Reg x = load_f32(p, D, valid);
    // A stored bf16 is already rounded.
    if (!kRounded || D == DType::BF16) return x;
    return _mm256_castsi256_ps(_mm256_and_si256(rounded_bits(x), _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  template <DType D>
  static Reg along_lanes(const char* p0, const char*, int64_t valid) {
    return along_k<D>(p0, valid);
  }

  static void expand64(const uint8_t* bytes, float scale, const float* table, Code* out) {
    const Reg s = _mm256_set1_ps(scale);
    const Reg low = _mm256_mul_ps(_mm256_loadu_ps(table), s);
    const Reg high = _mm256_mul_ps(_mm256_loadu_ps(table + 8), s);
    // Element i takes nibble i of four bytes, the high one of each byte first. The permute looks at three
    // bits; the fourth, moved to the sign, selects the half of the table.
    const __m256i shift = _mm256_set_epi32(24, 28, 16, 20, 8, 12, 0, 4);
    for (int i = 0; i < 8; ++i) {
      int word;
      std::memcpy(&word, bytes + 4 * i, 4);
      const __m256i code = _mm256_srlv_epi32(_mm256_set1_epi32(word), shift);
      const Reg half = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
      const Reg value =
          _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code), _mm256_permutevar8x32_ps(high, code), half);
      _mm256_storeu_ps(out + 8 * i, value);
    }
  }
};

// Applies the epilogue to one row of a sub-tile.
void finish_row(const Epilogue& e, int64_t row, int64_t col, int count, __m256 low, __m256 high) {
  __m256 sums[2] = {low, high};
  for (int v = 0; v < 2; ++v) {
    const int64_t valid = count - 8 * v;
    if (valid <= 0) return;
    const int64_t j = col + 8 * v;
    __m256 bias = _mm256_setzero_ps();
    if (e.bias != nullptr) {
      bias = load_f32(static_cast<const char*>(e.bias) + j * (e.bias_dtype == DType::F32 ? 4 : 2), e.bias_dtype, valid);
    }
    __m256 x = _mm256_fmadd_ps(_mm256_set1_ps(e.alpha), sums[v], bias);
    if (e.addend != nullptr) {
      const int64_t size = e.addend_dtype == DType::F32 ? 4 : 2;
      x = _mm256_add_ps(
          x, load_f32(static_cast<const char*>(e.addend) + (row * e.addend_ld + j) * size, e.addend_dtype, valid));
    }
    if (e.c_dtype == DType::F32) {
      float* c = static_cast<float*>(e.c) + row * e.ldc + j;
      F32Units<false>::store_part(reinterpret_cast<uint32_t*>(c), x, valid);
      continue;
    }
    const __m256i bits = _mm256_srli_epi32(rounded_bits(x), 16);
    const __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    uint16_t* c = static_cast<uint16_t*>(e.c) + row * e.ldc + j;
    if (valid >= 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(c), h);
    } else {
      uint16_t all[8];
      _mm_storeu_si128(reinterpret_cast<__m128i*>(all), h);
      std::memcpy(c, all, static_cast<size_t>(valid) * 2);
    }
  }
}

// A function of its own on purpose: inlined into a loop, g++ spills the sums.
template <int R>
__attribute__((noinline)) void sub_tile(const TileArgs& t, int sub) {
  __m256 sums[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const float* p = t.sums + r * kPanelCols + sub * kSub;
    sums[r][0] = t.resume ? _mm256_loadu_ps(p) : _mm256_setzero_ps();
    sums[r][1] = t.resume ? _mm256_loadu_ps(p + 8) : _mm256_setzero_ps();
  }
  for (int s = 0; s < t.segment_count; ++s) {
    const Segment& segment = t.segments[s];
    const char* a[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) a[r] = segment.a + (t.a_row + r) * segment.a_stride;
    const int64_t units = segment.units;
    const float* b = reinterpret_cast<const float*>(segment.b) + sub * units * kSub;
    for (int64_t k = 0; k < units; ++k) {
      const __m256 b0 = _mm256_loadu_ps(b);
      const __m256 b1 = _mm256_loadu_ps(b + 8);
      b += kSub;
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256 x = _mm256_broadcast_ss(reinterpret_cast<const float*>(a[r] + 4 * k));
        sums[r][0] = _mm256_fmadd_ps(x, b0, sums[r][0]);
        sums[r][1] = _mm256_fmadd_ps(x, b1, sums[r][1]);
      }
    }
  }
  if (t.finish) {
    const int left = t.cols - sub * kSub;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      finish_row(*t.epilogue, t.row + r, t.col + sub * kSub, left < kSub ? left : kSub, sums[r][0], sums[r][1]);
    }
    return;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    float* p = t.sums + r * kPanelCols + sub * kSub;
    _mm256_storeu_ps(p, sums[r][0]);
    _mm256_storeu_ps(p + 8, sums[r][1]);
  }
}

void tile(const TileArgs& t) {
  using SubTile = void (*)(const TileArgs&, int);
  static const SubTile tiles[kTileRows] = {sub_tile<1>, sub_tile<2>, sub_tile<3>,
                                           sub_tile<4>, sub_tile<5>, sub_tile<6>};
  for (int s = 0; s < t.segment_count; ++s) {
    for (int64_t k = 0; k < t.segments[s].units; k += 16) t.ahead->fetch();
  }
  for (int sub = 0; sub * kSub < t.cols; ++sub) tiles[t.rows - 1](t, sub);
}

template <bool kRounded>
constexpr KernelTable kTable = {"avx2",
                                kRounded ? Unit::kF32Rounded : Unit::kF32,
                                512,
                                Packer<F32Units<kRounded>>::pack_rows,
                                Packer<F32Units<kRounded>>::pack_panel,
                                tile};

}  // namespace

const KernelTable* avx2_kernels(bool rounded) { return rounded ? &kTable<true> : &kTable<false>; }

}  // namespace lathe::cpu

#else

#include "kernel_table.h"

namespace lathe::cpu {
const KernelTable* avx2_kernels(bool) { return nullptr; }
}  // namespace lathe::cpu

#endif
