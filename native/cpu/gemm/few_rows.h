/*
 * A panel of op(b) times at most kTileRows rows of op(a), for generation: each weight is used once or a few times, so
 * storing it in a panel first would cost more than the multiplication.
 *
 * The idea: the packing loops of pack_simd.h with the store replaced by the multiply-add. Blocks of 16 x 16 units are
 * transposed in registers and consumed at once; sums go on in the order of k, so every element is the same chain of
 * operations as in a tile, and a token's logits do not depend on how many rows are computed together.
 *
 * `S` supplies, besides what packing needs: Acc, load_sums, store_sums, and step(acc, unit of a, Reg of 16 units of b).
 * Templates with internal linkage only.
 */
#pragma once

#include "pack_simd.h"

namespace lathe::cpu {
namespace {

template <class S>
struct FewRows {
  using Reg = typename S::Reg;
  using Acc = typename S::Acc;
  using Pack = Packer<S>;
  using Source = typename Pack::Source;
  static constexpr int64_t W = S::kWidth;
  static constexpr int64_t P = S::kPerUnit;

  template <int R>
  struct Sums {
    Acc acc[R];
    explicit Sums(const float* from) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) acc[r] = S::load_sums(from + r * kPanelCols);
    }
    void store(float* to) const {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) S::store_sums(to + r * kPanelCols, acc[r]);
    }
    void step(const char* a, int64_t stride, Reg b) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) acc[r] = S::step(acc[r], a + r * stride, b);
    }
  };

  // Further than packing looks: here a line is multiplied once, and the next is due 100 cycles later.
  static constexpr int64_t kBytesAhead = 1024;

  // Stored rows are lanes. `a` is unit 0 of this run of k.
  template <DType D, int R>
  static void from_lanes(const Source& s, int64_t lanes, int64_t k, const char* a, int64_t a_stride, float* to,
                         int64_t next_lanes) {
    constexpr int64_t kElement = Pack::template kElement<D>;
    const int64_t units = Pack::units_of(k);
    alignas(64) uint32_t buffer[W * W];
    for (int64_t lane = 0; lane < lanes; lane += W) {
      const int64_t count = Pack::least(W, lanes - lane);
      const char* p = s.data + lane * s.row_bytes;
      Sums<R> sums(to + lane);
      for (int64_t u = 0; u < units; u += W) {
        // Past the end of these rows come the beginnings of the next ones.
        const int64_t left = (k - u * P) * kElement;
        const int64_t next = lane + 2 * W > lanes && next_lanes != 0 ? next_lanes - lane : W;
        const int64_t ahead = left > kBytesAhead ? kBytesAhead : kBytesAhead - k * kElement + next * s.row_bytes;
        const char* at = p + u * P * kElement;
        for (int64_t j = 0; j < count; ++j) Pack::fetch(at + j * s.row_bytes + ahead);
        const typename Pack::Block block = Pack::template block_of_lanes<D>(at, s.row_bytes, count, k - u * P, buffer);
        const int64_t valid = Pack::least(W, units - u);
#pragma GCC unroll 4
        for (int64_t i = 0; i < W; i += S::kAcross) {
          Reg across[S::kAcross];
          S::transpose_rows(block.data + 4 * i, block.row_bytes, across);
#pragma GCC unroll 4
          for (int64_t j = 0; j < S::kAcross; ++j) {
            if (i + j < valid) sums.step(a + 4 * (u + i + j), a_stride, across[j]);
          }
        }
      }
      sums.store(to + lane);
    }
  }

  // Stored rows are k: a unit of 16 lanes is read as it is consumed.
  template <DType D, int R>
  static void from_k(const Source& s, int64_t lanes, int64_t k, const char* a, int64_t a_stride, float* to) {
    const int64_t units = Pack::units_of(k);
    for (int64_t lane = 0; lane < lanes; lane += W) {
      Sums<R> sums(to + lane);
      for (int64_t u = 0; u < units; ++u) {
        Pack::fetch(s.data + (u + Pack::kUnitsAhead) * P * s.row_bytes + lane * Pack::template kElement<D>);
        sums.step(a + 4 * u, a_stride, Pack::template lanes_at<D>(s, u, k, lane, lanes));
      }
      sums.store(to + lane);
    }
  }

  template <DType D, int R>
  static void dense(const PackArgs& p, const Source& s, int64_t lanes, int64_t k, const char* a, int64_t a_stride,
                    float* to) {
    if (p.k_contiguous) {
      from_lanes<D, R>(s, lanes, k, a, a_stride, to, p.next_lanes);
    } else {
      from_k<D, R>(s, lanes, k, a, a_stride, to);
    }
  }

  template <int R>
  __attribute__((noinline)) static void rows_of(const FewRowsArgs& f) {
    const PackArgs& p = f.b;
    if (p.operand->format != MatFormat::kDense) {
      Pack::for_code_regions(p, [&f, &p](const Source& s, int64_t lane, int64_t lanes, int64_t k, int64_t count) {
        dense<S::kCodeType, R>(p, s, lanes, count, f.a + 4 * (k / P), f.a_stride, f.sums + lane);
      });
      return;
    }
    const Source s = Pack::source_of(p);
    switch (p.operand->dtype) {
      case DType::F32:
        return dense<DType::F32, R>(p, s, p.lanes, p.k, f.a, f.a_stride, f.sums);
      case DType::BF16:
        return dense<DType::BF16, R>(p, s, p.lanes, p.k, f.a, f.a_stride, f.sums);
      default:
        return dense<DType::F16, R>(p, s, p.lanes, p.k, f.a, f.a_stride, f.sums);
    }
  }

  static void multiply(const FewRowsArgs& f) {
    static void (*const of[kTileRows])(const FewRowsArgs&) = {rows_of<1>, rows_of<2>, rows_of<3>,
                                                              rows_of<4>, rows_of<5>, rows_of<6>};
    of[f.rows - 1](f);
  }
};

}  // namespace
}  // namespace lathe::cpu
