// What every CUDA kernel file shares: element types, checks at prepare time, launching, block reductions.
//
// Invariants
// - fp32 arithmetic, one rounding (nearest even) when a value is stored.
// - Results depend on shapes only: reductions have a fixed tree, no atomics, and nothing depends on the device's size.
// - `run` launches and returns. It allocates nothing and waits for nothing.
// - Grids are sized from shapes; a kernel whose tensor is empty is not launched.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "lathe/kernel.h"
#include "cuda/ptx.cuh"
#include "cuda/runtime.h"

namespace lathe::cuda {

#define LATHE_CUDA_KERNEL(name, prepare, run) \
  static const ::lathe::KernelRegistration lathe_cuda_##name(::lathe::DeviceSpec::Kind::Cuda, {#name, prepare, run})

// ---- element types: bf16 and f16 are bit patterns, converted by these

struct Bf16 { uint16_t bits; };
struct F16 { uint16_t bits; };

__device__ __forceinline__ float load(const float& x) { return x; }
__device__ __forceinline__ float load(const Bf16& x) { return bits_float(uint32_t(x.bits) << 16); }
__device__ __forceinline__ float load(const F16& x) { return half_float(x.bits); }
__device__ __forceinline__ void store(float* p, float x) { *p = x; }
__device__ __forceinline__ void store(Bf16* p, float x) { p->bits = round_bf16(float_bits(x)); }
__device__ __forceinline__ void store(F16* p, float x) { p->bits = float_half(x); }

// Any float dtype, chosen at run time; `dtype` is uniform across a launch.
__device__ __forceinline__ float load_as(const void* p, int64_t i, int dtype) {
  if (dtype == int(DType::F32)) return static_cast<const float*>(p)[i];
  if (dtype == int(DType::BF16)) return load(static_cast<const Bf16*>(p)[i]);
  return load(static_cast<const F16*>(p)[i]);
}
__device__ __forceinline__ void store_as(void* p, int64_t i, int dtype, float x) {
  if (dtype == int(DType::F32)) static_cast<float*>(p)[i] = x;
  else if (dtype == int(DType::BF16)) store(static_cast<Bf16*>(p) + i, x);
  else store(static_cast<F16*>(p) + i, x);
}

// fn(T{}) for the type of a float dtype.
template <class F>
auto with_float(DType d, F&& fn) {
  return d == DType::BF16 ? fn(Bf16{}) : fn(float{});
}
template <class F>
auto with_any_float(DType d, F&& fn) {
  return d == DType::BF16 ? fn(Bf16{}) : d == DType::F16 ? fn(F16{}) : fn(float{});
}

// Kernel arguments: a fixed number of pointers.
template <int N>
struct Inputs { const void* p[N == 0 ? 1 : N]; };
template <int N>
struct Outputs { void* p[N == 0 ? 1 : N]; };

// ---- prepare (the same rules and words as native/cpu/common.h)

#define LATHE_EXPECT(node, condition, message)             \
  do {                                                     \
    if (!(condition)) return (node).fail(message);         \
  } while (0)

inline const char* name_of(DType d) {
  static const char* const names[] = {"f32", "bf16", "f16", "i32", "u8"};
  return names[int(d)];
}
inline std::string describe(const TensorType& t) {
  std::string s = std::string(name_of(t.dtype)) + " [";
  for (int i = 0; i < t.rank; i++) s += (i ? ", " : "") + std::to_string(t.shape[i]);
  return s + "]";
}
inline bool is_float(const TensorType& t) { return t.dtype == DType::F32 || t.dtype == DType::BF16; }
inline bool same_shape(const TensorType& a, const TensorType& b) {
  if (a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; i++)
    if (a.shape[i] != b.shape[i]) return false;
  return true;
}
inline bool same_type(const TensorType& a, const TensorType& b) { return a.dtype == b.dtype && same_shape(a, b); }
inline Status expect_arity(const NodeView& n, size_t inputs, size_t outputs) {
  if (n.inputs.size() == inputs && n.outputs.size() == outputs) return ok_status();
  return n.fail("expected " + std::to_string(inputs) + " inputs and " + std::to_string(outputs) + " outputs, got " +
                std::to_string(n.inputs.size()) + " and " + std::to_string(n.outputs.size()));
}
inline Status expect_float(const NodeView& n, const TensorType& t, const char* what) {
  if (is_float(t)) return ok_status();
  return n.fail(std::string(what) + " must be f32 or bf16, got " + describe(t));
}
inline Status expect_same(const NodeView& n, const TensorType& a, const TensorType& b, const char* what) {
  if (same_type(a, b)) return ok_status();
  return n.fail(std::string(what) + " must be " + describe(a) + ", got " + describe(b));
}
// dtype with exactly `count` elements, any rank.
inline Status expect_vector(const NodeView& n, const TensorType& t, DType d, int64_t count, const char* what) {
  if (t.dtype == d && t.numel() == count) return ok_status();
  return n.fail(std::string(what) + " must hold " + std::to_string(count) + " " + name_of(d) + ", got " + describe(t));
}
inline Status expect_scratch(const NodeView& n, int64_t need) {
  if (n.scratch_bytes >= need) return ok_status();
  return n.fail("needs " + std::to_string(need) + " bytes of scratch, the plan grants " +
                std::to_string(n.scratch_bytes));
}
inline bool has_output(const NodeView& n, size_t i) {
  return i < n.outputs.size() && (i >= n.output_present.size() || n.output_present[i]);
}
inline Status flag(NodeView& n, const char* key, bool* out) {
  int64_t v = 0;
  LATHE_TRY(n.attributes.integer(key, &v));
  LATHE_EXPECT(n, v == 0 || v == 1, std::string("attribute ") + key + " must be 0 or 1, got " + std::to_string(v));
  *out = v == 1;
  return ok_status();
}
inline Status word(NodeView& n, const char* key, uint32_t* out) {
  int64_t v = 0;
  LATHE_TRY(n.attributes.integer(key, &v));
  LATHE_EXPECT(n, v >= 0 && v <= 0xffffffffll, std::string("attribute ") + key + " must be a u32");
  *out = uint32_t(v);
  return ok_status();
}

// ---- launch

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline Queue* queue_of(Stream& stream) { return static_cast<Queue*>(stream.handle); }

#if defined(LATHE_CUDA_ON_HOST)
struct Grid {
  unsigned x, y, z;
  Grid(int64_t x_, int64_t y_ = 1, int64_t z_ = 1) : x(unsigned(x_)), y(unsigned(y_)), z(unsigned(z_)) {}
};
template <class... P, class... A>
Status launch(Stream&, void (*kernel)(P...), Grid grid, unsigned threads, size_t shared_bytes, A... args) {
  if (::shim::launch(kernel, dim3(grid.x, grid.y, grid.z), threads, shared_bytes, P(args)...)) return ok_status();
  Status status = device_error("host shim: " + ::shim::problem());
  ::shim::clear_problem();
  return status;
}
#else
struct Grid {
  unsigned x, y, z;
  Grid(int64_t x_, int64_t y_ = 1, int64_t z_ = 1) : x(unsigned(x_)), y(unsigned(y_)), z(unsigned(z_)) {}
};
Status launch_raw(Stream& stream, const void* kernel, unsigned x, unsigned y, unsigned z, unsigned threads,
                  size_t shared_bytes, void** arguments);
template <class... P, class... A>
Status launch(Stream& stream, void (*kernel)(P...), Grid grid, unsigned threads, size_t shared_bytes, A... args) {
  static_assert(sizeof...(P) == sizeof...(A));
  return [&](P... values) {
    void* arguments[] = {static_cast<void*>(&values)...};
    return launch_raw(stream, reinterpret_cast<const void*>(kernel), grid.x, grid.y, grid.z, threads, shared_bytes,
                      arguments);
  }(P(args)...);
}
#endif

// ---- reductions over a block, in a fixed tree; every thread gets the result. `scratch`: one value per warp (32).

template <class T, class Op>
__device__ __forceinline__ T warp_reduce(T v, Op op) {
  for (int mask = 16; mask > 0; mask /= 2) v = op(v, warp_shuffle_xor(v, mask));
  return v;
}
template <class T, class Op>
__device__ __forceinline__ T block_reduce(T v, T* scratch, Op op) {
  v = warp_reduce(v, op);
  const int warps = blockDim.x / 32;
  if (warps == 1) return v;
  block_sync();  // an earlier reduction may still be read
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  block_sync();
  T all = scratch[0];
  for (int i = 1; i < warps; i++) all = op(all, scratch[i]);
  return all;
}
struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const { return a + b; }
};
struct Max {
  template <class T>
  __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

}  // namespace lathe::cuda
