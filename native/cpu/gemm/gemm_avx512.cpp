/*
 * fp32 arithmetic with AVX-512: packing into fp32 units (optionally rounded to bf16 on the way, where the CPU
 * has no bf16 arithmetic), and the 6x64 tile.
 */
// A nested scale is rounded after the product and after the sum. Before any header, because g++ does not
// inline across functions with different options.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__)

#include "avx512_common.h"
#include "pack_simd.h"

namespace lathe::cpu {
namespace {

struct FmaF32 {
  static __m512 step(__m512 sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }
};

// The bits of x rounded to bf16, in the high halves; low halves are not cleared.
inline __m512i rounded_bits(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), lsb);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
}

struct NarrowF32 {
  static __m256i to_bf16(__m512 x) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bits(x), 16)); }
};

template <bool kRounded>
struct F32Units {
  using Reg = __m512i;
  using Code = float;
  static constexpr int kWidth = 16;
  static constexpr int kPerUnit = 1;
  static constexpr DType kCodeType = DType::F32;
  static constexpr bool kUnitsFromCodes = false;
  static constexpr bool kLine = true;
  static constexpr int kAcross = 4;

  static int64_t panel_width(int64_t lanes) { return (lanes + 15) / 16 * 16; }
  static Reg zero() { return _mm512_setzero_si512(); }
  static void store(uint32_t* p, Reg x) { _mm512_storeu_si512(p, x); }
  static void stream(uint32_t* p, Reg x) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), x); }
  static void finish_stream() { cpu::finish_stream(); }
  static void store_part(uint32_t* p, Reg x, int64_t n) {
    if (n >= 16) {
      _mm512_storeu_si512(p, x);
    } else {
      _mm512_mask_storeu_epi32(p, first_lanes(n), x);
    }
  }
  static void transpose_rows(const char* p, int64_t row_bytes, Reg* out) { transpose_16_rows(p, row_bytes, out); }
  template <DType D>
  static constexpr bool kStoredUnits = D == DType::F32 && !kRounded;
  static void narrow(float x, Code* out) { *out = x; }

  template <DType D>
  static Reg along_k(const char* p, int64_t valid) {
    const __m512 x = valid >= 16 ? load_f32(p, D, 0xffff) : load_f32(p, D, first_lanes(valid));
    // A stored bf16 is already rounded.
    if (!kRounded || D == DType::BF16) return _mm512_castps_si512(x);
    return _mm512_and_si512(rounded_bits(x), _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  }

  template <DType D>
  static Reg along_lanes(const char* p0, const char*, int64_t valid) {
    return along_k<D>(p0, valid);
  }

  static void expand64(const uint8_t* bytes, float scale, const float* table, Code* out) {
    const __m512 values = _mm512_mul_ps(_mm512_loadu_ps(table), _mm512_set1_ps(scale));
    // 32-bit element i takes nibble i of four bytes, the high one of each byte first; the permute looks at
    // the low four bits only.
    const __m512i shift = _mm512_set_epi32(24, 28, 16, 20, 8, 12, 0, 4, 24, 28, 16, 20, 8, 12, 0, 4);
    for (int i = 0; i < 4; ++i) {
      int low, high;
      std::memcpy(&low, bytes + 8 * i, 4);
      std::memcpy(&high, bytes + 8 * i + 4, 4);
      const __m512i words = _mm512_inserti64x4(_mm512_set1_epi32(low), _mm256_set1_epi32(high), 1);
      _mm512_storeu_ps(out + 16 * i, _mm512_permutexvar_ps(_mm512_srlv_epi32(words, shift), values));
    }
  }
};

template <bool kRounded>
constexpr KernelTable kTable = {"avx512",
                                kRounded ? Unit::kF32Rounded : Unit::kF32,
                                1024,
                                Packer<F32Units<kRounded>>::pack_rows,
                                Packer<F32Units<kRounded>>::pack_panel,
                                tile_any<FmaF32, NarrowF32>,
                                nullptr,
                                0,
                                finish_stream};

}  // namespace

const KernelTable* avx512_kernels(bool rounded) { return rounded ? &kTable<true> : &kTable<false>; }

}  // namespace lathe::cpu

#else

#include "kernel_table.h"

namespace lathe::cpu {
const KernelTable* avx512_kernels(bool) { return nullptr; }
}  // namespace lathe::cpu

#endif
