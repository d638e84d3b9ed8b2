/*
 * Scalar decoding of 4-bit blocks (code_tables.h).
 */
#include "code_tables.h"

#include <cstring>

// Two roundings per nested scale: a contracted multiply-add would differ from the reference in the last bit.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=off")
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

namespace lathe::cpu {

namespace {

struct BlockIndex {
  int shift;  // log2(block), or -1 when it is not a power of two
  int64_t block;
  explicit BlockIndex(int64_t b) : shift(-1), block(b) {
    if ((b & (b - 1)) == 0) shift = __builtin_ctzll(static_cast<unsigned long long>(b));
  }
  int64_t of(int64_t i) const { return shift >= 0 ? i >> shift : i / block; }
};

}  // namespace

void block_scales(const MatOperand& operand, int64_t first, int64_t count, float* out) {
  if (operand.absmax_q == nullptr) {
    std::memcpy(out, operand.absmax + first, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const float offset = operand.nested_offset;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t b = first + i;
    const float scaled = kDynamicSigned[operand.absmax_q[b]] * operand.nested_absmax[b >> 8];
    out[i] = scaled + offset;
  }
}

void expand_codes(const MatOperand& operand, int64_t row, int64_t col0, int64_t count, float* out) {
  const float* values = code_values(operand.format);
  const auto* bytes = static_cast<const uint8_t*>(operand.data);
  const BlockIndex blocks(operand.block);
  int64_t i = row * operand.cols + col0;
  const int64_t end = i + count;
  while (i < end) {
    const int64_t block = blocks.of(i);
    float scale;
    block_scales(operand, block, 1, &scale);
    const int64_t block_end = (block + 1) * operand.block < end ? (block + 1) * operand.block : end;
    for (; i < block_end; ++i) {
      const uint8_t byte = bytes[i >> 1];
      *out++ = values[(i & 1) != 0 ? byte & 15 : byte >> 4] * scale;
    }
  }
}

}  // namespace lathe::cpu
