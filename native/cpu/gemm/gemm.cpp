/*
 * The GEMM's driver: what is packed when, how the work is cut, and where scratch lies.
 *
 * The idea: the unit of work is a job, one panel of up to 64 columns times a run of rows. A job packs its
 * own panel of op(b), block of K after block of K, into private scratch, unless its worker has just packed the
 * same one whole, and slides it over its rows; so there is no barrier inside a product and a slow core only
 * claims fewer jobs (jobs.h). Rows of op(a) are read in place when they already are units (bf16 rows for bf16
 * arithmetic, fp32 rows for fp32); otherwise all threads pack them first into shared scratch, for as many rows
 * at a time as fit.
 *
 * Nothing here can change a result: tiles resume their fp32 sums, so every element is one chain over k.
 */
#include "gemm.h"

#include <algorithm>
#include <utility>

#include "../pool.h"
#include "dispatch.h"
#include "jobs.h"
#include "kernel_table.h"

namespace lathe::cpu {
namespace {

constexpr int64_t kCodeAlignment = 64;
constexpr int64_t kPackedRowsBytes = 4 << 20;  // stays in L3 while every panel reads it
constexpr int64_t kMinPackedRows = 96;
constexpr int64_t kCachedRowsBytes = 8 << 20;  // op(a) beyond this is read from memory by every panel
constexpr int64_t kRowPadding = 16;  // units between packed rows, so that rows do not share cache sets
constexpr int64_t kPackUnit = 32;  // lanes of a cache line of bf16
constexpr int64_t kStreamedBytes = 512 << 10;  // output and packed rows from here on are written past the caches
constexpr int64_t kStreamedByOne = 1 << 20;    // packed rows that no other core reads, if they outgrow the second cache
constexpr int64_t kHoldingWorkers = 64;  // of more threads, the others pack for every job
constexpr int64_t kInlineWork = 1 << 15;  // multiply-adds below which waking threads costs more than it saves

int64_t packed_rows_limit(int64_t m, int64_t padded_k) {
  const int64_t fit = kTileRows * (kPackedRowsBytes / (4 * kTileRows * padded_k));
  return std::min(round_up(m, kTileRows), std::max(kMinPackedRows, fit));
}

int64_t panel_bytes(int64_t total_k) { return 4 * kPanelCols * std::min(total_k, kMaxPanelUnits); }

int64_t sums_bytes(int64_t m) { return 4 * kPanelCols * std::min(round_up(m, kTileRows), kMaxJobRows); }

char* align64(char* p) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + 63) & ~uintptr_t{63}); }

// One term, or a stretch of its K, seen through the kernels' units.
struct Term {
  const MatOperand* a;
  const MatOperand* b;
  int64_t k0, k;
  int64_t units;
  bool a_in_place;
  const char* rows;    // unit 0 of row 0 of the row block in work
  int64_t row_stride;  // bytes
  uint32_t* packed;    // where packed rows go; null when in place
};

int64_t inner_extent(const MatOperand& b) { return b.transposed ? b.cols : b.rows; }

// How much of K, from its beginning, is read in place. The last of an odd number of bf16 elements is no unit: it is packed.
int64_t readable_in_place(const GemmTerm& term, Unit unit) {
  const MatOperand& a = term.a;
  const int64_t k = inner_extent(term.b);
  if (a.transposed || a.format != MatFormat::kDense) return 0;
  if (unit == Unit::kF32) return a.dtype == DType::F32 ? k : 0;
  if (unit != Unit::kBf16Pair || a.dtype != DType::BF16) return 0;
  return term.b.format == MatFormat::kDense || k % 2 == 0 ? k - k % 2 : 0;
}

int64_t element_bytes(DType dtype) { return dtype == DType::F32 ? 4 : 2; }

// The gradient of a large weight (op(a) is transposed) is read again at the end of the step: its lines need not come into
// the caches, neither before they are overwritten nor after.
bool streams(const GemmCall& call) {
  return call.terms[0].a.transposed && call.c_dtype == DType::F32 && call.addend == nullptr && call.ldc % 16 == 0 &&
         reinterpret_cast<uintptr_t>(call.c) % 64 == 0 && 4 * call.m * call.n >= kStreamedBytes;
}

// A stretch of K that fits a packed panel: runs of units of consecutive terms.
struct Block {
  struct Run {
    int term;
    int64_t unit, units;
  };
  Run runs[kMaxSegments];
  int count;
};

// What a thread will pack next, which is asked for while tiles multiply: a packing that waits for memory costs as much as 20 to 50
// rows of tiles, and one from the cache 3 to 5.
Ahead panel_ahead(const MatOperand& b, int64_t k0, int64_t k, Range columns) {
  const int64_t bits = b.format == MatFormat::kDense ? 8 * element_bytes(b.dtype) : 4;
  const Range row = b.transposed ? columns : Range{k0, k};
  const Range col = b.transposed ? Range{k0, k} : columns;
  Ahead ahead;
  ahead.row = static_cast<const char*>(b.data) + (row.begin * b.ld + col.begin) * bits / 8;
  ahead.row_bytes = b.ld * bits / 8;
  ahead.lines_per_row = ceil_div(col.size * bits / 8, 64);
  ahead.left = row.size * ahead.lines_per_row;
  return ahead;
}

// Lines for each of a tile's `slots`, when `tiles` are left: they are asked for during the last tiles only, since a long panel's
// rows of op(a) would push them out of the second cache again.
int64_t late_pace(const Ahead& ahead, int64_t tiles, int64_t slots) {
  constexpr int64_t kLinesPerSlot = 4;
  return ceil_div(ahead.left, kLinesPerSlot * slots) < tiles ? 0 : kLinesPerSlot;
}

class Product {
 public:
  Product(const GemmCall& call, Pool& pool, void* scratch);
  void run();

 private:
  void pack_row_block(int64_t row0, int64_t rows);
  void multiply_row_block(int64_t row0, int64_t rows);
  void multiply_by_blocks(int64_t row0, int64_t rows);
  bool rows_outgrow_cache(int64_t rows) const;
  Range columns_of(int64_t panel) const;
  void job(int64_t row0, Range rows, int64_t panel, int64_t next_panel, int worker);
  bool holds(int64_t panel, int worker);
  // With n threads, each claims about every nth chunk.
  int64_t chunks_apart() const { return inline_ ? 1 : pool_.threads(); }
  Ahead upcoming(const Block& block, Range columns) const;
  void few_rows_job(int64_t row0, Range columns, float* sums) const;
  bool few() const { return call_.m <= kTileRows; }
  // Few rows: how many lanes further on the thread's next panel lies, for the packing to ask for. Many rows: 0, see panel_ahead.
  int64_t next_lanes() const { return few() ? kPanelCols * chunks_apart() : 0; }
  Block next_block(int* term, int64_t* unit) const;
  void multiply_block(const Block& block, int64_t row0, Range rows, Range columns, uint32_t* panel, bool held, float* sums,
                      bool first, bool last, Ahead upcoming) const;
  void tiles(const Segment* segments, int count, int64_t row0, Range rows, Range columns, float* sums, bool first,
             bool last, Ahead upcoming) const;

  template <class Body>
  void for_each(int64_t chunks, Body&& body) {
    if (inline_) {
      for (int64_t i = 0; i < chunks; ++i) body(i, 0);
    } else {
      pool_.run(chunks, body);
    }
  }

  void add_term(const GemmTerm& source, int64_t k0, int64_t k, bool in_place);

  const GemmCall& call_;
  Pool& pool_;
  const KernelTable& kernels_;
  Epilogue epilogue_;
  Term terms_[2 * kGemmMaxTerms];
  int term_count_ = 0;
  int64_t panels_;
  int64_t block_units_;  // units of K per packed panel
  bool without_panel_;
  int64_t row_block_;
  bool inline_;
  int64_t shared_bytes_;
  float* shared_sums_;  // behind the packed rows
  int64_t shared_left_;
  char* workers_;
  int64_t panel_bytes_;
  int64_t worker_bytes_;
  int64_t held_[kHoldingWorkers];  // the panel, packed over all of K, that lies in a worker's scratch; -1: none
};

Product::Product(const GemmCall& call, Pool& pool, void* scratch)
    : call_(call), pool_(pool), kernels_(gemm_kernels(call.bf16_compute)) {
  epilogue_ = {call.alpha,     call.bias, call.bias_dtype, call.addend, call.addend_dtype,
               call.addend_ld, call.c,    call.c_dtype,    call.ldc,    streams(call)};
  int64_t total_k = 0;
  bool codes_along_k = false;
  for (int i = 0; i < call.term_count; ++i) {
    const GemmTerm& source = call.terms[i];
    const int64_t k = inner_extent(source.b), in_place = readable_in_place(source, kernels_.unit);
    if (in_place > 0) add_term(source, 0, in_place, true);
    if (in_place < k || k == 0) add_term(source, in_place, k - in_place, false);
    total_k += k;
    codes_along_k |= source.b.format != MatFormat::kDense && source.b.transposed;
  }
  int64_t packed_units = 0;
  for (int i = 0; i < term_count_; ++i) {
    if (!terms_[i].a_in_place) packed_units += terms_[i].units + kRowPadding;
  }
  const int64_t padded_k = total_k + kRowPadding * call.term_count;
  shared_bytes_ = 4 * packed_rows_limit(call.m, padded_k) * padded_k;
  row_block_ = call.m;
  if (packed_units > 0) {
    const int64_t fit = shared_bytes_ / (4 * packed_units);
    // Equal blocks: a short last block would pay for packing every panel again over few rows.
    row_block_ = fit >= call.m ? call.m : ceil_div(call.m, ceil_div(call.m, fit));
  }
  char* p = align64(static_cast<char*>(scratch));
  auto* packed = reinterpret_cast<uint32_t*>(p);
  for (int i = 0; i < term_count_; ++i) {
    Term& term = terms_[i];
    term.packed = term.a_in_place ? nullptr : packed;
    if (!term.a_in_place) packed += row_block_ * (term.units + kRowPadding);
  }
  shared_sums_ = reinterpret_cast<float*>(align64(reinterpret_cast<char*>(packed)));
  shared_left_ = p + shared_bytes_ - reinterpret_cast<char*>(shared_sums_);
  workers_ = align64(p + shared_bytes_);
  panel_bytes_ = round_up(panel_bytes(total_k), 64);
  worker_bytes_ = panel_bytes_ + round_up(sums_bytes(call.m), 64);
  panels_ = ceil_div(call.n, kPanelCols);
  const bool small_panels = few() && kernels_.few_rows_code_units > 0 && codes_along_k;
  block_units_ = small_panels ? kernels_.few_rows_code_units : kernels_.panel_units;
  without_panel_ = few() && kernels_.few_rows != nullptr && !small_panels;
  inline_ = call.m * call.n * std::max<int64_t>(total_k, 1) < kInlineWork;
}

void Product::add_term(const GemmTerm& source, int64_t k0, int64_t k, bool in_place) {
  const int64_t units = ceil_div(k, k_per_unit(kernels_.unit));
  terms_[term_count_++] = {&source.a, &source.b, k0, k, units, in_place, nullptr, 0, nullptr};
}

void Product::run() {
  for (int64_t row0 = 0; row0 < call_.m; row0 += row_block_) {
    const int64_t rows = std::min(row_block_, call_.m - row0);
    pack_row_block(row0, rows);
    multiply_row_block(row0, rows);
  }
}

// Points every term at rows [row0, row0 + rows) of op(a), packing those that cannot be read in place.
void Product::pack_row_block(int64_t row0, int64_t rows) {
  int packed_terms[2 * kGemmMaxTerms];
  int packed_count = 0;
  for (int i = 0; i < term_count_; ++i) {
    Term& term = terms_[i];
    if (term.a_in_place) {
      term.row_stride = term.a->ld * element_bytes(term.a->dtype);
      term.rows = static_cast<const char*>(term.a->data) + row0 * term.row_stride;
    } else {
      term.row_stride = 4 * (term.units + kRowPadding);
      term.rows = reinterpret_cast<const char*>(term.packed);
      packed_terms[packed_count++] = i;
    }
  }
  if (packed_count == 0) return;
  // As many for every thread, as far as whole cache lines go.
  const int64_t share = round_up(ceil_div(rows, 2 * chunks_apart()), kPackUnit);
  const int64_t size = std::min(kMaxPackLanes, share), chunks = ceil_div(rows, size);
  for_each(chunks * packed_count, [&](int64_t chunk, int) {
    const Term& term = terms_[packed_terms[chunk / chunks]];
    const int64_t first = chunk % chunks * size;
    const int64_t stride = term.units + kRowPadding;
    const bool stream = 4 * rows * stride >= (chunks_apart() > 1 ? kStreamedBytes : kStreamedByOne);
    kernels_.pack_rows({term.a, !term.a->transposed, row0 + first, std::min(size, rows - first), term.k0, term.k,
                        term.packed + first * stride, stride, size * chunks_apart(), stream});
  });
}

void Product::multiply_row_block(int64_t row0, int64_t rows) {
  if (rows_outgrow_cache(rows)) return multiply_by_blocks(row0, rows);
  const Jobs jobs(panels_, rows, inline_ ? 1 : pool_.threads());
  std::fill_n(held_, kHoldingWorkers, -1);
  for_each(jobs.count, [&](int64_t i, int worker) {
    const int64_t next = i + chunks_apart();
    job(row0, jobs.rows_of(i), jobs.panel(i), next < jobs.count ? jobs.panel(next) : -1, worker);
  });
}

// A long K (the gradient of a head's input: K is the vocabulary): every panel would read op(a) from memory again.
bool Product::rows_outgrow_cache(int64_t rows) const {
  if (inline_ || panels_ < 2) return false;
  int64_t units = 0;
  for (int i = 0; i < term_count_; ++i) {
    if (terms_[i].a_in_place) units += terms_[i].units;
  }
  return 4 * rows * units > kCachedRowsBytes && 4 * rows * panels_ * kPanelCols <= shared_left_;
}

// The same product, one block of K after the other for all panels: a block of op(a) is read from memory once. The
// fp32 sums of all panels are carried from block to block, in the room that rows read in place leave.
void Product::multiply_by_blocks(int64_t row0, int64_t rows) {
  const Jobs jobs(panels_, rows, pool_.threads());
  int term = 0;
  int64_t unit = 0;
  for (bool first = true; term < term_count_; first = false) {
    const Block block = next_block(&term, &unit);
    const bool last = term == term_count_;
    int after_term = term;
    int64_t after_unit = unit;
    const Block after = last ? block : next_block(&after_term, &after_unit);
    for_each(jobs.count, [&](int64_t i, int worker) {
      const int64_t panel = jobs.panel(i);
      const int64_t next = i + chunks_apart();
      const Ahead ahead = next < jobs.count ? upcoming(block, columns_of(jobs.panel(next)))
                          : last            ? Ahead()
                                            : upcoming(after, columns_of(jobs.panel(next - jobs.count)));
      const Range run = jobs.rows_of(i);
      auto* packed = reinterpret_cast<uint32_t*>(workers_ + worker * worker_bytes_);
      float* const sums = shared_sums_ + (panel * rows + run.begin) * kPanelCols;
      multiply_block(block, row0, run, columns_of(panel), packed, false, sums, first, last, ahead);
    });
  }
}

// The next block of K, continuing at (*term, *unit).
Block Product::next_block(int* term, int64_t* unit) const {
  int64_t left = block_units_;
  Block block;
  block.count = 0;
  while (*term < term_count_ && left > 0 && block.count < kMaxSegments) {
    const Term& t = terms_[*term];
    int64_t units = t.units - *unit;
    // A block that ends inside a term ends at a multiple of 64, where 4-bit blocks begin.
    if (units > left) units = left - left % kCodeAlignment;
    if (units == 0 && t.units > 0) break;
    if (units > 0) {
      block.runs[block.count++] = {*term, *unit, units};
      left -= units;
      *unit += units;
    }
    if (*unit < t.units) break;
    ++*term;
    *unit = 0;
  }
  return block;
}

// The first run of a block, which is all of it but for LoRA's few columns of K.
Ahead Product::upcoming(const Block& block, Range columns) const {
  if (block.count == 0 || few()) return Ahead();
  const Block::Run& run = block.runs[0];
  const Term& t = terms_[run.term];
  const int per_unit = k_per_unit(kernels_.unit);
  const int64_t k = run.unit * per_unit;
  return panel_ahead(*t.b, t.k0 + k, std::min(run.units * per_unit, t.k - k), columns);
}

// Packs a block of op(b), unless the scratch holds it already, and slides it over a run of rows.
void Product::multiply_block(const Block& block, int64_t row0, Range rows, Range columns, uint32_t* panel, bool held,
                             float* sums, bool first, bool last, Ahead upcoming) const {
  const int per_unit = k_per_unit(kernels_.unit);
  Segment segments[kMaxSegments];
  for (int i = 0; i < block.count; ++i) {
    const Block::Run& run = block.runs[i];
    const Term& t = terms_[run.term];
    const int64_t begin = run.unit * per_unit;
    const int64_t k = std::min(run.units * per_unit, t.k - begin);
    if (!held) {
      kernels_.pack_panel({t.b, t.b->transposed, columns.begin, columns.size, t.k0 + begin, k, panel, 0, next_lanes()});
    }
    segments[i] = {t.rows + run.unit * 4, t.row_stride, panel, run.units};
    panel += run.units * kPanelCols;
  }
  tiles(segments, block.count, row0, rows, columns, sums, first, last, upcoming);
}

// Columns are dealt out in vectors of 16, so that no panel is left with a sliver.
Range Product::columns_of(int64_t panel) const {
  const Range vectors = part_of(ceil_div(call_.n, 16), panels_, panel);
  return {16 * vectors.begin, std::min(16 * vectors.size, call_.n - 16 * vectors.begin)};
}

// Whether the worker packed this panel for its last job; from now on it has.
bool Product::holds(int64_t panel, int worker) {
  return worker < kHoldingWorkers && std::exchange(held_[worker], panel) == panel;
}

// `next_panel`: that of the chunk which this thread will probably claim next, or -1.
void Product::job(int64_t row0, Range rows, int64_t panel_index, int64_t next_panel, int worker) {
  char* scratch = workers_ + worker * worker_bytes_;
  auto* panel = reinterpret_cast<uint32_t*>(scratch);
  auto* sums = reinterpret_cast<float*>(scratch + panel_bytes_);
  const Range columns = columns_of(panel_index);
  if (without_panel_) return few_rows_job(row0, columns, sums);
  int term = 0;
  int64_t unit = 0;
  Block block = next_block(&term, &unit);
  const Block first_block = block;
  for (bool first = true, last = false; !last; first = false) {
    last = term == term_count_;
    const Block following = last ? first_block : next_block(&term, &unit);
    const Ahead ahead = !last             ? upcoming(following, columns)
                        : next_panel >= 0 ? upcoming(first_block, columns_of(next_panel))
                                          : Ahead();
    const bool held = first && last && holds(panel_index, worker);
    multiply_block(block, row0, rows, columns, panel, held, sums, first, last, ahead);
    block = following;
  }
}

// Generation: no row of op(b) is used often enough to be worth a panel.
void Product::few_rows_job(int64_t row0, Range columns, float* sums) const {
  std::fill_n(sums, kPanelCols * call_.m, 0.0f);
  for (int i = 0; i < term_count_; ++i) {
    const Term& t = terms_[i];
    kernels_.few_rows({{t.b, t.b->transposed, columns.begin, columns.size, t.k0, t.k, nullptr, 0, next_lanes()},
                       t.rows,
                       t.row_stride,
                       static_cast<int>(call_.m),
                       sums});
  }
  tiles(nullptr, 0, row0, {0, call_.m}, columns, sums, false, true, Ahead());
}

void Product::tiles(const Segment* segments, int count, int64_t row0, Range rows, Range columns, float* sums,
                    bool first, bool last, Ahead upcoming) const {
  TileArgs t;
  t.segments = segments;
  t.segment_count = count;
  t.cols = static_cast<int>(columns.size);
  t.col = columns.begin;
  t.resume = !first;
  t.finish = last;
  t.epilogue = &epilogue_;
  t.ahead = &upcoming;
  int64_t slots = 1;
  for (int i = 0; i < count; ++i) slots += segments[i].units / 16;
  const int64_t tile_count = ceil_div(rows.size, kTileRows);
  for (int64_t i = 0; i < tile_count; ++i) {
    const Range tile = part_of(rows.size, tile_count, i);
    t.rows = static_cast<int>(tile.size);
    t.a_row = rows.begin + tile.begin;
    t.row = row0 + t.a_row;
    t.sums = sums + tile.begin * kPanelCols;
    upcoming.each = late_pace(upcoming, tile_count - i, slots);
    kernels_.tile(t);
  }
  if (last && epilogue_.stream && kernels_.finish_stream != nullptr) kernels_.finish_stream();
}

}  // namespace

int64_t gemm_scratch_bytes(int64_t m, int64_t, int64_t total_k, int term_count, int threads) {
  const int64_t padded_k = total_k + kRowPadding * term_count;
  const int64_t shared = 4 * packed_rows_limit(m, padded_k) * padded_k;
  const int64_t worker = panel_bytes(total_k) + sums_bytes(m);
  return shared + threads * worker + 64 * (2 * threads + 2);
}

void gemm(const GemmCall& call, Pool& pool, void* scratch) {
  if (call.m <= 0 || call.n <= 0 || call.term_count > kGemmMaxTerms) return;
  Product(call, pool, scratch).run();
}

const char* gemm_isa() { return isa_name(active_isa()); }

}  // namespace lathe::cpu
