/*
 * The tile and the packing for any CPU: plain loops that a compiler can vectorise.
 *
 * Panel layout: sub-panels of 8 columns, each [unit][8]. The tile keeps 6 x 8 sums.
 * Where the target has fused multiply-add, the sums equal those of the AVX2 and AVX-512 fp32 tiles bit
 * for bit; elsewhere a product is rounded before it is added.
 */
#include <cmath>

#include "code_tables.h"
#include "kernel_table.h"
#include "scalar.h"

namespace lathe::cpu {
namespace {

constexpr int kWidth = 8;

inline float multiply_add(float a, float b, float c) {
#if defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// Reads `count` stored elements of a row as fp32.
void read_row(const MatOperand& m, int64_t row, int64_t col0, int64_t count, float* out) {
  if (m.format != MatFormat::kDense) return expand_codes(m, row, col0, count, out);
  const int64_t base = row * m.ld + col0;
  if (m.dtype == DType::F32) {
    std::memcpy(out, static_cast<const float*>(m.data) + base, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const auto* p = static_cast<const uint16_t*>(m.data) + base;
  if (m.dtype == DType::BF16) {
    for (int64_t i = 0; i < count; ++i) out[i] = from_bf16(p[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = from_f16(p[i]);
  }
}

constexpr int64_t kChunk = 256;

// Hands every element of the rectangle to put(lane, k, value), reading stored rows in order.
template <bool kRounded, class Put>
void for_each_element(const PackArgs& p, Put&& put) {
  float buffer[kChunk];
  const int64_t outer = p.k_contiguous ? p.lanes : p.k;
  const int64_t inner = p.k_contiguous ? p.k : p.lanes;
  for (int64_t i = 0; i < outer; ++i) {
    for (int64_t j0 = 0; j0 < inner; j0 += kChunk) {
      const int64_t count = inner - j0 < kChunk ? inner - j0 : kChunk;
      const int64_t row = (p.k_contiguous ? p.lane0 : p.k0) + i;
      const int64_t col = (p.k_contiguous ? p.k0 : p.lane0) + j0;
      read_row(*p.operand, row, col, count, buffer);
      if (kRounded) {
        for (int64_t j = 0; j < count; ++j) buffer[j] = round_to_bf16(buffer[j]);
      }
      if (p.k_contiguous) {
        for (int64_t j = 0; j < count; ++j) put(i, j0 + j, buffer[j]);
      } else {
        for (int64_t j = 0; j < count; ++j) put(j0 + j, i, buffer[j]);
      }
    }
  }
}

template <bool kRounded>
void pack_rows(const PackArgs& p) {
  auto* out = reinterpret_cast<float*>(p.out);
  const int64_t stride = p.stride;
  for_each_element<kRounded>(p, [out, stride](int64_t lane, int64_t k, float x) { out[lane * stride + k] = x; });
}

template <bool kRounded>
void pack_panel(const PackArgs& p) {
  auto* out = reinterpret_cast<float*>(p.out);
  const int64_t units = p.k;
  if (p.lanes % kWidth != 0) {
    std::memset(out + p.lanes / kWidth * units * kWidth, 0, static_cast<size_t>(units) * kWidth * sizeof(float));
  }
  for_each_element<kRounded>(p, [out, units](int64_t lane, int64_t k, float x) {
    out[(lane / kWidth * units + k) * kWidth + lane % kWidth] = x;
  });
}

void finish_row(const Epilogue& e, const float* sums, int64_t row, int64_t col, int count) {
  for (int j = 0; j < count; ++j) {
    const float bias = e.bias != nullptr ? load_element(e.bias, e.bias_dtype, col + j) : 0.0f;
    float x = multiply_add(e.alpha, sums[j], bias);
    if (e.addend != nullptr) x += load_element(e.addend, e.addend_dtype, row * e.addend_ld + col + j);
    const int64_t at = row * e.ldc + col + j;
    if (e.c_dtype == DType::F32) {
      static_cast<float*>(e.c)[at] = x;
    } else {
      static_cast<uint16_t*>(e.c)[at] = to_bf16(x);
    }
  }
}

template <int kRows>
void multiply(const TileArgs& t, int sub_panel, float (&sums)[kTileRows][kWidth]) {
  for (int s = 0; s < t.segment_count; ++s) {
    const Segment& segment = t.segments[s];
    const float* a[kRows];
    for (int r = 0; r < kRows; ++r) {
      a[r] = reinterpret_cast<const float*>(segment.a + (t.a_row + r) * segment.a_stride);
    }
    const float* b = reinterpret_cast<const float*>(segment.b) + sub_panel * segment.units * kWidth;
    for (int64_t k = 0; k < segment.units; ++k, b += kWidth) {
      for (int r = 0; r < kRows; ++r) {
        const float x = a[r][k];
        for (int j = 0; j < kWidth; ++j) sums[r][j] = multiply_add(x, b[j], sums[r][j]);
      }
    }
  }
}

void tile(const TileArgs& t) {
  for (int j = 0; j < t.cols; j += kWidth) {
    const int count = t.cols - j < kWidth ? t.cols - j : kWidth;
    float sums[kTileRows][kWidth] = {};
    if (t.resume) {
      for (int r = 0; r < t.rows; ++r) std::memcpy(sums[r], t.sums + r * kPanelCols + j, sizeof sums[r]);
    }
    switch (t.rows) {
      case 1:
        multiply<1>(t, j / kWidth, sums);
        break;
      case 2:
        multiply<2>(t, j / kWidth, sums);
        break;
      case 3:
        multiply<3>(t, j / kWidth, sums);
        break;
      case 4:
        multiply<4>(t, j / kWidth, sums);
        break;
      case 5:
        multiply<5>(t, j / kWidth, sums);
        break;
      default:
        multiply<6>(t, j / kWidth, sums);
        break;
    }
    for (int r = 0; r < t.rows; ++r) {
      if (t.finish) {
        finish_row(*t.epilogue, sums[r], t.row + r, t.col + j, count);
      } else {
        std::memcpy(t.sums + r * kPanelCols + j, sums[r], sizeof sums[r]);
      }
    }
  }
}

const KernelTable kPlain = {"portable", Unit::kF32, 512, pack_rows<false>, pack_panel<false>, tile};
const KernelTable kRoundedTable = {"portable", Unit::kF32Rounded, 512, pack_rows<true>, pack_panel<true>, tile};

}  // namespace

const KernelTable* portable_kernels(bool rounded) { return rounded ? &kRoundedTable : &kPlain; }

}  // namespace lathe::cpu
