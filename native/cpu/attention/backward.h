/*
 * Attention backward for one query head of one document.
 *
 * The idea: FlashAttention-2's five products, with queries as vector lanes as in forward.h, and the query tile as the
 * outer loop, so that dQ lives in one small tile while dK and dV of the whole document accumulate in fp32:
 *   S^T = K Q^T            P^T = exp2(c S^T - lse)        dP^T = V dO^T     dS^T = P^T (dP^T - D)
 *   dV += P^T dO           dK += dS^T Q                   dQ^T += K^T dS^T
 * Scores are born transposed, so no tile is ever transposed: P^T and dS^T are left operands of dV and dK as they
 * are, and dS^T in pairs is the right operand of dQ^T.
 *
 * Invariants: one owner per head, fixed order, no atomics. P and dS exist for one key tile at a time. Masked entries
 * are exactly 0, so keys that nobody sees get a gradient of exactly 0. dk and dv come out per head, unscaled.
 */
#pragma once

#include "tile_ops.h"

namespace lathe::cpu::attention {
namespace {

// The element-wise middle of one strip: scores and dP in, P and dS out in the layouts of the three products.
struct Middle {
  const float *s, *dp;           // [6][64]
  float *p_rows, *ds_rows;       // rows layout, [6][64 / pair]
  float* ds_pairs;               // pairs layout, [6 / pair][64]
  const float *lse, *delta;      // [64]: lse in powers of 2
  const float *lo, *hi;          // [64]
  float factor, inner, softcap;  // exponent = factor * (score or tanh(inner * score))
};

template <bool kCapped>
LATHE_INLINE void middle_pair(const Middle& x, int64_t lane, int r, bool edge, int64_t key0, F p[2], F ds[2]) {
  for (int i = 0; i < 2; i++) {
    F s = load(x.s + (r + i) * kQueries + lane), t = s;
    if constexpr (kCapped) t = tanh_of(s * splat(x.inner));
    F prob = exp2_of(fma(t, splat(x.factor), splat(0) - load(x.lse + lane)));
    if (edge) {
      F key = splat(float(key0 + r + i)), zero = splat(0);
      prob = select(less(key, load(x.lo + lane)), zero, select(greater(key, load(x.hi + lane)), zero, prob));
    }
    F g = prob * (load(x.dp + (r + i) * kQueries + lane) - load(x.delta + lane));
    if constexpr (kCapped) g = g * fnma(t, t, splat(1.0f));
    if (edge) {  // 0 * inf of a key nobody sees must not leak
      F key = splat(float(key0 + r + i)), zero = splat(0);
      g = select(less(key, load(x.lo + lane)), zero, select(greater(key, load(x.hi + lane)), zero, g));
    }
    p[i] = prob;
    ds[i] = g;
  }
}

template <bool kCapped>
void middle(const Middle& x, int64_t lane0, int64_t lane1, const Strips& strips, int64_t strip, int64_t key0) {
  constexpr int64_t row_units = kQueries / kPair;
  for (int64_t lane = lane0; lane < lane1; lane += kWidth) {
    const bool edge = strips.edge(lane / kLanes, strip);
#pragma GCC unroll 3
    for (int r = 0; r < kStrip; r += 2) {
      F p[2], ds[2];
      middle_pair<kCapped>(x, lane, r, edge, key0, p, ds);
      store_row_lanes(x.p_rows + r * row_units, lane, p[0]);
      store_row_lanes(x.p_rows + (r + 1) * row_units, lane, p[1]);
      store_row_lanes(x.ds_rows + r * row_units, lane, ds[0]);
      store_row_lanes(x.ds_rows + (r + 1) * row_units, lane, ds[1]);
#if defined(__AVX512BF16__)
      store_pairs(x.ds_pairs + (r / 2) * kQueries + lane, ds[0], ds[1]);
#endif
    }
  }
}

// D_i = sum_c dO_ic O_ic.
template <class T>
float row_dot(const T* a, const T* b, int64_t n) {
  F sum = splat(0);
  int64_t c = 0;
  for (; c + kWidth <= n; c += kWidth) sum = fma(load(a + c), load(b + c), sum);
  if (c < n) sum = fma(load(a + c, n - c), load(b + c, n - c), sum);
  return sum_lanes(sum);
}

template <class T>
void backward_item(const Shape& shape, const BackwardItem& item) {
  const int64_t d = shape.head_dim, dp = shape.padded_dim(), dk = dp / kPair, len = item.len;
  const int64_t q_ld = shape.heads * d, kv_ld = shape.kv_heads * d;
  const int64_t tile_units = kKeys / kPair, row_units = kQueries / kPair, padded_len = round_up(len, kKeys);
  const Mask mask{len, shape.window, shape.causal};

  float* at = item.scratch;
  auto take = [&at](int64_t n) { float* p = at; at += n; return p; };
  float* keys = take(padded_len * dp);        // rows layout
  float* values = take(padded_len * dp);      // rows layout
  float* keys_across = take(padded_len * dp);  // per key tile [dp][tile_units]
  float* rows = take(kKeys * dp);
  float* q_lanes = take(kQueries * dp);
  float* dout_lanes = take(kQueries * dp);
  float* q_pairs = take(kQueries * dp);
  float* dout_pairs = take(kQueries * dp);
  float* dq = take(kQueries * dp);  // dQ^T [dp][64]
  float* p_rows = take(kKeys * kQueries);
  float* ds_rows = take(kKeys * kQueries);
  float* ds_pairs = take(kKeys * kQueries);
  float* s = take(kStrip * kQueries);
  float* dprob = take(kStrip * kQueries);
  float* lse = take(kQueries);
  float* delta = take(kQueries);
  float* lo = take(kQueries);
  float* hi = take(kQueries);
  if constexpr (kPair == 1) ds_pairs = ds_rows;  // one unit is one number: the layouts coincide

  if (!item.keep_kv) {
    for (int64_t k0 = 0; k0 < len; k0 += kKeys) {
      const int64_t n = len - k0 < kKeys ? len - k0 : int64_t(kKeys), np = round_up(n, kStrip);
      const int64_t offset = (item.row0 + k0) * kv_ld + item.kv_head * d;
      pack_rows((const T*)item.k + offset, kv_ld, n, np, d, dp, keys + k0 * dk);
      pack_rows((const T*)item.v + offset, kv_ld, n, np, d, dp, values + k0 * dk);
      pack_pairs(keys + k0 * dk, np, dp, rows);
      transpose(rows, dp, np / kPair, dp, keys_across + k0 / kKeys * dp * tile_units, tile_units);
    }
  }
  if (item.dk) set_zero(item.dk, len * dp);
  if (item.dv) set_zero(item.dv, len * dp);

  Middle x;
  x.s = s, x.dp = dprob, x.lse = lse, x.delta = delta, x.lo = lo, x.hi = hi;
  x.softcap = shape.softcap;
  x.inner = shape.softcap > 0 ? shape.scale / shape.softcap : 0;
  x.factor = (shape.softcap > 0 ? shape.softcap : shape.scale) * kLog2E;

  for (int64_t q0 = 0; q0 < len; q0 += kQueries) {
    const int64_t queries = len - q0 < kQueries ? len - q0 : int64_t(kQueries);
    const int64_t q_offset = (item.row0 + q0) * q_ld + item.head * d;
    pack_rows((const T*)item.q + q_offset, q_ld, queries, kQueries, d, dp, rows);
    transpose(rows, dk, kQueries, dk, q_lanes, kQueries);
    pack_pairs(rows, kQueries, dp, q_pairs);
    pack_rows((const T*)item.dout + q_offset, q_ld, queries, kQueries, d, dp, rows);
    transpose(rows, dk, kQueries, dk, dout_lanes, kQueries);
    pack_pairs(rows, kQueries, dp, dout_pairs);
    set_zero(dq, dp * kQueries);
    mask_lanes(mask, q0, lo, hi);
    for (int64_t i = 0; i < kQueries; i++) {
      const bool real = i < queries;
      lse[i] = real ? item.lse[item.head * shape.tokens + item.row0 + q0 + i] * kLog2E : 1e30f;
      const int64_t row = q_offset + i * q_ld;
      delta[i] = real ? row_dot((const T*)item.dout + row, (const T*)item.o + row, d) : 0;
    }

    const int64_t k_end = mask.hi(q0 + queries - 1) + 1;
    for (int64_t k0 = mask.lo(q0) / kKeys * kKeys; k0 < k_end; k0 += kKeys) {
      const int64_t n = k_end - k0 < kKeys ? k_end - k0 : int64_t(kKeys), count = (n + kStrip - 1) / kStrip;
      const Strips strips(mask, q0, queries, k0, n);
      if (!strips.any) continue;
      int64_t first[kKeys / kStrip], last[kKeys / kStrip];
      for (int64_t t = 0; t < count; t++) {
        const int64_t g0 = first[t] = strips.first_group(t), g1 = last[t] = strips.last_group(t);
        if (g0 >= g1) continue;
        const int64_t lanes = (g1 - g0) * kLanes, left = (k0 + t * kStrip) * dk;
        product(keys + left, dk, q_lanes + g0 * kLanes, kQueries, kStrip, lanes, dk, s + g0 * kLanes, kQueries, kZero);
        product(values + left, dk, dout_lanes + g0 * kLanes, kQueries, kStrip, lanes, dk, dprob + g0 * kLanes, kQueries,
                kZero);
        x.p_rows = p_rows + t * kStrip * row_units;
        x.ds_rows = ds_rows + t * kStrip * row_units;
        x.ds_pairs = ds_pairs + t * (kStrip / kPair) * kQueries;
        shape.softcap > 0 ? middle<true>(x, g0 * kLanes, g1 * kLanes, strips, t, k0 + t * kStrip)
                          : middle<false>(x, g0 * kLanes, g1 * kLanes, strips, t, k0 + t * kStrip);
      }
      for (int pass = 0; pass < 2; pass++) {
        const float* left = pass == 0 ? p_rows : ds_rows;
        const float* right = pass == 0 ? dout_pairs : q_pairs;
        float* sums = pass == 0 ? item.dv : item.dk;
        if (sums == nullptr) continue;
        for (int64_t t = 0; t < count; t++) {
          if (first[t] >= last[t]) continue;
          const int64_t u0 = first[t] * kLanes / kPair, u1 = last[t] * kLanes / kPair, r = t * kStrip;
          product(left + r * row_units + u0, row_units, right + u0 * dp, dp,
                  n - r < kStrip ? n - r : int64_t(kStrip), dp, u1 - u0, sums + (k0 + r) * dp, dp, kAdd);
        }
      }
      for (int64_t g = 0, e; item.dq && g < strips.groups; g = e) {
        e = strips.same(g);
        if (strips.begin[g] == strips.end[g]) continue;
        const int64_t k_first = strips.begin[g] * kStrip / kPair;
        const int64_t k_count = (strips.end[g] - strips.begin[g]) * kStrip / kPair;
        product(keys_across + k0 / kKeys * dp * tile_units + k_first, tile_units,
                ds_pairs + k_first * kQueries + g * kLanes, kQueries, dp, (e - g) * kLanes, k_count, dq + g * kLanes,
                kQueries, kAdd);
      }
    }

    if (item.dq == nullptr) continue;
    transpose(dq, kQueries, dp, kQueries, rows, dp);
    T* out = (T*)item.dq + q_offset;
    const F scale = splat(shape.scale);
    for (int64_t r = 0; r < queries; r++, out += q_ld) {
      int64_t c = 0;
      for (; c + kWidth <= d; c += kWidth) store(out + c, load(rows + r * dp + c) * scale);
      if (c < d) store(out + c, load(rows + r * dp + c) * scale, d - c);
    }
  }
}

template <class T>
void finish_rows(const Shape& shape, const float* parts, int64_t count, int64_t part_stride, int64_t rows, float scale,
                 void* out, int64_t out_ld) {
  const int64_t d = shape.head_dim, dp = shape.padded_dim();
  T* y = (T*)out;
  for (int64_t r = 0; r < rows; r++, y += out_ld, parts += dp) {
    for (int64_t c = 0; c < dp; c += kWidth) {
      if (c >= d) break;
      F sum = load(parts + c);
      for (int64_t i = 1; i < count; i++) sum = sum + load(parts + i * part_stride + c);
      sum = sum * splat(scale);
      c + kWidth <= d ? store(y + c, sum) : store(y + c, sum, d - c);
    }
  }
}

}  // namespace
}  // namespace lathe::cpu::attention
