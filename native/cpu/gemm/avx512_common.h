/*
 * What both AVX-512 translation units share: the register tile, the epilogue, the transposition.
 *
 * Tile: 6 rows x 64 columns of fp32 sums in 24 of 32 registers, 4 for a row of the panel, 1 for a broadcast.
 * Every step is 4 loads and 6 broadcasts for 24 multiply-adds, so it is bound by arithmetic even when the
 * panel streams from L2. Panel layout: [unit][16 * vectors], vectors = ceil(columns / 16).
 *
 * `Dot` supplies step(sum, a, b): sum + a*b per 32-bit unit; `Narrow` rounds 16 fp32 to bf16.
 * Internal linkage only.
 */
#pragma once

// g++ 12 warns about its own headers' undefined vectors (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernel_table.h"

namespace lathe::cpu {
namespace {

inline __mmask16 first_lanes(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << (n < 0 ? 0 : n)) - 1);
}

// 16 bytes of rows j, j + step, j + 2 step and j + 3 step, one per 128-bit part: a transposition that begins so has only the
// exchanges inside the parts left to do, and a masked load costs no shuffle.
[[maybe_unused]] inline __m512i load_parts(const char* p, int64_t step) {
  const auto load = [](const char* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); };
  __m512i r = _mm512_castsi128_si512(load(p));
  r = _mm512_mask_broadcast_i32x4(r, 0x00f0, load(p + step));
  r = _mm512_mask_broadcast_i32x4(r, 0x0f00, load(p + 2 * step));
  return _mm512_mask_broadcast_i32x4(r, 0xf000, load(p + 3 * step));
}

// out[i] holds 32-bit element i of 16 rows.
[[maybe_unused]] inline void transpose_16_rows(const char* p, int64_t row_bytes, __m512i* out) {
  const __m512i r0 = load_parts(p, 4 * row_bytes), r1 = load_parts(p + row_bytes, 4 * row_bytes);
  const __m512i r2 = load_parts(p + 2 * row_bytes, 4 * row_bytes), r3 = load_parts(p + 3 * row_bytes, 4 * row_bytes);
  const __m512i a = _mm512_unpacklo_epi32(r0, r1), b = _mm512_unpackhi_epi32(r0, r1);
  const __m512i c = _mm512_unpacklo_epi32(r2, r3), d = _mm512_unpackhi_epi32(r2, r3);
  out[0] = _mm512_unpacklo_epi64(a, c);
  out[1] = _mm512_unpackhi_epi64(a, c);
  out[2] = _mm512_unpacklo_epi64(b, d);
  out[3] = _mm512_unpackhi_epi64(b, d);
}

// fp32 from 16 elements; lanes outside the mask are not read.
[[maybe_unused]] inline __m512 load_f32(const char* p, DType dtype, __mmask16 mask) {
  if (dtype == DType::F32) return _mm512_maskz_loadu_ps(mask, p);
  const __m256i h = _mm256_maskz_loadu_epi16(mask, p);
  if (dtype == DType::F16) return _mm512_cvtph_ps(h);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

[[maybe_unused]] inline int64_t element_size(DType dtype) { return dtype == DType::F32 ? 4 : 2; }

template <class Narrow, int R, int V>
inline __attribute__((always_inline)) void finish_tile(const TileArgs& t, __m512 (&sums)[R][V]) {
  const Epilogue& e = *t.epilogue;
  const __m512 alpha = _mm512_set1_ps(e.alpha);
  __mmask16 mask[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    mask[v] = first_lanes(t.cols - 16 * v);
    __m512 bias = _mm512_setzero_ps();
    if (e.bias != nullptr) {
      const int64_t size = element_size(e.bias_dtype);
      bias = load_f32(static_cast<const char*>(e.bias) + (t.col + 16 * v) * size, e.bias_dtype, mask[v]);
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) sums[r][v] = _mm512_fmadd_ps(alpha, sums[r][v], bias);
  }
  if (e.addend != nullptr) {
    const int64_t size = element_size(e.addend_dtype);
    const char* p = static_cast<const char*>(e.addend) + (t.row * e.addend_ld + t.col) * size;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sums[r][v] = _mm512_add_ps(sums[r][v], load_f32(p + 16 * v * size, e.addend_dtype, mask[v]));
      }
      p += e.addend_ld * size;
    }
  }
  if (e.stream && t.cols == 16 * V) {
    float* c = static_cast<float*>(e.c) + t.row * e.ldc + t.col;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) _mm512_stream_ps(c + r * e.ldc + 16 * v, sums[r][v]);
    }
  } else if (e.c_dtype == DType::F32) {
    float* c = static_cast<float*>(e.c) + t.row * e.ldc + t.col;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) _mm512_mask_storeu_ps(c + r * e.ldc + 16 * v, mask[v], sums[r][v]);
    }
  } else {
    uint16_t* c = static_cast<uint16_t*>(e.c) + t.row * e.ldc + t.col;
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        _mm256_mask_storeu_epi16(c + r * e.ldc + 16 * v, mask[v], Narrow::to_bf16(sums[r][v]));
      }
    }
  }
}

// Asks for the lines of c (and of the addend) while the tile is still multiplying: a gradient of fp32 lies in memory,
// and waiting for it at the end of every tile costs 4 % at K = 1024.
template <int R>
inline __attribute__((always_inline)) void fetch_output(const TileArgs& t) {
  const Epilogue& e = *t.epilogue;
  const int64_t size = element_size(e.c_dtype);
  const char* c = static_cast<const char*>(e.c) + (t.row * e.ldc + t.col) * size;
  for (int r = 0; r < R; ++r, c += e.ldc * size) {
    for (int64_t byte = 0; byte < t.cols * size; byte += 64) __builtin_prefetch(c + byte, 1, 3);
  }
  if (e.addend == nullptr || e.addend == e.c) return;
  const int64_t addend_size = element_size(e.addend_dtype);
  const char* p = static_cast<const char*>(e.addend) + (t.row * e.addend_ld + t.col) * addend_size;
  for (int r = 0; r < R; ++r, p += e.addend_ld * addend_size) {
    for (int64_t byte = 0; byte < t.cols * addend_size; byte += 64) __builtin_prefetch(p + byte, 0, 3);
  }
}

[[maybe_unused]] inline void finish_stream() { _mm_sfence(); }

// 32 bits in place in a row of bf16 may lie at any even address.
using AnyFloat __attribute__((aligned(1), may_alias)) = float;

// A function of its own on purpose: inlined into a loop, g++ spills the sums.
template <class Dot, class Narrow, int R, int V>
__attribute__((noinline)) void tile_of(const TileArgs& t) {
  __m512 sums[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sums[r][v] = t.resume ? _mm512_loadu_ps(t.sums + r * kPanelCols + 16 * v) : _mm512_setzero_ps();
    }
  }
  if (t.finish && !t.epilogue->stream) fetch_output<R>(t);
  Ahead& ahead = *t.ahead;
  for (int s = 0; s < t.segment_count; ++s) {
    const Segment& segment = t.segments[s];
    const char* a[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) a[r] = segment.a + (t.a_row + r) * segment.a_stride;
    const uint32_t* b = segment.b;
    // Every 16 units, the next tile's lines of op(a) are fetched: its rows are pages apart.
    const int64_t next_rows = R * segment.a_stride;
    for (int64_t line = 0; line < segment.units; line += 16) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) _mm_prefetch(a[r] + next_rows + 4 * line, _MM_HINT_T1);
      ahead.fetch();
      const int64_t end = line + 16 < segment.units ? line + 16 : segment.units;
      for (int64_t k = line; k < end; ++k) {
        __m512 row[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) row[v] = _mm512_loadu_ps(b + 16 * v);
        b += 16 * V;
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
          const __m512 x = _mm512_set1_ps(*reinterpret_cast<const AnyFloat*>(a[r] + 4 * k));
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sums[r][v] = Dot::step(sums[r][v], x, row[v]);
        }
      }
    }
  }
  if (t.finish) {
    finish_tile<Narrow, R, V>(t, sums);
    return;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(t.sums + r * kPanelCols + 16 * v, sums[r][v]);
  }
}

template <class Dot, class Narrow>
void tile_any(const TileArgs& t) {
  using Tile = void (*)(const TileArgs&);
#define LATHE_TILES(R)                                                                                             \
  {                                                                                                                \
    tile_of<Dot, Narrow, R, 1>, tile_of<Dot, Narrow, R, 2>, tile_of<Dot, Narrow, R, 3>, tile_of<Dot, Narrow, R, 4> \
  }
  static const Tile tiles[kTileRows][4] = {LATHE_TILES(1), LATHE_TILES(2), LATHE_TILES(3),
                                           LATHE_TILES(4), LATHE_TILES(5), LATHE_TILES(6)};
#undef LATHE_TILES
  tiles[t.rows - 1][(t.cols - 1) / 16](t);
}

}  // namespace
}  // namespace lathe::cpu
