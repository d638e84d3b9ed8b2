/*
 * Constants and scalar decoding of 4-bit blocks (code_tables.h).
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

const float kNf4Values[16] = {-1.0f,
                              -0.6961928009986877f,
                              -0.5250730514526367f,
                              -0.39491748809814453f,
                              -0.28444138169288635f,
                              -0.18477343022823334f,
                              -0.09105003625154495f,
                              0.0f,
                              0.07958029955625534f,
                              0.16093020141124725f,
                              0.24611230194568634f,
                              0.33791524171829224f,
                              0.44070982933044434f,
                              0.5626170039176941f,
                              0.7229568362236023f,
                              1.0f};

// Bit 3 is the sign; the order of the magnitudes is the format's, not sorted.
const float kFp4Values[16] = {
    0.0f,  0.0625f / 12.0f,  8.0f / 12.0f,  1.0f,  4.0f / 12.0f,  0.5f,  2.0f / 12.0f,  0.25f,
    -0.0f, -0.0625f / 12.0f, -8.0f / 12.0f, -1.0f, -4.0f / 12.0f, -0.5f, -2.0f / 12.0f, -0.25f};

const float kSignedDynamicMap[256] = {
    -9.9296874e-01f, -9.789063e-01f,  -9.6484375e-01f, -9.507812e-01f,
    -9.3671876e-01f, -9.2265624e-01f, -9.085938e-01f,  -8.9453125e-01f,
    -8.804687e-01f,  -8.6640626e-01f, -8.5234374e-01f, -8.382813e-01f,
    -8.2421875e-01f, -8.101562e-01f,  -7.9609376e-01f, -7.8203124e-01f,
    -7.679688e-01f,  -7.5390625e-01f, -7.398437e-01f,  -7.2578126e-01f,
    -7.117188e-01f,  -6.976563e-01f,  -6.8359375e-01f, -6.695312e-01f,
    -6.5546876e-01f, -6.414063e-01f,  -6.273438e-01f,  -6.1328125e-01f,
    -5.992187e-01f,  -5.8515626e-01f, -5.710938e-01f,  -5.570313e-01f,
    -5.4296875e-01f, -5.289062e-01f,  -5.148437e-01f,  -5.0078124e-01f,
    -4.867187e-01f,  -4.7265625e-01f, -4.5859373e-01f, -4.4453126e-01f,
    -4.3046874e-01f, -4.1640624e-01f, -4.0234375e-01f, -3.8828123e-01f,
    -3.7421876e-01f, -3.6015624e-01f, -3.4609374e-01f, -3.3203125e-01f,
    -3.1796873e-01f, -3.0390626e-01f, -2.8984374e-01f, -2.7578127e-01f,
    -2.6171875e-01f, -2.4765624e-01f, -2.3359375e-01f, -2.1953125e-01f,
    -2.0546874e-01f, -1.9140625e-01f, -1.7734376e-01f, -1.6328125e-01f,
    -1.4921875e-01f, -1.3515624e-01f, -1.2109375e-01f, -1.07031256e-01f,
    -9.859375e-02f,  -9.578126e-02f,  -9.2968754e-02f, -9.015625e-02f,
    -8.734375e-02f,  -8.453125e-02f,  -8.171876e-02f,  -7.890625e-02f,
    -7.609375e-02f,  -7.328125e-02f,  -7.0468746e-02f, -6.7656256e-02f,
    -6.484375e-02f,  -6.203125e-02f,  -5.9218753e-02f, -5.640625e-02f,
    -5.359375e-02f,  -5.078125e-02f,  -4.796875e-02f,  -4.515625e-02f,
    -4.2343747e-02f, -3.953125e-02f,  -3.6718752e-02f, -3.390625e-02f,
    -3.109375e-02f,  -2.8281251e-02f, -2.546875e-02f,  -2.265625e-02f,
    -1.9843752e-02f, -1.703125e-02f,  -1.421875e-02f,  -1.140625e-02f,
    -9.71875e-03f,   -9.156249e-03f,  -8.59375e-03f,   -8.03125e-03f,
    -7.46875e-03f,   -6.90625e-03f,   -6.34375e-03f,   -5.78125e-03f,
    -5.2187503e-03f, -4.6562497e-03f, -4.09375e-03f,   -3.5312497e-03f,
    -2.96875e-03f,   -2.40625e-03f,   -1.84375e-03f,   -1.2812499e-03f,
    -9.437501e-04f,  -8.3125e-04f,    -7.1875006e-04f, -6.062501e-04f,
    -4.9375003e-04f, -3.8125002e-04f, -2.6875004e-04f, -1.5625001e-04f,
    -8.875e-05f,     -6.625e-05f,     -4.375e-05f,     -2.1249998e-05f,
    -7.75e-06f,      -3.2500002e-06f, -5.5000004e-07f, 0.0f,
    5.5000004e-07f,  3.2500002e-06f,  7.75e-06f,       2.1249998e-05f,
    4.375e-05f,      6.625e-05f,      8.875e-05f,      1.5625001e-04f,
    2.6875004e-04f,  3.8125002e-04f,  4.9375003e-04f,  6.062501e-04f,
    7.1875006e-04f,  8.3125e-04f,     9.437501e-04f,   1.2812499e-03f,
    1.84375e-03f,    2.40625e-03f,    2.96875e-03f,    3.5312497e-03f,
    4.09375e-03f,    4.6562497e-03f,  5.2187503e-03f,  5.78125e-03f,
    6.34375e-03f,    6.90625e-03f,    7.46875e-03f,    8.03125e-03f,
    8.59375e-03f,    9.156249e-03f,   9.71875e-03f,    1.140625e-02f,
    1.421875e-02f,   1.703125e-02f,   1.9843752e-02f,  2.265625e-02f,
    2.546875e-02f,   2.8281251e-02f,  3.109375e-02f,   3.390625e-02f,
    3.6718752e-02f,  3.953125e-02f,   4.2343747e-02f,  4.515625e-02f,
    4.796875e-02f,   5.078125e-02f,   5.359375e-02f,   5.640625e-02f,
    5.9218753e-02f,  6.203125e-02f,   6.484375e-02f,   6.7656256e-02f,
    7.0468746e-02f,  7.328125e-02f,   7.609375e-02f,   7.890625e-02f,
    8.171876e-02f,   8.453125e-02f,   8.734375e-02f,   9.015625e-02f,
    9.2968754e-02f,  9.578126e-02f,   9.859375e-02f,   1.07031256e-01f,
    1.2109375e-01f,  1.3515624e-01f,  1.4921875e-01f,  1.6328125e-01f,
    1.7734376e-01f,  1.9140625e-01f,  2.0546874e-01f,  2.1953125e-01f,
    2.3359375e-01f,  2.4765624e-01f,  2.6171875e-01f,  2.7578127e-01f,
    2.8984374e-01f,  3.0390626e-01f,  3.1796873e-01f,  3.3203125e-01f,
    3.4609374e-01f,  3.6015624e-01f,  3.7421876e-01f,  3.8828123e-01f,
    4.0234375e-01f,  4.1640624e-01f,  4.3046874e-01f,  4.4453126e-01f,
    4.5859373e-01f,  4.7265625e-01f,  4.867187e-01f,   5.0078124e-01f,
    5.148437e-01f,   5.289062e-01f,   5.4296875e-01f,  5.570313e-01f,
    5.710938e-01f,   5.8515626e-01f,  5.992187e-01f,   6.1328125e-01f,
    6.273438e-01f,   6.414063e-01f,   6.5546876e-01f,  6.695312e-01f,
    6.8359375e-01f,  6.976563e-01f,   7.117188e-01f,   7.2578126e-01f,
    7.398437e-01f,   7.5390625e-01f,  7.679688e-01f,   7.8203124e-01f,
    7.9609376e-01f,  8.101562e-01f,   8.2421875e-01f,  8.382813e-01f,
    8.5234374e-01f,  8.6640626e-01f,  8.804687e-01f,   8.9453125e-01f,
    9.085938e-01f,   9.2265624e-01f,  9.3671876e-01f,  9.507812e-01f,
    9.6484375e-01f,  9.789063e-01f,   9.9296874e-01f,  1.0e+00f,
};

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
    const float scaled = kSignedDynamicMap[operand.absmax_q[b]] * operand.nested_absmax[b >> 8];
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
