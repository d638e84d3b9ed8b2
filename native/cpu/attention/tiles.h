/*
 * What attention asks of an instruction set: three functions over work items, in plain data.
 *
 * The idea: everything that depends on vector width (register tiles, packing, exponentials) is compiled once per
 * instruction set from the same source (tile_ops.h, forward.h, backward.h, decode.h) and reached through this
 * table. attention.cpp decides what the items are and owns all memory.
 *
 * Invariants: plain data, no standard library, so that files compiled for wide ISAs can include it.
 */
#pragma once

#include <cstddef>
#include <cstdint>

namespace lathe::cpu::attention {

constexpr int kQueries = 64;  // queries of a tile: the vector lanes
constexpr int kKeys = 96;     // keys of a tile: the rows
constexpr int kStrip = 6;     // key rows of a register tile; kKeys is a multiple
constexpr int kLanes = 16;    // granularity of skipping in queries

constexpr int64_t round_up(int64_t x, int64_t y) { return (x + y - 1) / y * y; }

struct Shape {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1;
  float softcap = 0;   // 0: none
  int64_t window = 0;  // 0: none; else keys j with i - window < j (and j < i + window when not causal)
  bool causal = true;

  int64_t group() const { return heads / kv_heads; }
  int64_t padded_dim() const { return round_up(head_dim, kLanes); }
};

// A few query tiles of a few heads that share one K/V head, in one document.
struct ForwardItem {
  const void* q;
  const void* k;
  const void* v;
  void* o;
  float* lse;    // null: not wanted
  int64_t row0;  // the document's first row
  int64_t len;   // its rows
  int64_t q0;    // first query, relative to the document, a multiple of kQueries
  int64_t q_tiles;
  int64_t head0;  // heads head0 .. head0 + heads - 1 all read kv_head
  int64_t heads;
  int64_t kv_head;
  float* scratch;  // forward_scratch_floats
};

// One query head of one document. dk and dv receive this head's unscaled fp32 sums: [len][padded_dim], overwritten.
// dq, dk and dv may be null: not wanted.
struct BackwardItem {
  const void* dout;
  const void* q;
  const void* k;
  const void* v;
  const void* o;
  const float* lse;
  void* dq;
  float* dk;
  float* dv;
  int64_t row0;
  int64_t len;
  int64_t head;
  int64_t kv_head;
  bool keep_kv;    // scratch already holds this document's packed K and V of kv_head
  float* scratch;  // backward_scratch_floats
};

// One sequence and one K/V head; `rows` cache rows, of which the first `len` count.
struct DecodeItem {
  const void* q;  // the row of this sequence
  const void* k;  // the cache of this sequence
  const void* v;
  void* o;
  int64_t len;
  int64_t kv_head;
  float* scratch;  // decode_scratch_floats
};

struct Tiles {
  const char* isa;
  void (*forward)(const Shape& shape, const ForwardItem& item);
  void (*backward)(const Shape& shape, const BackwardItem& item);
  // out[r][c] = scale * (parts[0] + parts[1] + ...)[r][c], one rounding; parts lie part_stride floats apart,
  // rows padded_dim() floats; out rows lie out_ld elements apart.
  void (*finish)(const Shape& shape, const float* parts, int64_t count, int64_t part_stride, int64_t rows,
                 float scale, void* out, int64_t out_ld);
  void (*decode)(const Shape& shape, const DecodeItem& item);
};

// Floats of scratch of one item, for any instruction set.
inline int64_t forward_scratch_floats(int64_t padded_dim, int64_t units) {
  return 3 * kKeys * padded_dim + kKeys * kQueries + units * (2 * kQueries * padded_dim + 5 * kQueries);
}
inline int64_t backward_scratch_floats(int64_t padded_dim, int64_t len) {
  return 3 * round_up(len, kKeys) * padded_dim + kKeys * padded_dim + 5 * kQueries * padded_dim +
         3 * kKeys * kQueries + 2 * kStrip * kQueries + 4 * kQueries;
}
inline int64_t decode_scratch_floats(int64_t padded_dim, int64_t group) {
  return group * (2 * padded_dim + kQueries + 4);
}

// bf16 says what the tensors hold. The x86 variants exist in x86-64 builds only.
const Tiles* portable_tiles(bool bf16);
const Tiles* avx2_tiles(bool bf16);
const Tiles* avx512_tiles(bool bf16);
const Tiles* avx512bf16_tiles(bool bf16);  // null for fp32

}  // namespace lathe::cpu::attention
