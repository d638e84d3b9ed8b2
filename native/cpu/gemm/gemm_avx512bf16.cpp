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
  static constexpr bool kUnitsFromCodes = true;
  static constexpr bool kLine = true;
  static constexpr int kAcross = 4;

  using Acc = __m512;
  static Acc load_sums(const float* p) { return _mm512_loadu_ps(p); }
  static void store_sums(float* p, Acc x) { _mm512_storeu_ps(p, x); }
  static Acc step(Acc sum, const char* a, Reg b) {
    return DotBf16::step(sum, _mm512_set1_ps(*reinterpret_cast<const AnyFloat*>(a)), _mm512_castsi512_ps(b));
  }

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
  static constexpr bool kStoredUnits = D == DType::BF16;
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
    if (D != DType::BF16 && p1 != nullptr) {
      const __m512 even = load_f32(p0, D, mask), odd = load_f32(p1, D, mask);
      // One conversion leaves the even elements in the low half, the odd ones in the high half.
      const __m512i first = _mm512_set_epi32(0x001f000f, 0x001e000e, 0x001d000d, 0x001c000c, 0x001b000b, 0x001a000a,
                                             0x00190009, 0x00180008, 0x00170007, 0x00160006, 0x00150005, 0x00140004,
                                             0x00130003, 0x00120002, 0x00110001, 0x00100000);
      return _mm512_permutexvar_epi16(first, reinterpret_cast<Reg>(_mm512_cvtne2ps_pbh(odd, even)));
    }
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

  /*
   * 64 consecutive k of 16 lanes, from codes straight to units: codes, not values, are brought together. A register
   * holds 16 bytes (16 units) of lanes r, 4 + r, 8 + r and 12 + r, one per 128-bit part, and a second table
   * of 64 entries the 16 values of each, so one permute decodes 4 units of 4 lanes. Index: bits 4 and 5 name the lane.
   */
  static void units64(const uint8_t* bytes, int64_t lane_bytes, const float* scales, int64_t scale_step,
                      const float* table, uint32_t* out, int64_t width) {
    const __m512 values = _mm512_loadu_ps(table);
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i part = _mm512_inserti64x4(_mm512_castsi256_si512(lane_names(0, 16)), lane_names(32, 48), 1);
    __m512i low[4], high[4];  // bf16 values of two lanes each
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const float* scale = scales + r * scale_step;
      low[r] = two_tables(values, scale[0], scale[4 * scale_step]);
      high[r] = two_tables(values, scale[8 * scale_step], scale[12 * scale_step]);
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m512i codes[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const uint8_t* p = bytes + r * lane_bytes + 16 * half;
        codes[r] = _mm512_castsi128_si512(load_16_bytes(p));
        codes[r] = _mm512_inserti32x4(codes[r], load_16_bytes(p + 4 * lane_bytes), 1);
        codes[r] = _mm512_inserti32x4(codes[r], load_16_bytes(p + 8 * lane_bytes), 2);
        codes[r] = _mm512_inserti32x4(codes[r], load_16_bytes(p + 12 * lane_bytes), 3);
      }
      // The first byte of every 16 bits, then the second: units of even and of odd number.
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        __m512i first[4], second[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; ++r) {
          first[r] = masked_or(_mm512_srli_epi16(codes[r], odd ? 12 : 4), nibble, part);
          second[r] = masked_or(odd ? _mm512_srli_epi16(codes[r], 8) : codes[r], nibble, part);
        }
#pragma GCC unroll 2
        for (int later = 0; later < 2; ++later) {
          __m512i w[4];
#pragma GCC unroll 4
          for (int r = 0; r < 4; ++r) {
            const __m512i index =
                later ? _mm512_unpackhi_epi16(first[r], second[r]) : _mm512_unpacklo_epi16(first[r], second[r]);
            w[r] = _mm512_permutex2var_epi16(low[r], index, high[r]);
          }
          // Lanes 4L .. 4L + 3 meet in part L.
          const __m512i a = _mm512_unpacklo_epi32(w[0], w[1]);
          const __m512i b = _mm512_unpackhi_epi32(w[0], w[1]);
          const __m512i c = _mm512_unpacklo_epi32(w[2], w[3]);
          const __m512i d = _mm512_unpackhi_epi32(w[2], w[3]);
          uint32_t* unit = out + (16 * half + 8 * later + odd) * width;
          _mm512_storeu_si512(unit, _mm512_unpacklo_epi64(a, c));
          _mm512_storeu_si512(unit + 2 * width, _mm512_unpackhi_epi64(a, c));
          _mm512_storeu_si512(unit + 4 * width, _mm512_unpacklo_epi64(b, d));
          _mm512_storeu_si512(unit + 6 * width, _mm512_unpackhi_epi64(b, d));
        }
      }
    }
  }

 private:
  static __m128i load_16_bytes(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static __m256i lane_names(char a, char b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_set1_epi8(a)), _mm_set1_epi8(b), 1);
  }
  // (x & mask) | bits
  static __m512i masked_or(__m512i x, __m512i mask, __m512i bits) {
    return _mm512_ternarylogic_epi32(x, mask, bits, 0xea);
  }
  static __m512i two_tables(__m512 values, float scale0, float scale1) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(_mm512_mul_ps(values, _mm512_set1_ps(scale1)),
                                                         _mm512_mul_ps(values, _mm512_set1_ps(scale0))));
  }
};

const KernelTable kTable = {"avx512bf16",
                            Unit::kBf16Pair,
                            1024,
                            Packer<Bf16Pairs>::pack_rows,
                            Packer<Bf16Pairs>::pack_panel,
                            tile_any<DotBf16, NarrowBf16>,
                            FewRows<Bf16Pairs>::multiply,
                            64,
                            finish_stream};

}  // namespace

const KernelTable* avx512bf16_kernels() { return &kTable; }

}  // namespace lathe::cpu

#else

#include "kernel_table.h"

namespace lathe::cpu {
const KernelTable* avx512bf16_kernels() { return nullptr; }
}  // namespace lathe::cpu

#endif
