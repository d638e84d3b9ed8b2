/*
 * bf16 arithmetic with VDPBF16PS: packing into bf16 pairs, and the 6x64 tile.
 *
 * One VDPBF16PS adds a[k+1]*b[k+1] and then a[k]*b[k] to 16 fp32 sums, rounding twice, with denormals as zero.
 * Codes of 4-bit weights cost one table of 16 bf16 values per block (code value * scale, rounded once), then
 * one 16-bit permute per 32 elements.
 */
// A nested scale is rounded after the product and after the sum. Before any header, because g++ does not
// inline across functions with different options.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#endif

#if defined(__AVX512BF16__)

#include "avx512_common.h"
#include "few_rows.h"

namespace lathe::cpu {
namespace {

struct DotBf16 {
  static __m512 step(__m512 sum, __m512 a, __m512 b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

struct NarrowBf16 {
  static __m256i to_bf16(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }
};

struct Bf16Pairs {
  using Reg = __m512i;
  using Code = uint16_t;
  static constexpr int kWidth = 16;
  static constexpr int kPerUnit = 2;
  static constexpr DType kCodeType = DType::BF16;

  using Acc = __m512;
  static Acc load_sums(const float* p) { return _mm512_loadu_ps(p); }
  static void store_sums(float* p, Acc x) { _mm512_storeu_ps(p, x); }
  static Acc step(Acc sum, const char* a, Reg b) {
    return DotBf16::step(sum, _mm512_set1_ps(*reinterpret_cast<const AnyFloat*>(a)), _mm512_castsi512_ps(b));
  }

  static int64_t panel_width(int64_t lanes) { return (lanes + 15) / 16 * 16; }
  static Reg zero() { return _mm512_setzero_si512(); }
  static void store(uint32_t* p, Reg x) { _mm512_storeu_si512(p, x); }
  static void store_part(uint32_t* p, Reg x, int64_t n) {
    if (n >= 16) {
      _mm512_storeu_si512(p, x);
    } else {
      _mm512_mask_storeu_epi32(p, first_lanes(n), x);
    }
  }
  static void transpose(Reg* r) { transpose16(r); }
  static void narrow(float x, Code* out) {
    *out = static_cast<uint16_t>(_mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set_ss(x))), 0));
  }

  // 32 consecutive elements of one lane: 16 pairs.
  template <DType D>
  static Reg along_k(const char* p, int64_t valid) {
    if constexpr (D == DType::BF16) {
      if (valid >= 32) return _mm512_loadu_si512(p);
      return _mm512_maskz_loadu_epi16((__mmask32{1} << valid) - 1, p);
    } else {
      constexpr int64_t kSize = D == DType::F32 ? 4 : 2;
      const bool whole = valid >= 32;
      const __m512 low = whole ? load_f32(p, D, 0xffff) : load_f32(p, D, first_lanes(valid));
      const __m512 high =
          whole ? load_f32(p + 16 * kSize, D, 0xffff) : load_f32(p + 16 * kSize, D, first_lanes(valid - 16));
      return reinterpret_cast<Reg>(_mm512_cvtne2ps_pbh(high, low));
    }
  }

  // 16 lanes as bf16 in the low halves of 32-bit elements' positions 0..15 of a 256-bit vector.
  template <DType D>
  static __m256i lanes_bf16(const char* p, __mmask16 mask) {
    if constexpr (D == DType::BF16) {
      return _mm256_maskz_loadu_epi16(mask, p);
    } else {
      return NarrowBf16::to_bf16(load_f32(p, D, mask));
    }
  }

  template <DType D>
  static Reg along_lanes(const char* p0, const char* p1, int64_t valid) {
    return valid >= 16 ? masked_lanes<D>(p0, p1, 0xffff) : masked_lanes<D>(p0, p1, first_lanes(valid));
  }

  template <DType D>
  static Reg masked_lanes(const char* p0, const char* p1, __mmask16 mask) {
    const __m512i even = _mm512_cvtepu16_epi32(lanes_bf16<D>(p0, mask));
    if (p1 == nullptr) return even;
    const __m512i odd = _mm512_cvtepu16_epi32(lanes_bf16<D>(p1, mask));
    return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
  }

  static void two_along_lanes(const char* p, int64_t row_bytes, Reg* low, Reg* high) {
    const __m512i even = _mm512_loadu_si512(p);
    const __m512i odd = _mm512_loadu_si512(p + row_bytes);
    // 16-bit element 2i comes from lane i of `even`, 2i + 1 from lane i of `odd` (indices from 32 up).
    const __m512i first = _mm512_set_epi32(0x002f000f, 0x002e000e, 0x002d000d, 0x002c000c, 0x002b000b, 0x002a000a,
                                           0x00290009, 0x00280008, 0x00270007, 0x00260006, 0x00250005, 0x00240004,
                                           0x00230003, 0x00220002, 0x00210001, 0x00200000);
    *low = _mm512_permutex2var_epi16(even, first, odd);
    *high = _mm512_permutex2var_epi16(even, _mm512_add_epi16(first, _mm512_set1_epi16(16)), odd);
  }

  static void expand64(const uint8_t* bytes, float scale, const float* table, Code* out) {
    const __m256i values = NarrowBf16::to_bf16(_mm512_mul_ps(_mm512_loadu_ps(table), _mm512_set1_ps(scale)));
    // Twice, because the permute looks at five bits of an index and only four are meant.
    const __m512i lut = _mm512_broadcast_i64x4(values);
    // 16-bit element 2i and 2i+1 of lane L both get byte 4L + i; then the first takes the high nibble.
    const __m512i spread =
        _mm512_set_epi32(static_cast<int>(0x800f800fu), static_cast<int>(0x800e800eu), static_cast<int>(0x800d800du),
                         static_cast<int>(0x800c800cu), static_cast<int>(0x800b800bu), static_cast<int>(0x800a800au),
                         static_cast<int>(0x80098009u), static_cast<int>(0x80088008u), static_cast<int>(0x80078007u),
                         static_cast<int>(0x80068006u), static_cast<int>(0x80058005u), static_cast<int>(0x80048004u),
                         static_cast<int>(0x80038003u), static_cast<int>(0x80028002u), static_cast<int>(0x80018001u),
                         static_cast<int>(0x80008000u));
    const __m512i shift = _mm512_set1_epi32(4);
    for (int i = 0; i < 2; ++i) {
      const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 16 * i));
      const __m512i words = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(packed), spread);
      const __m512i codes = _mm512_srlv_epi16(words, shift);
      _mm512_storeu_si512(out + 32 * i, _mm512_permutexvar_epi16(codes, lut));
    }
  }
};

const KernelTable kTable = {"avx512bf16",
                            Unit::kBf16Pair,
                            1024,
                            Packer<Bf16Pairs>::pack_rows,
                            Packer<Bf16Pairs>::pack_panel,
                            tile_any<DotBf16, NarrowBf16>,
                            FewRows<Bf16Pairs>::multiply};

}  // namespace

const KernelTable* avx512bf16_kernels() { return &kTable; }

}  // namespace lathe::cpu

#else

#include "kernel_table.h"

namespace lathe::cpu {
const KernelTable* avx512bf16_kernels() { return nullptr; }
}  // namespace lathe::cpu

#endif
