// Decoders of GGUF's block formats. Layouts as in ggml's block_q* structures; little endian.
//
// Legacy formats: 32 values, one fp16 scale d (and a minimum m); byte j holds values j (low nibble) and j + 16 (high).
// K formats: 256 values in sub-blocks of 16 or 32 with small integer scales (and minima) under fp16 super-scales.
#include "ggml_blocks.h"

#include <cstring>

#include "isa/simd.h"

namespace lathe::cpu {
namespace {

float half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return half_to_float(h);
}

void decode_f32(const uint8_t* p, float* y) { std::memcpy(y, p, 4); }
void decode_f16(const uint8_t* p, float* y) { *y = half_at(p); }
void decode_bf16(const uint8_t* p, float* y) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  *y = bits_to_float(uint32_t(h) << 16);
}

void decode_q4_0(const uint8_t* p, float* y) {
  float d = half_at(p);
  for (int j = 0; j < 16; j++) {
    y[j] = d * float((p[2 + j] & 15) - 8);
    y[j + 16] = d * float((p[2 + j] >> 4) - 8);
  }
}
void decode_q4_1(const uint8_t* p, float* y) {
  float d = half_at(p), m = half_at(p + 2);
  for (int j = 0; j < 16; j++) {
    y[j] = d * float(p[4 + j] & 15) + m;
    y[j + 16] = d * float(p[4 + j] >> 4) + m;
  }
}
// The fifth bit of value j is bit j of a 32-bit word.
void decode_q5_0(const uint8_t* p, float* y) {
  float d = half_at(p);
  uint32_t high;
  std::memcpy(&high, p + 2, 4);
  for (int j = 0; j < 16; j++) {
    y[j] = d * float(int((p[6 + j] & 15) | ((high >> j) & 1) << 4) - 16);
    y[j + 16] = d * float(int((p[6 + j] >> 4) | ((high >> (j + 16)) & 1) << 4) - 16);
  }
}
void decode_q5_1(const uint8_t* p, float* y) {
  float d = half_at(p), m = half_at(p + 2);
  uint32_t high;
  std::memcpy(&high, p + 4, 4);
  for (int j = 0; j < 16; j++) {
    y[j] = d * float((p[8 + j] & 15) | ((high >> j) & 1) << 4) + m;
    y[j + 16] = d * float((p[8 + j] >> 4) | ((high >> (j + 16)) & 1) << 4) + m;
  }
}
void decode_q8_0(const uint8_t* p, float* y) {
  float d = half_at(p);
  for (int j = 0; j < 32; j++) y[j] = d * float(int8_t(p[2 + j]));
}

// 16 sub-blocks of 16: a byte of scale (low nibble) and minimum (high); 2-bit values, four planes per 32 bytes.
void decode_q2_k(const uint8_t* p, float* y) {
  const uint8_t *scales = p, *q = p + 16;
  float d = half_at(p + 80), dmin = half_at(p + 82);
  for (int i = 0; i < 256; i++) {
    int s = scales[i / 16], plane = (i / 32) % 4, byte = 32 * (i / 128) + i % 32;
    y[i] = d * float(s & 15) * float((q[byte] >> (2 * plane)) & 3) - dmin * float(s >> 4);
  }
}
// 16 six-bit scales in 12 bytes: low nibbles in bytes 0..7, the upper two bits in bytes 8..11. A third bit per value.
void decode_q3_k(const uint8_t* p, float* y) {
  const uint8_t *high = p, *q = p + 32, *packed = p + 96;
  float d = half_at(p + 108);
  for (int i = 0; i < 256; i++) {
    int k = i / 16, plane = (i / 32) % 4, byte = 32 * (i / 128) + i % 32;
    int low = k < 8 ? packed[k] & 15 : packed[k - 8] >> 4;
    int scale = (low | ((packed[8 + k % 4] >> (2 * (k / 4))) & 3) << 4) - 32;
    int value = ((q[byte] >> (2 * plane)) & 3) - ((high[i % 32] >> (i / 32)) & 1 ? 0 : 4);
    y[i] = d * float(scale) * float(value);
  }
}
// Eight six-bit scales and minima in 12 bytes: 0..3 in the low bits of bytes 0..3 and 4..7, 4..7 pieced together.
void scale_and_minimum(const uint8_t* s, int k, int* scale, int* minimum) {
  if (k < 4) {
    *scale = s[k] & 63;
    *minimum = s[k + 4] & 63;
  } else {
    *scale = (s[k + 4] & 15) | (s[k - 4] >> 6) << 4;
    *minimum = (s[k + 4] >> 4) | (s[k] >> 6) << 4;
  }
}
void decode_q45_k(const uint8_t* p, const uint8_t* high, const uint8_t* q, float* y) {
  float d = half_at(p), dmin = half_at(p + 2);
  for (int k = 0; k < 8; k++) {
    int scale, minimum;
    scale_and_minimum(p + 4, k, &scale, &minimum);
    float a = d * float(scale), b = dmin * float(minimum);
    for (int j = 0; j < 32; j++) {
      int value = (q[32 * (k / 2) + j] >> (4 * (k % 2))) & 15;
      if (high) value |= ((high[j] >> k) & 1) << 4;
      y[32 * k + j] = a * float(value) - b;
    }
  }
}
void decode_q4_k(const uint8_t* p, float* y) { decode_q45_k(p, nullptr, p + 16, y); }
void decode_q5_k(const uint8_t* p, float* y) { decode_q45_k(p, p + 16, p + 48, y); }
// Six bits: four low in nibbles, two high in planes; 16 signed byte scales.
void decode_q6_k(const uint8_t* p, float* y) {
  const uint8_t *low = p, *high = p + 128, *scales = p + 192;
  float d = half_at(p + 208);
  for (int i = 0; i < 256; i++) {
    int half = i / 128, quarter = (i / 32) % 4, j = i % 32;
    int nibble = (low[64 * half + 32 * (quarter % 2) + j] >> (4 * (quarter / 2))) & 15;
    int value = (nibble | ((high[32 * half + j] >> (2 * quarter)) & 3) << 4) - 32;
    y[i] = d * float(int8_t(scales[i / 16])) * float(value);
  }
}

const GgmlFormat kFormats[] = {
    {"F32", 1, 4, decode_f32},        {"F16", 1, 2, decode_f16},        {"BF16", 1, 2, decode_bf16},
    {"Q4_0", 32, 18, decode_q4_0},    {"Q4_1", 32, 20, decode_q4_1},    {"Q5_0", 32, 22, decode_q5_0},
    {"Q5_1", 32, 24, decode_q5_1},    {"Q8_0", 32, 34, decode_q8_0},    {"Q2_K", 256, 84, decode_q2_k},
    {"Q3_K", 256, 110, decode_q3_k},  {"Q4_K", 256, 144, decode_q4_k},  {"Q5_K", 256, 176, decode_q5_k},
    {"Q6_K", 256, 210, decode_q6_k},
};

}  // namespace

const GgmlFormat* ggml_format(const char* name) {
  for (auto& f : kFormats)
    if (!std::strcmp(f.name, name)) return &f;
  return nullptr;
}
std::string ggml_format_names() {
  std::string s;
  for (auto& f : kFormats) s += (s.empty() ? "" : ", ") + std::string(f.name);
  return s;
}

}  // namespace lathe::cpu
