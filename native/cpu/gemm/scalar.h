/*
 * Scalar conversions between fp32, bf16 and fp16, and element access by dtype.
 *
 * bf16 rounding is to nearest, ties to even; a NaN stays a quiet NaN. Everything has internal linkage, so
 * that a copy compiled for one instruction set can never be linked into another's code.
 */
#pragma once

#include <cstdint>
#include <cstring>

#include "lathe/types.h"

namespace lathe::cpu {
namespace {

[[maybe_unused]] inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

[[maybe_unused]] inline float from_bits(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

[[maybe_unused]] inline uint16_t to_bf16(float x) {
  const uint32_t u = bits_of(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(u >> 16 | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

[[maybe_unused]] inline float from_bf16(uint16_t h) { return from_bits(static_cast<uint32_t>(h) << 16); }

[[maybe_unused]] inline float round_to_bf16(float x) { return from_bf16(to_bf16(x)); }

[[maybe_unused]] inline float from_f16(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // 2^112 moves the exponent from fp16's bias to fp32's and normalises subnormals exactly.
  return from_bits(sign | bits_of(from_bits(magnitude << 13) * 0x1p112f));
}

[[maybe_unused]] inline float load_element(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::F32) return static_cast<const float*>(data)[i];
  const uint16_t h = static_cast<const uint16_t*>(data)[i];
  return dtype == DType::BF16 ? from_bf16(h) : from_f16(h);
}

}  // namespace
}  // namespace lathe::cpu
