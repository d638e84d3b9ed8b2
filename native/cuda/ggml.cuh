// Decoders of GGUF's block formats, one value at a time. Layouts as in ggml's block_q* structures; little endian; the
// same arithmetic as native/cpu/ggml_blocks.cpp.
//
// Legacy formats: 32 values, one fp16 scale d (and a minimum m); byte j holds values j (low nibble) and j + 16 (high).
// K formats: 256 values in sub-blocks of 16 or 32 with small integer scales (and minima) under fp16 super-scales.
#pragma once
#include "cuda/common.cuh"

namespace lathe::cuda {

struct GgmlShape {
  const char* name;
  int elements, bytes;
};
constexpr int kGgmlFormats = 13;
constexpr GgmlShape kGgmlShapes[kGgmlFormats] = {
    {"F32", 1, 4},    {"F16", 1, 2},      {"BF16", 1, 2},     {"Q4_0", 32, 18},   {"Q4_1", 32, 20},
    {"Q5_0", 32, 22}, {"Q5_1", 32, 24},   {"Q8_0", 32, 34},   {"Q2_K", 256, 84},  {"Q3_K", 256, 110},
    {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
};

// Bytes need not be aligned.
__device__ __forceinline__ uint32_t u16_at(const uint8_t* p) { return uint32_t(p[0]) | uint32_t(p[1]) << 8; }
__device__ __forceinline__ uint32_t u32_at(const uint8_t* p) { return u16_at(p) | u16_at(p + 2) << 16; }
__device__ __forceinline__ float half_at(const uint8_t* p) { return half_float(uint16_t(u16_at(p))); }

// Eight six-bit scales and minima in 12 bytes: 0..3 in the low bits of bytes 0..3 and 4..7, 4..7 pieced together.
__device__ __forceinline__ float q45_value(const uint8_t* p, const uint8_t* high, const uint8_t* q, int i) {
  const uint8_t* s = p + 4;
  const int k = i / 32, j = i % 32;
  const int scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
  const int minimum = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) | (s[k] >> 6) << 4;
  int value = (q[32 * (k / 2) + j] >> (4 * (k % 2))) & 15;
  if (high) value |= ((high[j] >> k) & 1) << 4;
  return sub_rn(mul_rn(mul_rn(half_at(p), float(scale)), float(value)), mul_rn(half_at(p + 2), float(minimum)));
}

__device__ __forceinline__ float ggml_value(int format, const uint8_t* p, int i) {
  const int j = i % 16;
  switch (format) {
    case 0: return bits_float(u32_at(p));
    case 1: return half_at(p);
    case 2: return bits_float(u16_at(p) << 16);
    case 3: return mul_rn(half_at(p), float((i < 16 ? p[2 + j] & 15 : p[2 + j] >> 4) - 8));
    case 4: return add_rn(mul_rn(half_at(p), float(i < 16 ? p[4 + j] & 15 : p[4 + j] >> 4)), half_at(p + 2));
    case 5: {  // the fifth bit of value i is bit i of a 32-bit word
      const int v = (i < 16 ? p[6 + j] & 15 : p[6 + j] >> 4) | int((u32_at(p + 2) >> i) & 1) << 4;
      return mul_rn(half_at(p), float(v - 16));
    }
    case 6: {
      const int v = (i < 16 ? p[8 + j] & 15 : p[8 + j] >> 4) | int((u32_at(p + 4) >> i) & 1) << 4;
      return add_rn(mul_rn(half_at(p), float(v)), half_at(p + 2));
    }
    case 7: return mul_rn(half_at(p), float(int8_t(p[2 + i])));
    case 8: {  // 16 sub-blocks of 16: a byte of scale (low nibble) and minimum (high); 2-bit values, four planes per 32 bytes
      const int s = p[i / 16], plane = (i / 32) % 4, byte = 32 * (i / 128) + i % 32;
      return sub_rn(mul_rn(mul_rn(half_at(p + 80), float(s & 15)), float((p[16 + byte] >> (2 * plane)) & 3)),
                    mul_rn(half_at(p + 82), float(s >> 4)));
    }
    case 9: {  // 16 six-bit scales in 12 bytes: low nibbles in bytes 0..7, the upper two bits in 8..11; a third bit per value
      const uint8_t* packed = p + 96;
      const int k = i / 16, plane = (i / 32) % 4, byte = 32 * (i / 128) + i % 32;
      const int low = k < 8 ? packed[k] & 15 : packed[k - 8] >> 4;
      const int scale = (low | ((packed[8 + k % 4] >> (2 * (k / 4))) & 3) << 4) - 32;
      const int value = ((p[32 + byte] >> (2 * plane)) & 3) - ((p[i % 32] >> (i / 32)) & 1 ? 0 : 4);
      return mul_rn(mul_rn(half_at(p + 108), float(scale)), float(value));
    }
    case 10: return q45_value(p, nullptr, p + 16, i);
    case 11: return q45_value(p, p + 16, p + 48, i);
    default: {  // six bits: four low in nibbles, two high in planes; 16 signed byte scales
      const int half = i / 128, quarter = (i / 32) % 4, k = i % 32;
      const int nibble = (p[64 * half + 32 * (quarter % 2) + k] >> (4 * (quarter / 2))) & 15;
      const int value = (nibble | ((p[128 + 32 * half + k] >> (2 * quarter)) & 3) << 4) - 32;
      return mul_rn(mul_rn(half_at(p + 208), float(int8_t(p[192 + i / 16]))), float(value));
    }
  }
}

}  // namespace lathe::cuda
