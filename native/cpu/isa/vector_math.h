// exp, sigmoid, tanh and the normal distribution on simd.h's vectors, in fp32.
//
// Method: exp by range reduction to [-ln2/2, ln2/2] and a polynomial; the rest from exp. Polynomial coefficients were
// fitted for this file (iteratively reweighted least squares towards the minimax fit, in extended precision); the
// fit's own relative error is given at each, below the rounding of fp32 (6e-8).
// Invariants: NaN in, NaN out; +-inf give the limits; no branch depends on data.
#pragma once
#include "simd.h"

namespace lathe::cpu {
namespace {

// e^x. Overflows to inf, underflows through the denormals to 0. Fit 3.1e-9.
LATHE_INLINE F exp_of(F x) {
  x = min_of(splat(89.0f), max_of(splat(-104.0f), x));
  F n = nearest(x * splat(1.44269504f));
  // ln 2 in two parts; the first has few bits, so n * part is exact.
  F r = fnma(n, splat(0.693359375f), x);
  r = fnma(n, splat(-2.12194440e-4f), r);
  F p = splat(1.381460830e-03f);
  p = fma(p, r, splat(8.368711340e-03f));
  p = fma(p, r, splat(4.166838754e-02f));
  p = fma(p, r, splat(1.666652068e-01f));
  p = fma(p, r, splat(4.999999345e-01f));
  p = fma(p, r * r, r) + splat(1.0f);
  return scale_by_power(p, n);
}

// 2^x for |x| <= 2^20 or so: beyond the range of fp32 inf and 0. Fit 2.0e-9.
LATHE_INLINE F exp2_of(F x) {
  F n = nearest(x), r = x - n;
  F p = splat(1.535336206e-04f);
  p = fma(p, r, splat(1.339887456e-03f));
  p = fma(p, r, splat(9.618437358e-03f));
  p = fma(p, r, splat(5.550332471e-02f));
  p = fma(p, r, splat(2.402264791e-01f));
  p = fma(p, r, splat(6.931472029e-01f));
  return scale_by_power(fma(p, r, splat(1.0f)), n);
}

LATHE_INLINE F sigmoid_of(F x) { return splat(1.0f) / (splat(1.0f) + exp_of(splat(0) - x)); }

// Near 0 an odd polynomial (fit 4.5e-9), else 1 - 2 / (e^2|x| + 1): no cancellation there.
LATHE_INLINE F tanh_of(F x) {
  F a = abs_of(x), s = x * x;
  F p = splat(-5.697387129e-03f);
  p = fma(p, s, splat(2.063254943e-02f));
  p = fma(p, s, splat(-5.373779912e-02f));
  p = fma(p, s, splat(1.333142040e-01f));
  p = fma(p, s, splat(-3.333328119e-01f));
  F small = fma(p * s, x, x);
  F large = splat(1.0f) - splat(2.0f) / (exp_of(a + a) + splat(1.0f));
  return select(less(a, splat(0.625f)), small, with_sign_of(large, x));
}

// x * x / 2 - p, exact to first order, p being the rounded x * x / 2.
LATHE_INLINE F half_square_error(F x, F p) {
#if defined(__AVX2__) || defined(__AVX512F__)
  return fma(x, x * splat(0.5f), splat(0) - p);
#else
  F high = (F)((I)x & splat_i(int(0xfffff000))), low = x - high;
  return (high * high * splat(0.5f) - p) + (high * low + low * low * splat(0.5f));
#endif
}

// The normal distribution: cdf(x), and bell = e^(-x^2/2). The tail is bell * Q(|x|) with Q(a) = e^(a^2/2) cdf(-a)
// = t P((3-a)/(3+a)), t = 3/(3+a) (fit 9.4e-10 on [0, 14.5]), so small values keep their relative accuracy.
struct Normal { F cdf, bell; };
LATHE_INLINE Normal normal_of(F x) {
  F a = min_of(splat(15.0f), abs_of(x));
  F half = a * a * splat(0.5f);
  F bell = exp_of(splat(0) - half);
  bell = fnma(bell, half_square_error(a, half), bell);
  F inverse = splat(1.0f) / (splat(3.0f) + a);
  F u = (splat(3.0f) - a) * inverse;
  F p = splat(1.815182306e-05f);
  p = fma(p, u, splat(-4.375150274e-05f));
  p = fma(p, u, splat(-8.158495857e-05f));
  p = fma(p, u, splat(3.441749306e-04f));
  p = fma(p, u, splat(3.415946649e-04f));
  p = fma(p, u, splat(-2.323100837e-03f));
  p = fma(p, u, splat(-3.487506772e-03f));
  p = fma(p, u, splat(1.575422921e-02f));
  p = fma(p, u, splat(7.667256665e-02f));
  p = fma(p, u, splat(1.697773305e-01f));
  p = fma(p, u, splat(2.430278968e-01f));
  F tail = bell * (p * (splat(3.0f) * inverse));
  return {select(less(x, splat(0)), tail, splat(1.0f) - tail), bell};
}

}  // namespace
}  // namespace lathe::cpu
