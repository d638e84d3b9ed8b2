/*
 * How a product is cut: every row of every panel exactly once, in pieces that begin where tiles do.
 */
#include <cstdio>
#include <string>
#include <vector>

#include "../cpu/gemm/jobs.h"

using namespace lathe::cpu;

namespace {

int g_passed = 0;
int g_failed = 0;

void check(bool ok, const std::string& what) {
  ++(ok ? g_passed : g_failed);
  if (!ok) std::printf("FAILED %s\n", what.c_str());
}

void test_cut(int64_t panels, int64_t rows, int64_t threads) {
  const Jobs jobs(panels, rows, threads);
  std::vector<int> hits(static_cast<size_t>(panels * rows));
  bool inside = true, aligned = true, shrinking = true;
  for (int64_t i = 0; i < jobs.count; ++i) {
    const int64_t panel = jobs.panel(i);
    const Range run = jobs.rows_of(i);
    inside = inside && panel >= 0 && panel < panels && run.begin >= 0 && run.size > 0 && run.size <= kMaxJobRows && run.begin + run.size <= rows;
    if (!inside) break;
    for (int64_t r = run.begin; r < run.begin + run.size; ++r) ++hits[static_cast<size_t>(panel * rows + r)];
    aligned = aligned && (jobs.runs > 1 || run.begin % kTileRows == 0);
    // The last piece of a panel is as large as the one before it, but for the rows that rounding to tiles moves.
    if (i > 0 && i >= jobs.whole) shrinking = shrinking && run.size < jobs.rows_of(i - 1).size + 2 * kTileRows;
  }
  bool once = inside;
  for (int n : hits) once = once && n == 1;
  const std::string name = std::to_string(panels) + " panels of " + std::to_string(rows) + " rows, " + std::to_string(threads) + " threads: ";
  check(once, name + "every row of every panel once");
  check(aligned, name + "jobs begin where tiles do");
  check(shrinking, name + "no later piece is larger");
  check(threads > 1 || jobs.count == panels * jobs.runs, name + "one thread packs every panel once a run");
}

}  // namespace

int main() {
  for (int64_t panels : {1, 2, 3, 8, 9, 24, 100})
    for (int64_t rows : {1, 5, 6, 7, 11, 12, 23, 24, 25, 47, 96, 97, 383, 512, 577, 1024, 1032, 1033, 2048, 5000})
      for (int64_t threads : {1, 2, 3, 16, 128}) test_cut(panels, rows, threads);
  // What it is for: two threads of the same speed share 8 panels of 512 rows to within a piece of 16 rows or so.
  const Jobs jobs(8, 512, 2);
  check(jobs.split > 0 && jobs.rows_of(jobs.count - 1).size <= 24, "the last piece of 8 panels of 512 rows is small");
  std::printf("%d passed, %d failed\n", g_passed, g_failed);
  return g_failed == 0 ? 0 : 1;
}
