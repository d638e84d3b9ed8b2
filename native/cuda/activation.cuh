// Activation functions and their slopes in fp32, free of cancellation where a naive formula has it.
// One struct per kind: value(x), and both(x) = value and slope. The formulas are those of native/cpu/isa.
#pragma once
#include "cuda/common.cuh"

namespace lathe::cuda {

struct Slope { float value, slope; };

// From e = e^-|x|: sigmoid is 1 / (1 + e) or e / (1 + e), its slope e / (1 + e)^2.
__device__ __forceinline__ Slope sigmoid_slope(float x) {
  const float e = expf(-fabsf(x)), r = 1.0f / (1.0f + e), er = e * r;
  return {x < 0 ? er : r, er * r};
}

struct Gelu {
  static __device__ float value(float x) { return x * normal_cdf(x); }
  static __device__ Slope both(float x) {
    const float cdf = normal_cdf(x), bell = expf(-0.5f * x * x);
    return {x * cdf, fma_rn(x * bell, 0.398942280f, cdf)};
  }
};
// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): no cancellation in the left tail.
struct GeluTanh {
  static __device__ float twice_u(float x) { return x * fma_rn(x * x, 2 * 0.797884561f * 0.044715f, 2 * 0.797884561f); }
  static __device__ float value(float x) { return x * sigmoid_slope(twice_u(x)).value; }
  static __device__ Slope both(float x) {
    const Slope s = sigmoid_slope(twice_u(x));
    // Past |x| = 12 the sigmoid's slope is 0; clamping keeps inf * 0 away. fminf would swallow a NaN.
    const float c = x > 12.0f ? 12.0f : x < -12.0f ? -12.0f : x;
    const float du = fma_rn(c * c, 6 * 0.797884561f * 0.044715f, 2 * 0.797884561f);
    return {x * s.value, fma_rn(c * s.slope, du, s.value)};
  }
};
struct Relu {
  static __device__ float value(float x) { return x < 0 ? 0.0f : x; }
  static __device__ Slope both(float x) { return {value(x), x > 0 ? 1.0f : 0.0f}; }
};
struct Silu {
  static __device__ float value(float x) { return x / (1.0f + expf(-x)); }
  static __device__ Slope both(float x) {
    const Slope s = sigmoid_slope(x);
    const float c = x > 110.0f ? 110.0f : x < -110.0f ? -110.0f : x;  // the slope is 0 beyond: keeps inf * 0 away
    return {x * s.value, fma_rn(c, s.slope, s.value)};
  }
};
struct Tanh {
  static __device__ float value(float x) { return tanhf(x); }
  static __device__ Slope both(float x) {
    // 1 - t^2 would cancel: 4 e / (1 + e)^2 with e = e^(-2|x|).
    const float e = expf(-2 * fabsf(x)), r = 2.0f / (1.0f + e);
    return {tanhf(x), e * r * r};
  }
};
struct Sigmoid {
  static __device__ float value(float x) { return sigmoid_slope(x).value; }
  static __device__ Slope both(float x) { return sigmoid_slope(x); }
};
struct Exp {
  static __device__ float value(float x) { return expf(x); }
  static __device__ Slope both(float x) {
    const float e = expf(x);
    return {e, e};
  }
};

}  // namespace lathe::cuda
