/*
 * Packing for any vector instruction set: the loops, given a few vector primitives.
 *
 * The idea: there are two ways to read (along k, or along lanes) and two ways to write (rows or a panel).
 * When the way read is the way written, vectors are loaded, converted and stored; otherwise blocks of kWidth rows are
 * transposed while they are loaded, from where they are stored or from a buffer in L1. A unit is 32 bits whatever it holds,
 * so a bf16 pair transposes like an fp32. 4-bit operands are first expanded, a few KiB at a time, into a buffer that stays
 * in L1, and then packed like dense ones.
 *
 * `S` supplies: Reg, kWidth (units per vector), kPerUnit (k per unit), kUnit, Code (what 4-bit codes expand
 * to: an element of DType kCodeType), panel_width(lanes), zero(), store(), store_part(),
 * transpose_rows(p, row_bytes, out) reading 32-bit elements 0 .. kAcross - 1 of kWidth rows (out[i] holds element i of each),
 * kStoredUnits<DType> (an element, or a pair, is a unit as it is stored), along_k<DType>(p, valid) reading kWidth units of one lane, along_lanes<DType>(p0, p1, valid) reading one
 * unit of kWidth lanes (p1: the second k of a pair, or null), two_along_lanes(p, row_bytes, lo, hi) the same for
 * 2 kWidth lanes of bf16 pairs, expand64(bytes, scale, table, out), kLine (a Reg is a cache line; then also stream(p, x) and
 * finish_stream(), to write past the caches), and kUnitsFromCodes; if that is true also units64(bytes,
 * lane_bytes, scales, scale_step, table, out, width): 64 k of kWidth lanes of codes, as a panel wants them.
 *
 * Templates with internal linkage only: included by the per-ISA translation units.
 */
#pragma once

#include "code_tables.h"
#include "kernel_table.h"
#include "scalar.h"

namespace lathe::cpu {
namespace {

template <class S>
struct Packer {
  using Reg = typename S::Reg;
  using Code = typename S::Code;
  static constexpr int64_t W = S::kWidth;
  static constexpr int64_t P = S::kPerUnit;

  // A dense rectangle: stored row r starts at data + r * row_bytes.
  struct Source {
    const char* data;
    int64_t row_bytes;
  };

  // Where a panel's units go. Lanes come in groups of W; a group never crosses a sub-panel.
  struct Panel {
    uint32_t* out;
    int64_t units;
    int64_t width;
    // Unit 0 of a group of lanes; unit u lies u * width further on.
    uint32_t* group(int64_t lane) const { return out + lane / width * width * units + lane % width; }
  };

  // Rows of weights lie pages apart, where no hardware prefetcher follows: ask for what comes next.
  static constexpr int64_t kBytesAhead = 256;  // along a row
  static constexpr int64_t kUnitsAhead = 16;   // across rows

  static void fetch(const char* p) { __builtin_prefetch(p, 0, 2); }

  static int64_t units_of(int64_t k) { return (k + P - 1) / P; }
  static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

  // ---- dense ----

  template <DType D>
  static constexpr int64_t kElement = D == DType::F32 ? 4 : 2;

  // Pairs of 16-bit elements: 2 W lanes fill a cache line, which is then read once.
  template <DType D>
  static constexpr bool kWholeLines = P == 2 && D == DType::BF16;

  template <DType D>
  static const char* row_at(const Source& s, int64_t unit, int64_t lane) {
    return s.data + unit * P * s.row_bytes + lane * kElement<D>;
  }

  // One unit of W lanes from stored rows along k.
  template <DType D>
  static Reg lanes_at(const Source& s, int64_t unit, int64_t k, int64_t lane, int64_t lanes) {
    const char* p0 = row_at<D>(s, unit, lane);
    const char* p1 = P == 2 && unit * 2 + 1 < k ? p0 + s.row_bytes : nullptr;
    return S::template along_lanes<D>(p0, p1, lanes - lane);
  }

  static constexpr int64_t kBufferStride = kMaxPackLanes + W;  // so that rows do not share cache sets

  // Packed rows that outgrow the caches are written past them, where a vector is a cache line: storing into lines that the
  // other cores have read costs twice as much as the packing itself.
  struct Rows {
    uint32_t* out;
    int64_t stride;
    bool stream;
    void store(int64_t lane, int64_t unit, Reg x, int64_t left) const {
      uint32_t* p = out + lane * stride + unit;
      if constexpr (S::kLine) {
        if (stream && left >= W) return S::stream(p, x);
      }
      S::store_part(p, x, left);
    }
  };

  template <DType D>
  static void rows_from_lanes(const Source& s, int64_t lanes, int64_t k, const Rows& rows) {
    const int64_t units = units_of(k);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const char* p = s.data + lane * s.row_bytes;
      for (int64_t u = 0; u < units; u += W) {
        const Reg x = S::template along_k<D>(p + u * P * kElement<D>, k - u * P);
        rows.store(lane, u, x, units - u);
      }
    }
  }

  // W units of W lanes, lane after lane.
  struct Block {
    const char* data;
    int64_t row_bytes;
  };

  // From `count` stored lanes with `k` elements left. In place where elements are units as they are stored; else, and where
  // the rows' lines would push each other out of a cache set while they are read four times, by way of `buffer`.
  template <DType D>
  static Block block_of_lanes(const char* p, int64_t row_bytes, int64_t count, int64_t k, uint32_t* buffer) {
    if (S::template kStoredUnits<D> && count == W && k >= W * P && row_bytes % 2048 != 0) return {p, row_bytes};
#pragma GCC unroll 16
    for (int64_t j = 0; j < W; ++j) {
      S::store(buffer + j * W, j < count ? S::template along_k<D>(p + j * row_bytes, k) : S::zero());
    }
    return {reinterpret_cast<const char*>(buffer), 4 * W};
  }

  // Stored rows of k, W units of them at a time: brought together as units in a buffer that stays in L1, whatever the distance
  // of the rows (4 KiB apart, they would push each other out), and read from there across.
  template <DType D>
  static void rows_from_k(const Source& s, int64_t lanes, int64_t k, int64_t next_lanes, const Rows& rows) {
    alignas(64) uint32_t buffer[W * kBufferStride];
    const int64_t units = units_of(k);
    // The next W units are asked for a few lines at a time: of many at once, a core drops what it has no room to wait for.
    const int64_t turns = (lanes + S::kAcross - 1) / S::kAcross, rows_a_turn = (W * P + turns - 1) / turns;
    for (int64_t u = 0; u < units; u += W) {
      const int64_t count = least(W, units - u);
      for (int64_t i = 0; i < count; ++i) {
        uint32_t* out = buffer + i * kBufferStride;
        int64_t lane = 0;
        if constexpr (kWholeLines<D>) {
          for (; (u + i + 1) * P <= k && lane + 2 * W <= lanes; lane += 2 * W) {
            Reg low, high;
            S::two_along_lanes(row_at<D>(s, u + i, lane), s.row_bytes, &low, &high);
            S::store(out + lane, low);
            S::store(out + lane + W, high);
          }
        }
        for (; lane < lanes; lane += W) S::store(out + lane, lanes_at<D>(s, u + i, k, lane, lanes));
      }
      const char* ahead = u + W < units ? s.data + (u + W) * P * s.row_bytes : s.data + next_lanes * kElement<D>;
      for (int64_t lane = 0; lane < lanes; lane += S::kAcross) {
        for (int64_t row = 0; row < rows_a_turn; ++row, ahead += s.row_bytes) {
          for (int64_t byte = 0; byte < lanes * kElement<D>; byte += 64) fetch(ahead + byte);
        }
        Reg block[S::kAcross];
        S::transpose_rows(reinterpret_cast<const char*>(buffer + lane), 4 * kBufferStride, block);
        const int64_t across = least(S::kAcross, lanes - lane);
        for (int64_t j = 0; j < across; ++j) rows.store(lane + j, u, block[j], units - u);
      }
    }
  }

  template <DType D>
  static void panel_from_lanes(const Source& s, int64_t lanes, int64_t k, const Panel& panel, int64_t lane0,
                               int64_t unit0) {
    const int64_t units = units_of(k);
    alignas(64) uint32_t buffer[W * W];
    for (int64_t lane = 0; lane < lanes; lane += W) {
      const int64_t count = least(W, lanes - lane);
      const char* p = s.data + lane * s.row_bytes;
      uint32_t* out = panel.group(lane0 + lane) + unit0 * panel.width;
      for (int64_t u = 0; u < units; u += W, out += W * panel.width) {
        for (int64_t j = 0; j < count; ++j) {
          const char* at = p + j * s.row_bytes + u * P * kElement<D> + kBytesAhead;
          fetch(at);
          if (W * P * kElement<D> > 64) fetch(at + 64);
        }
        const Block block = block_of_lanes<D>(p + u * P * kElement<D>, s.row_bytes, count, k - u * P, buffer);
        const int64_t valid = least(W, units - u);
#pragma GCC unroll 4
        for (int64_t i = 0; i < W; i += S::kAcross) {
          Reg across[S::kAcross];
          S::transpose_rows(block.data + 4 * i, block.row_bytes, across);
#pragma GCC unroll 8
          for (int64_t j = 0; j < S::kAcross; ++j) {
            if (i + j < valid) S::store(out + (i + j) * panel.width, across[j]);
          }
        }
      }
    }
  }

  template <DType D>
  static void panel_from_k(const Source& s, int64_t lanes, int64_t k, const Panel& panel, int64_t lane0,
                           int64_t unit0) {
    const int64_t units = units_of(k);
    uint32_t* groups[kPanelCols / W];
    for (int64_t lane = 0; lane < lanes; lane += W) {
      groups[lane / W] = panel.group(lane0 + lane) + unit0 * panel.width;
    }
    for (int64_t u = 0; u < units; ++u) {
      const char* ahead = s.data + (u + kUnitsAhead) * P * s.row_bytes;
      for (int64_t row = 0; row < P; ++row, ahead += s.row_bytes) {
        for (int64_t byte = 0; byte < lanes * kElement<D>; byte += 64) fetch(ahead + byte);
      }
      int64_t lane = 0;
      if constexpr (kWholeLines<D>) {
        for (; (u + 1) * P <= k && lane + 2 * W <= lanes; lane += 2 * W) {
          Reg low, high;
          S::two_along_lanes(row_at<D>(s, u, lane), s.row_bytes, &low, &high);
          S::store(groups[lane / W] + u * panel.width, low);
          S::store(groups[lane / W + 1] + u * panel.width, high);
        }
      }
      for (; lane < lanes; lane += W) {
        S::store(groups[lane / W] + u * panel.width, lanes_at<D>(s, u, k, lane, lanes));
      }
    }
  }

  // ---- 4-bit ----

  static constexpr int64_t kCodesAlongK = 256;
  static constexpr int64_t kCodeRows = 32;
  static constexpr int64_t kCodeLanes = 64;
  static constexpr int64_t kCodesPerLine = 128;
  static constexpr int64_t kCodesAhead = 512;  // along k

  // Elements col0 .. col0 + count of a stored row.
  static void expand(const MatOperand& m, int64_t row, int64_t col0, int64_t count, Code* out) {
    const bool aligned = m.cols % 64 == 0 && m.block % 64 == 0 && col0 % 64 == 0 && count % 64 == 0;
    if (!aligned) {
      float values[kCodesAlongK];
      expand_codes(m, row, col0, count, values);
      for (int64_t i = 0; i < count; ++i) S::narrow(values[i], out + i);
      return;
    }
    const float* table = code_values(m.format);
    const int64_t first = row * m.cols + col0;
    const auto* bytes = static_cast<const uint8_t*>(m.data) + first / 2;
    if (m.absmax_q == nullptr && m.block == 64) {
      const float* scales = m.absmax + first / 64;
      for (int64_t i = 0; i < count; i += 64) S::expand64(bytes + i / 2, scales[i / 64], table, out + i);
      return;
    }
    for (int64_t i = 0; i < count; i += 64) {
      S::expand64(bytes + i / 2, block_scale(m, (first + i) / m.block), table, out + i);
    }
  }

  static float block_scale(const MatOperand& m, int64_t block) {
    if (m.absmax_q == nullptr) return m.absmax[block];
    const float scaled = kDynamicSigned[m.absmax_q[block]] * m.nested_absmax[block >> 8];
    return scaled + m.nested_offset;
  }

  // A line of scales holds 16 (64 when they are coded) blocks: what the next lanes need is asked for in step with codes.
  static void fetch_scales(const MatOperand& m, int64_t element, int64_t elements) {
    const int64_t bytes = m.absmax_q == nullptr ? 4 : 1;
    const char* scales = m.absmax_q == nullptr ? reinterpret_cast<const char*>(m.absmax)
                                               : reinterpret_cast<const char*>(m.absmax_q);
    const int64_t end = (element + elements) / 64 * bytes;
    for (int64_t at = element / 64 * bytes; at < end; at += 64) fetch(scales + at);
  }

  // Whole vectors of lanes along k, without the buffer in between; the number of lanes done. Reading codes is waiting on
  // memory: a short block of K is one of many for these lanes, then `next_lanes` further on come others.
  static int64_t panel_from_codes(const PackArgs& p, const Panel& panel) {
    const MatOperand& m = *p.operand;
    if (!p.k_contiguous || m.cols % 64 != 0 || m.block != 64 || p.k % 64 != 0) return 0;
    const float* table = code_values(m.format);
    const int64_t lane_bytes = m.cols / 2;
    const int64_t ahead = least(p.k, kCodesAhead);
    const int64_t next_lanes = p.next_lanes != 0 ? p.next_lanes : W;
    const auto* codes = static_cast<const char*>(m.data) + (p.lane0 * m.cols + p.k0) / 2;
    if (p.k0 == 0 && p.next_lanes != 0) {
      for (int64_t j = 0; j < p.lanes; ++j) fetch(codes + j * lane_bytes), fetch(codes + j * lane_bytes + 63);
      fetch_scales(m, p.lane0 * m.cols, p.lanes * m.cols);
    }
    int64_t lane = 0;
    for (; lane + W <= p.lanes; lane += W) {
      const int64_t first = (p.lane0 + lane) * m.cols + p.k0;
      const char* bytes = codes + lane * lane_bytes;
      uint32_t* out = panel.group(lane);
      for (int64_t k = 0; k < p.k; k += 64) {
        if (k % kCodesPerLine == 0) {
          const bool on = p.k0 + k + ahead < m.cols;
          const char* next = bytes + (on ? k + ahead : next_lanes * m.cols - p.k0) / 2;
          for (int64_t j = 0; j < W; ++j, next += lane_bytes) {
            if (!on) fetch(next);
            fetch(next + 63);  // a row may begin anywhere in a line
          }
          fetch_scales(m, first + next_lanes * m.cols - p.k0 + (p.k0 + k) * W, kCodesPerLine * W);
        }
        const int64_t block = (first + k) / 64;
        const float* scales = m.absmax + block;
        int64_t scale_step = lane_bytes / 32;
        float nested[W];
        if (m.absmax_q != nullptr) {
          for (int64_t j = 0; j < W; ++j) nested[j] = block_scale(m, block + j * scale_step);
          scales = nested;
          scale_step = 1;
        }
        S::units64(reinterpret_cast<const uint8_t*>(bytes) + k / 2, lane_bytes, scales, scale_step, table,
                   out + k / P * panel.width, panel.width);
      }
    }
    return lane;
  }

  template <class Region>
  static void for_code_regions(const PackArgs& p, Region&& region) {
    alignas(64) Code buffer[W * kCodesAlongK > kCodeRows * kCodeLanes ? W * kCodesAlongK : kCodeRows * kCodeLanes];
    const MatOperand& m = *p.operand;
    const char* bytes = static_cast<const char*>(m.data);
    const int64_t lane_step = p.k_contiguous ? W : kCodeLanes;
    const int64_t k_step = p.k_contiguous ? kCodesAlongK : kCodeRows;
    for (int64_t lane = 0; lane < p.lanes; lane += lane_step) {
      const int64_t lanes = least(lane_step, p.lanes - lane);
      for (int64_t k = 0; k < p.k; k += k_step) {
        const int64_t count = least(k_step, p.k - k);
        if (p.k_contiguous) {
          for (int64_t i = 0; i < lanes; ++i) {
            const char* codes = bytes + ((p.lane0 + lane + i) * m.cols + p.k0 + k) / 2;
            for (int64_t ahead = count / 2; ahead < count; ahead += 64) fetch(codes + ahead);
            expand(m, p.lane0 + lane + i, p.k0 + k, count, buffer + i * kCodesAlongK);
          }
        } else {
          for (int64_t i = 0; i < count; ++i) {
            fetch(bytes + ((p.k0 + k + i + kCodeRows) * m.cols + p.lane0 + lane) / 2);
            expand(m, p.k0 + k + i, p.lane0 + lane, lanes, buffer + i * kCodeLanes);
          }
        }
        const int64_t ld = p.k_contiguous ? kCodesAlongK : kCodeLanes;
        region(Source{reinterpret_cast<const char*>(buffer), ld * static_cast<int64_t>(sizeof(Code))}, lane, lanes, k,
               count);
      }
    }
  }

  // ---- entry points ----

  static Source source_of(const PackArgs& p) {
    const MatOperand& m = *p.operand;
    const int64_t element = m.dtype == DType::F32 ? 4 : 2;
    const int64_t row = p.k_contiguous ? p.lane0 : p.k0;
    const int64_t col = p.k_contiguous ? p.k0 : p.lane0;
    return {static_cast<const char*>(m.data) + (row * m.ld + col) * element, m.ld * element};
  }

  template <DType D>
  static void dense_rows(const PackArgs& p, const Source& s, int64_t lanes, int64_t k, const Rows& rows) {
    if (p.k_contiguous) {
      rows_from_lanes<D>(s, lanes, k, rows);
    } else {
      rows_from_k<D>(s, lanes, k, p.next_lanes, rows);
    }
  }

  static void pack_rows(const PackArgs& p) {
    if (p.operand->format != MatFormat::kDense) {
      for_code_regions(p, [&p](const Source& s, int64_t lane, int64_t lanes, int64_t k, int64_t count) {
        dense_rows<S::kCodeType>(p, s, lanes, count, {p.out + lane * p.stride + k / P, p.stride, false});
      });
      return;
    }
    const Source s = source_of(p);
    const bool lines = reinterpret_cast<uintptr_t>(p.out) % 64 == 0 && p.stride % 16 == 0;
    const Rows rows = {p.out, p.stride, p.stream && lines};
    switch (p.operand->dtype) {
      case DType::F32:
        dense_rows<DType::F32>(p, s, p.lanes, p.k, rows);
        break;
      case DType::BF16:
        dense_rows<DType::BF16>(p, s, p.lanes, p.k, rows);
        break;
      default:
        dense_rows<DType::F16>(p, s, p.lanes, p.k, rows);
    }
    if constexpr (S::kLine) {
      if (rows.stream) S::finish_stream();
    }
  }

  template <DType D>
  static void dense_panel(const PackArgs& p, const Source& s, int64_t lanes, int64_t k, const Panel& panel,
                          int64_t lane0, int64_t unit0) {
    if (p.k_contiguous) {
      panel_from_lanes<D>(s, lanes, k, panel, lane0, unit0);
    } else {
      panel_from_k<D>(s, lanes, k, panel, lane0, unit0);
    }
  }

  // Lanes of the last sub-panel that no operand row or column fills, where groups of W do not already.
  static void clear_unused(const Panel& panel, int64_t lanes) {
    const int64_t used = (lanes + W - 1) / W * W;
    const int64_t end = (lanes + panel.width - 1) / panel.width * panel.width;
    for (int64_t lane = used; lane < end; lane += W) {
      for (int64_t u = 0; u < panel.units; ++u) S::store(panel.group(lane) + u * panel.width, S::zero());
    }
  }

  static void pack_panel(const PackArgs& p) {
    const Panel panel = {p.out, units_of(p.k), S::panel_width(p.lanes)};
    clear_unused(panel, p.lanes);
    if (p.operand->format != MatFormat::kDense) {
      PackArgs rest = p;
      int64_t done = 0;
      if constexpr (S::kUnitsFromCodes) done = panel_from_codes(p, panel);
      rest.lane0 += done;
      rest.lanes -= done;
      for_code_regions(rest, [&](const Source& s, int64_t lane, int64_t lanes, int64_t k, int64_t count) {
        dense_panel<S::kCodeType>(p, s, lanes, count, panel, done + lane, k / P);
      });
      return;
    }
    const Source s = source_of(p);
    switch (p.operand->dtype) {
      case DType::F32:
        return dense_panel<DType::F32>(p, s, p.lanes, p.k, panel, 0, 0);
      case DType::BF16:
        return dense_panel<DType::BF16>(p, s, p.lanes, p.k, panel, 0, 0);
      default:
        return dense_panel<DType::F16>(p, s, p.lanes, p.k, panel, 0, 0);
    }
  }
};

}  // namespace
}  // namespace lathe::cpu
