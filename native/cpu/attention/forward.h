/*
 * Attention forward for one item: the tiles of a few query heads against the keys of one document.
 *
 * The idea: FlashAttention-2 (Dao 2023) turned on its side. Scores are computed transposed, keys as rows and 64
 * queries as vector lanes, so that maxima, sums and rescaling are lane-wise and nothing is reduced across a vector.
 * The key tile is the outer loop and (head, query tile) the inner one: K and V are packed once for the whole group.
 *   S^T[keys][64] = K Q^T     P^T = exp2(c S^T - c max)     O^T[d][64] = alpha O^T + V^T P^T
 *
 * Invariants: tiles start at the document's first row, so a document's bits do not depend on its neighbours; strips
 * (6 keys x 16 queries) that the mask hides are never computed; masked probabilities are exactly 0.
 */
#pragma once

#include "tile_ops.h"

namespace lathe::cpu::attention {
namespace {

// One (head, query tile) on its way through the keys.
struct Unit {
  float* q;      // lanes layout [dp / pair][64]
  float* acc;    // O^T [dp][64]
  float* max;    // [64] of the (capped) score
  float* sum;    // [64]
  float* alpha;  // [64] rescaling of this key tile
  float* lo;     // [64] first and last key seen
  float* hi;
  int64_t head, q0, queries;
};

template <bool kCapped>
LATHE_INLINE F score(F s, F inner, F cap) {
  if constexpr (kCapped) return cap * tanh_of(s * inner);
  return s;
}

// Softmax of kWidth lanes over the strips of their group; probabilities replace the scores, in pairs layout.
template <bool kCapped>
void softmax_lanes(const Strips& strips, int64_t g, int64_t lane, int64_t k0, const Shape& shape, const Unit& u,
                   float* s) {
  const F factor = splat(kCapped ? kLog2E : shape.scale * kLog2E);
  const F inner = splat(kCapped ? shape.scale / shape.softcap : 0), cap = splat(shape.softcap);
  const F hidden = splat(-__builtin_inff()), lo = load(u.lo + lane), hi = load(u.hi + lane);
  float* column = s + lane;
  F old = load(u.max + lane), m = old, m2 = old;
  for (int64_t t = strips.begin[g]; t < strips.end[g]; t++) {
    float* x = column + t * kStrip * kQueries;
    if (strips.edge(g, t)) {
      for (int r = 0; r < kStrip; r++, x += kQueries) {
        F key = splat(float(k0 + t * kStrip + r)), v = score<kCapped>(load(x), inner, cap);
        v = select(less(key, lo), hidden, select(greater(key, hi), hidden, v));
        store(x, v);
        m = max_of(m, v);
      }
    } else {
#pragma GCC unroll 3
      for (int r = 0; r < kStrip; r += 2, x += 2 * kQueries) {
        F v = score<kCapped>(load(x), inner, cap), w = score<kCapped>(load(x + kQueries), inner, cap);
        if constexpr (kCapped) store(x, v), store(x + kQueries, w);
        m = max_of(m, v);
        m2 = max_of(m2, w);
      }
    }
  }
  m = max_of(m, m2);
  F shift = m * factor, alpha = exp2_of((old - m) * factor);
  F sum = load(u.sum + lane) * alpha, sum2 = splat(0);
  for (int64_t t = strips.begin[g]; t < strips.end[g]; t++) {
    const float* x = column + t * kStrip * kQueries;
    float* p = column + t * (kStrip / kPair) * kQueries;
    const bool edge = strips.edge(g, t);
#pragma GCC unroll 3
    for (int r = 0; r < kStrip; r += 2, x += 2 * kQueries) {
      F v = load(x), w = load(x + kQueries);
      F even = exp2_of(fma(v, factor, splat(0) - shift)), odd = exp2_of(fma(w, factor, splat(0) - shift));
      if (edge) {
        even = select(less(v, splat(-3e38f)), splat(0), even);
        odd = select(less(w, splat(-3e38f)), splat(0), odd);
      }
      sum = sum + even;
      sum2 = sum2 + odd;
#if defined(__AVX512BF16__)
      store_pairs(p, even, odd);
      p += kQueries;
#else
      store(p, even);
      store(p + kQueries, odd);
      p += 2 * kQueries;
#endif
    }
  }
  store(u.max + lane, m);
  store(u.sum + lane, sum + sum2);
  store(u.alpha + lane, alpha);
}

template <class T>
void forward_item(const Shape& shape, const ForwardItem& item) {
  const int64_t d = shape.head_dim, dp = shape.padded_dim(), dk = dp / kPair, tile_units = kKeys / kPair;
  const int64_t q_ld = shape.heads * d, kv_ld = shape.kv_heads * d;
  const Mask mask{item.len, shape.window, shape.causal};

  float* at = item.scratch;
  auto take = [&at](int64_t n) { float* p = at; at += n; return p; };
  float* rows = take(kKeys * dp);
  float* keys = take(kKeys * dp);    // rows layout
  float* values = take(kKeys * dp);  // [dp][tile_units]
  float* s = take(kKeys * kQueries);
  float* state = at;
  const int64_t unit_floats = 2 * kQueries * dp + 5 * kQueries, units = item.heads * item.q_tiles;
  auto unit = [&](int64_t i) {
    float* p = state + i * unit_floats;
    int64_t q0 = item.q0 + (i / item.heads) * kQueries;
    float* small = p + 2 * kQueries * dp;
    return Unit{p, p + kQueries * dp, small, small + kQueries, small + 2 * kQueries, small + 3 * kQueries,
                small + 4 * kQueries, item.head0 + i % item.heads, q0,
                item.len - q0 < kQueries ? item.len - q0 : int64_t(kQueries)};
  };

  for (int64_t i = 0; i < units; i++) {
    Unit u = unit(i);
    pack_rows((const T*)item.q + (item.row0 + u.q0) * q_ld + u.head * d, q_ld, u.queries, kQueries, d, dp, rows);
    transpose(rows, dk, kQueries, dk, u.q, kQueries);
    set_zero(u.acc, dp * kQueries);
    for (int64_t l = 0; l < kQueries; l++) u.max[l] = -1e30f, u.sum[l] = 0;
    mask_lanes(mask, u.q0, u.lo, u.hi);
  }

  const int64_t q_end = item.q0 + item.q_tiles * kQueries < item.len ? item.q0 + item.q_tiles * kQueries : item.len;
  const int64_t k_end = mask.hi(q_end - 1) + 1;
  for (int64_t k0 = mask.lo(item.q0) / kKeys * kKeys; k0 < k_end; k0 += kKeys) {
    const int64_t n = k_end - k0 < kKeys ? k_end - k0 : int64_t(kKeys), np = round_up(n, kStrip);
    const int64_t offset = (item.row0 + k0) * kv_ld + item.kv_head * d;
    pack_rows((const T*)item.k + offset, kv_ld, n, np, d, dp, keys);
    pack_rows((const T*)item.v + offset, kv_ld, n, np, d, dp, rows);
    const float* pairs = rows;
    if constexpr (kPair == 2) {  // raw rows fill half of the buffer, pairs the other half
      pack_pairs(rows, np, dp, rows + kKeys * dk);
      pairs = rows + kKeys * dk;
    }
    transpose(pairs, dp, np / kPair, dp, values, tile_units);

    for (int64_t i = 0; i < units; i++) {
      Unit u = unit(i);
      const Strips strips(mask, u.q0, u.queries, k0, n);
      if (!strips.any) continue;
      for (int64_t t = 0; t < np / kStrip; t++) {
        int64_t g0 = strips.first_group(t), g1 = strips.last_group(t);
        if (g0 < g1)
          product(keys + t * kStrip * dk, dk, u.q + g0 * kLanes, kQueries, kStrip, (g1 - g0) * kLanes, dk,
                  s + t * kStrip * kQueries + g0 * kLanes, kQueries, kZero);
      }
      for (int64_t g = 0; g < strips.groups; g++) {
        if (strips.begin[g] == strips.end[g]) continue;
        for (int64_t lane = g * kLanes; lane < (g + 1) * kLanes; lane += kWidth)
          shape.softcap > 0 ? softmax_lanes<true>(strips, g, lane, k0, shape, u, s)
                            : softmax_lanes<false>(strips, g, lane, k0, shape, u, s);
      }
      for (int64_t g = 0, e; g < strips.groups; g = e) {
        e = strips.same(g);
        if (strips.begin[g] == strips.end[g]) continue;
        const int64_t k_first = strips.begin[g] * kStrip / kPair;
        const int64_t k_count = (strips.end[g] - strips.begin[g]) * kStrip / kPair;
        product(values + k_first, tile_units, s + k_first * kQueries + g * kLanes, kQueries, dp, (e - g) * kLanes,
                k_count, u.acc + g * kLanes, kQueries, kScaleLanes, u.alpha + g * kLanes);
      }
    }
  }

  for (int64_t i = 0; i < units; i++) {
    Unit u = unit(i);
    for (int64_t lane = 0; lane < kQueries; lane += kWidth) {
      F inverse = splat(1.0f) / load(u.sum + lane);
      for (int64_t c = 0; c < dp; c++) store(u.acc + c * kQueries + lane, load(u.acc + c * kQueries + lane) * inverse);
    }
    transpose(u.acc, kQueries, dp, kQueries, rows, dp);
    T* out = (T*)item.o + (item.row0 + u.q0) * q_ld + u.head * d;
    const float factor = shape.softcap > 0 ? 1.0f : shape.scale;
    for (int64_t r = 0; r < u.queries; r++, out += q_ld) {
      const float* x = rows + r * dp;
      int64_t c = 0;
      for (; c + kWidth <= d; c += kWidth) store(out + c, load(x + c));
      if (c < d) store(out + c, load(x + c), d - c);
      if (item.lse)
        item.lse[u.head * shape.tokens + item.row0 + u.q0 + r] = u.max[r] * factor + __builtin_logf(u.sum[r]);
    }
  }
}

}  // namespace
}  // namespace lathe::cpu::attention
