/*
 * The seam between the GEMM's driver and one instruction set.
 *
 * The idea: everything a register tile consumes is a 32-bit unit, either one fp32 element or a pair of
 * bf16 elements with consecutive k. So one driver, one panel layout and one set of loops serve every
 * precision. An instruction set supplies three functions per precision: pack rows, pack a panel, tile.
 *
 * "Lane" means a row of op(a) or a column of op(b); the other axis is k.
 *
 * Plain data, no standard library: included by the per-ISA translation units (no weak symbols).
 */
#pragma once

#include <cstdint>

#include "operand.h"

namespace lathe::cpu {

inline constexpr int kTileRows = 6;
inline constexpr int kPanelCols = 64;
inline constexpr int64_t kMaxPanelUnits = 1024;
inline constexpr int kMaxSegments = 8;
inline constexpr int64_t kMaxPackLanes = 128;  // of pack_rows

enum class Unit : uint8_t {
  kF32,         // one element, as fp32
  kF32Rounded,  // one element rounded to bf16, held as fp32 (bf16 arithmetic where the CPU has none)
  kBf16Pair,    // elements k (low half, k even) and k + 1 (high half) as bf16; k past the end is 0
};

inline constexpr int k_per_unit(Unit unit) { return unit == Unit::kBf16Pair ? 2 : 1; }

/* A rectangle of an operand, seen as lanes x k, and where its units go. */
struct PackArgs {
  const MatOperand* operand;
  bool k_contiguous;  // stored rows are lanes (else stored rows are k)
  int64_t lane0, lanes;
  int64_t k0, k;  // k0 is a multiple of 64
  uint32_t* out;
  int64_t stride;  // pack_rows: units from one lane to the next
  int64_t next_lanes = 0;  // how far on lie the lanes that follow when these are done; 0: nobody knows
  bool stream = false;  // pack_rows: there is more of it than the caches of a core keep
};

/* A run of k for which a tile multiplies packed (or in-place) rows by a packed panel. */
struct Segment {
  const char* a;     // unit 0 of the call's row 0
  int64_t a_stride;  // bytes from row to row
  const uint32_t* b;
  int64_t units;
};

/* What happens to a finished sum: c = round(fma(alpha, sum, bias) + addend). */
struct Epilogue {
  float alpha;
  const void* bias;
  DType bias_dtype;
  const void* addend;
  DType addend_dtype;
  int64_t addend_ld;
  void* c;
  DType c_dtype;
  int64_t ldc;
  /* c is written past the caches where the instruction set can: fp32, no addend, rows of whole cache lines. */
  bool stream;
};

/*
 * A rectangle of cache lines that will be wanted soon. A tile asks for `each` of them every 16 units of K: of many asked for at
 * once, a core drops those that it has no room to wait for.
 */
struct Ahead {
  const char* row = nullptr;
  int64_t row_bytes = 0, lines_per_row = 1;
  int64_t line = 0, left = 0;
  int64_t each = 0;

  __attribute__((always_inline)) void fetch() {
    for (int64_t n = left < each ? left : each; n > 0; --n, --left) {
      __builtin_prefetch(row + 64 * line, 0, 2);
      if (++line == lines_per_row) line = 0, row += row_bytes;
    }
  }
};

struct TileArgs {
  const Segment* segments;
  int segment_count;
  int rows;          // 1 .. kTileRows
  int cols;          // 1 .. kPanelCols
  int64_t a_row;     // first row, relative to Segment::a
  int64_t row, col;  // where the tile lies in c
  float* sums;       // carried fp32 sums [rows][kPanelCols], or null when the tile starts and ends here
  bool resume;       // start from `sums` instead of zero
  bool finish;       // apply the epilogue instead of storing `sums`
  const Epilogue* epilogue;
  Ahead* ahead;  // what to ask for meanwhile
};

/* All of k of one term for at most kTileRows rows and kPanelCols lanes; `b.out` and `b.stride` are not used. */
struct FewRowsArgs {
  PackArgs b;
  const char* a;     // unit 0 of the first row
  int64_t a_stride;  // bytes from row to row
  int rows;          // 1 .. kTileRows
  float* sums;       // [rows][kPanelCols], continued; lanes are rounded up to whole vectors
};

struct KernelTable {
  const char* isa;
  Unit unit;
  /* Units of K per packed panel, at most kMaxPanelUnits: a quarter of the L2 that such CPUs have. */
  int64_t panel_units;
  /* out[lane * stride + unit]: lanes as rows. Pads the last unit of an odd k with zero. */
  void (*pack_rows)(const PackArgs&);
  /* One panel of at most kPanelCols lanes in the layout that `tile` reads; lanes past the end are 0. */
  void (*pack_panel)(const PackArgs&);
  void (*tile)(const TileArgs&);
  /* The same sums as packing and tiles give, without a panel; null: pack even for few rows. */
  void (*few_rows)(const FewRowsArgs&);
  /* Units of K per panel that serve few rows of 4-bit weights better than `few_rows` does, because such a panel stays in
   * L1 and is packed fast; a multiple of 64, or 0. */
  int64_t few_rows_code_units;
  /* After tiles with `Epilogue::stream`, before another thread may read c; null where they do not stream. */
  void (*finish_stream)();
};

/* Null where the variant is not compiled in. */
const KernelTable* avx512bf16_kernels();  // Unit::kBf16Pair
const KernelTable* avx512_kernels(bool rounded);
const KernelTable* avx2_kernels(bool rounded);
const KernelTable* portable_kernels(bool rounded);

}  // namespace lathe::cpu
