// What every CPU kernel file shares: type checks at prepare time, and cutting work into chunks at run time.
//
// Invariants
// - Chunk bounds depend on shapes only, never on the number of threads, and chunks write disjoint bytes (or are
//   combined in chunk order): so results are bit-equal for any thread count.
// - A tensor of at most one chunk runs on the calling thread without touching the pool.
// - Checks name what was expected and what came; they run once per node, so nothing is checked again in `run`.
#pragma once
#include <algorithm>
#include <cstring>
#include <string>

#include "isa/rows.h"
#include "lathe/kernel.h"
#include "pool.h"

namespace lathe::cpu {

// ---- prepare

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
// dtype with exactly n elements, any rank.
inline bool is_vector(const TensorType& t, DType d, int64_t n) { return t.dtype == d && t.numel() == n; }

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
inline Status expect_vector(const NodeView& n, const TensorType& t, DType d, int64_t count, const char* what) {
  if (is_vector(t, d, count)) return ok_status();
  return n.fail(std::string(what) + " must hold " + std::to_string(count) + " " + name_of(d) + ", got " + describe(t));
}
inline Status expect_scratch(const NodeView& n, int64_t need) {
  if (n.scratch_bytes >= need) return ok_status();
  return n.fail("needs " + std::to_string(need) + " bytes of scratch, the plan grants " +
                std::to_string(n.scratch_bytes));
}
// Optional outputs: `present` may be shorter than `outputs` when all are present.
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
// A u32 in one attribute: seeds and sites come as two halves.
inline Status word(NodeView& n, const char* key, uint32_t* out) {
  int64_t v = 0;
  LATHE_TRY(n.attributes.integer(key, &v));
  LATHE_EXPECT(n, v >= 0 && v <= 0xffffffffll, std::string("attribute ") + key + " must be a u32");
  *out = uint32_t(v);
  return ok_status();
}
// The Activation code of attribute `kind`.
inline Status activation_kind(NodeView& n, int* out) {
  static const char* const names[kActivations] = {"gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid", "exp"};
  std::string kind;
  LATHE_TRY(n.attributes.string("kind", &kind));
  for (int i = 0; i < kActivations; i++)
    if (kind == names[i]) return *out = i, ok_status();
  return n.fail("kind must be gelu, gelu_tanh, relu, silu, tanh, sigmoid or exp, got " + kind);
}

// ---- run

// Elements per chunk: some microseconds of memory traffic, and a row block that stays in the second-level cache.
constexpr int64_t kGrain = 16384;

inline const void* at(const void* p, int64_t i, DType d) { return static_cast<const char*>(p) + i * dtype_bytes(d); }
inline void* at(void* p, int64_t i, DType d) { return static_cast<char*>(p) + i * dtype_bytes(d); }

template <class F>
void parallel_chunks(Stream& stream, int64_t chunks, F&& fn) {
  if (chunks > 1 && stream.pool)
    stream.pool->run(chunks, [&](int64_t chunk, int) { fn(chunk); });
  else
    for (int64_t c = 0; c < chunks; c++) fn(c);
}
// fn(begin, end) over [0, n) in pieces of `grain`.
template <class F>
void parallel_range(Stream& stream, int64_t n, int64_t grain, F&& fn) {
  parallel_chunks(stream, (n + grain - 1) / grain, [&](int64_t c) { fn(c * grain, std::min(n, (c + 1) * grain)); });
}
// fn(begin, end) over rows of `cols` elements, about kGrain elements at a time.
template <class F>
void parallel_rows(Stream& stream, int64_t rows, int64_t cols, F&& fn) {
  parallel_range(stream, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cols)), fn);
}
// Columns of a strip: some cache lines, so that a row's piece is worth a fetch.
constexpr int64_t kStrip = 128;
// fn(first column, columns) over column strips, for sums over rows: each strip goes down all rows in order; when one
// chunk of work is all there is, it is the whole width.
template <class F>
void parallel_strips(Stream& stream, int64_t rows, int64_t cols, F&& fn) {
  if (rows * cols <= kGrain) return fn(int64_t(0), cols);
  parallel_range(stream, cols, kStrip, [&](int64_t begin, int64_t end) { fn(begin, end - begin); });
}

// The same with strips of about an eighth of the columns, 192 to 512 of them: for sums that read a strip's rows along.
template <class F>
void parallel_wide_strips(Stream& stream, int64_t rows, int64_t cols, F&& fn) {
  if (rows * cols <= kGrain) return fn(int64_t(0), cols);
  int64_t width = std::clamp<int64_t>((cols / 8 + 63) / 64 * 64, 192, 512);
  parallel_range(stream, cols, width, [&](int64_t begin, int64_t end) { fn(begin, end - begin); });
}

inline void copy_bytes(Stream& stream, void* to, const void* from, int64_t bytes) {
  if (to == from) return;
  parallel_range(stream, bytes, 4 * kGrain, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, size_t(end - begin));
  });
}
inline void zero_bytes(Stream& stream, void* to, int64_t bytes) {
  parallel_range(stream, bytes, 4 * kGrain, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(to) + begin, 0, size_t(end - begin));
  });
}

}  // namespace lathe::cpu
