/*
 * Attention of one new query per sequence over its cache: one sequence and one K/V head.
 *
 * The idea: nothing to reuse but the cache rows themselves, so each K and V row is read once for the whole group of
 * query heads, 64 cache rows at a time under the online softmax. All fp32; the time is memory traffic.
 */
#pragma once

#include "tile_ops.h"

namespace lathe::cpu::attention {
namespace {

template <class T>
void decode_item(const Shape& shape, const DecodeItem& item) {
  const int64_t d = shape.head_dim, dp = shape.padded_dim(), group = shape.group();
  const int64_t kv_ld = shape.kv_heads * d, head0 = item.kv_head * group;
  float* q = item.scratch;            // [group][dp]
  float* acc = q + group * dp;        // [group][dp]
  float* p = acc + group * dp;        // [group][kQueries]
  float* max = p + group * kQueries;  // [group]
  float* sum = max + group;
  T* out = (T*)item.o + head0 * d;
  for (int64_t g = 0; g < group; g++) {
    const T* row = (const T*)item.q + (head0 + g) * d;
    set_zero(acc + g * dp, dp);
    for (int64_t c = 0; c < dp; c += kWidth)
      store(q + g * dp + c, c >= d ? splat(0) : c + kWidth <= d ? load(row + c) : load(row + c, d - c));
    max[g] = -1e30f;
    sum[g] = 0;
  }
  const float factor = shape.softcap > 0 ? kLog2E : shape.scale * kLog2E;
  const float inner = shape.softcap > 0 ? shape.scale / shape.softcap : 0;
  const T* k = (const T*)item.k + item.kv_head * d;
  const T* v = (const T*)item.v + item.kv_head * d;
  const int64_t begin = shape.window > 0 && item.len > shape.window ? item.len - shape.window : 0;
  for (int64_t k0 = begin; k0 < item.len; k0 += kQueries) {
    const int64_t n = item.len - k0 < kQueries ? item.len - k0 : int64_t(kQueries);
    for (int64_t j = 0; j < n; j++) {
      const T* row = k + (k0 + j) * kv_ld;
      for (int64_t g = 0; g < group; g++) {
        F dot_product = splat(0);
        int64_t c = 0;
        for (; c + kWidth <= d; c += kWidth) dot_product = fma(load(row + c), load(q + g * dp + c), dot_product);
        if (c < d) dot_product = fma(load(row + c, d - c), load(q + g * dp + c), dot_product);
        p[g * kQueries + j] = sum_lanes(dot_product);
      }
    }
    for (int64_t g = 0; g < group; g++) {
      float* s = p + g * kQueries;
      for (int64_t j = n; j < kQueries; j++) s[j] = -__builtin_inff();
      if (shape.softcap > 0)
        for (int64_t j = 0; j < n; j += kWidth) {
          F t = splat(shape.softcap) * tanh_of(load(s + j) * splat(inner));
          store(s + j, t, n - j < kWidth ? n - j : kWidth);
        }
      float m = max[g];
      for (int64_t j = 0; j < n; j++) m = m > s[j] ? m : s[j];
      float one[kWidth];
      store(one, exp2_of(splat((max[g] - m) * factor)));
      const float alpha = one[0];
      F total = splat(0);
      for (int64_t j = 0; j < kQueries; j += kWidth) {
        F x = load(s + j), e = exp2_of(fma(x, splat(factor), splat(-m * factor)));
        e = select(less(x, splat(-3e38f)), splat(0), e);
        store(s + j, e);
        total = total + e;
      }
      sum[g] = sum[g] * alpha + sum_lanes(total);
      max[g] = m;
      for (int64_t c = 0; c < dp; c += kWidth) store(acc + g * dp + c, load(acc + g * dp + c) * splat(alpha));
    }
    for (int64_t j = 0; j < n; j++) {
      const T* row = v + (k0 + j) * kv_ld;
      for (int64_t g = 0; g < group; g++) {
        F w = splat(p[g * kQueries + j]);
        float* a = acc + g * dp;
        int64_t c = 0;
        for (; c + kWidth <= d; c += kWidth) store(a + c, fma(w, load(row + c), load(a + c)));
        if (c < d) store(a + c, fma(w, load(row + c, d - c), load(a + c)));
      }
    }
  }
  for (int64_t g = 0; g < group; g++, out += d) {
    const float inverse = item.len > begin ? 1.0f / sum[g] : 0.0f;
    for (int64_t c = 0; c < d; c += kWidth) {
      F y = load(acc + g * dp + c) * splat(inverse);
      c + kWidth <= d ? store(out + c, y) : store(out + c, y, d - c);
    }
  }
}

}  // namespace
}  // namespace lathe::cpu::attention
