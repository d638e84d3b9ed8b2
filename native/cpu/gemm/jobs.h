/*
 * How a product over a block of rows is cut into jobs, which threads claim in order.
 *
 * The idea: a job is one panel of columns times a run of rows, as large as can be, since each packs its panel. The last panels
 * go in pieces, half, a quarter and so on of their rows: large jobs first and small ones last, so that no thread waits long
 * for the one that comes in last. Who takes a panel's next piece after its own has it packed already.
 *
 * Invariants
 *  - Every row of every panel belongs to exactly one job. Jobs of one run of rows follow each other.
 *  - Pieces begin at multiples of kTileRows within their run.
 */
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernel_table.h"

namespace lathe::cpu {

inline constexpr int64_t kMaxJobRows = 1032;  // bounds the carried sums of a job

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

struct Range {
  int64_t begin, size;
};

/* Part `i` of `parts` nearly equal parts of [0, total). */
constexpr Range part_of(int64_t total, int64_t parts, int64_t i) {
  const int64_t begin = total * i / parts;
  return {begin, total * (i + 1) / parts - begin};
}

struct Jobs {
  int64_t panels, rows;
  int64_t runs;          // of rows
  int64_t whole;         // jobs that are a panel times a run; they come first
  int64_t split = 0;     // panels times runs that go in pieces
  int64_t halvings = 0;  // of each of those: it goes in one piece more
  int64_t count;

  /* At least one panel and one row. */
  Jobs(int64_t panels, int64_t rows, int64_t threads)
      : panels(panels), rows(rows), runs(ceil_div(rows, kMaxJobRows)), whole(panels * runs), count(whole) {
    if (threads == 1) return;
    const int64_t all = whole, size = ceil_div(rows, runs), one = size + kPackCostRows;
    int64_t best = INT64_MAX;
    for (int64_t s = 0; s <= std::min(all, 2 * threads); ++s) {
      for (int64_t n = s == 0 ? 0 : 1; n <= (s == 0 ? 0 : kMaxHalvings) && (n == 0 || size >> n >= kLeastRows); ++n) {
        // In rows of tiles, times the threads: all work, plus half a last job of every thread.
        const int64_t all_rows = (all - s) * one + s * (size + (n + 1) * kPackCostRows);
        const int64_t work = std::max(all_rows, ceil_div(all - s, threads) * threads * one);
        const int64_t cost = work + threads * ((size >> n) + kPackCostRows) / 2;
        if (cost < best) best = cost, split = s, halvings = n, whole = all - s, count = whole + s * (n + 1);
      }
    }
  }

  int64_t panel(int64_t i) const { return panel_and_run(i) % panels; }

  Range rows_of(int64_t i) const {
    const Range run = part_of(rows, runs, panel_and_run(i) / panels);
    if (i < whole) return run;
    const int64_t piece = (i - whole) / split;
    const auto cut = [&](int64_t n) { return (run.size - (run.size >> n)) / kTileRows * kTileRows; };
    const int64_t begin = cut(piece), end = piece == halvings ? run.size : cut(piece + 1);
    return {run.begin + begin, end - begin};
  }

 private:
  static constexpr int64_t kPackCostRows = 6;  // packing a panel costs about as much as this many rows of tiles
  static constexpr int64_t kLeastRows = 12;    // of a piece, about
  static constexpr int64_t kMaxHalvings = 5;

  int64_t panel_and_run(int64_t i) const { return i < whole ? i : whole + (i - whole) % split; }
};

}  // namespace lathe::cpu
