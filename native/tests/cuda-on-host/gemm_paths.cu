// Every way of native/cuda/gemm.cu against plain loops: orientations, several terms, 4-bit and fp32 operands, few rows,
// operands cut into chunks and panels (with limits so small that small matrices are cut), bias and addend. With
// LATHE_CUBLASLT naming the stand-in, the same through that. Exit status 0 when all is as expected.
//
// Values are small whole numbers (scales too), so sums are exact in any order and every way must give the same bits.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/cublaslt.h"
#include "cuda/gemm_device.cuh"

namespace lathe::cuda {
namespace {

int failures = 0, checked = 0;
uint32_t state = 1;
int next(int below) { return int((state = state * 1664525u + 1013904223u) >> 8) % below; }

struct Memory {
  std::vector<void*> all;
  template <class T>
  T* get(int64_t n) {
    all.push_back(shim::allocate(size_t(n) * sizeof(T)));
    return static_cast<T*>(all.back());
  }
  ~Memory() {
    for (void* p : all) shim::release(p);
  }
};

struct Stored {
  GemmOperand operand;
  std::vector<float> values;  // [rows, cols]
};
// Exact in bf16 and in the 4-bit format below.
Stored make(Memory& memory, int64_t rows, int64_t cols, int format, bool transposed) {
  Stored s;
  s.operand.format = format, s.operand.ld = cols, s.operand.transposed = transposed;
  const int64_t n = rows * cols;
  if (format < kFormatNf4) {
    for (int64_t i = 0; i < n; i++) s.values.push_back(float(next(9) - 4));
    void* data = memory.get<float>(n);
    for (int64_t i = 0; i < n; i++) {
      if (format == int(DType::F32)) static_cast<float*>(data)[i] = s.values[size_t(i)];
      else static_cast<uint16_t*>(data)[i] = round_bf16(float_bits(s.values[size_t(i)]));
    }
    s.operand.data = data;
    return s;
  }
  // Codes of -1, 0 and 1 in nf4, of whole blocks scaled by 1 or 2.
  auto* packed = memory.get<uint8_t>((n + 1) / 2);
  auto* absmax = memory.get<float>((n + 63) / 64);
  for (int64_t b = 0; b < (n + 63) / 64; b++) absmax[b] = float(1 + next(2));
  const int codes[3] = {0, 7, 15};
  for (int64_t i = 0; i < n; i++) {
    const int which = next(3);
    packed[i / 2] = uint8_t(packed[i / 2] | codes[which] << (i % 2 ? 0 : 4));
    s.values.push_back(float(which - 1) * absmax[i / 64]);
  }
  s.operand.data = packed, s.operand.absmax = absmax;
  return s;
}

struct Shape { int64_t k; int a, b; bool ta, tb; };
constexpr int kF32 = int(DType::F32), kBf16 = kFormatBf16;

void check(const char* name, Stream& stream, int64_t m, int64_t n, const std::vector<Shape>& shapes, bool bf16, bool extras, const GemmLimits& limits) {
  Memory memory;
  GemmCall call;
  call.m = m, call.n = n, call.ldc = n, call.c_dtype = kF32, call.term_count = int(shapes.size());
  std::vector<double> want(size_t(m * n), 0);
  for (size_t i = 0; i < shapes.size(); i++) {
    const Shape& s = shapes[i];
    const Stored a = make(memory, s.ta ? s.k : m, s.ta ? m : s.k, s.a, s.ta), b = make(memory, s.tb ? n : s.k, s.tb ? s.k : n, s.b, s.tb);
    call.terms[i] = {a.operand, b.operand, s.k};
    for (int64_t r = 0; r < m; r++)
      for (int64_t c = 0; c < n; c++)
        for (int64_t k = 0; k < s.k; k++)
          want[size_t(r * n + c)] += double(a.values[size_t(s.ta ? k * m + r : r * s.k + k)]) * double(b.values[size_t(s.tb ? c * s.k + k : k * n + c)]);
  }
  auto* c = memory.get<float>(m * n);
  call.c = c;
  call.alpha = extras ? 0.5f : 1.0f;
  if (extras) {
    auto* bias = memory.get<float>(n);
    auto* addend = memory.get<float>(m * n);
    for (int64_t i = 0; i < n; i++) bias[i] = float(next(7));
    for (int64_t i = 0; i < m * n; i++) addend[i] = float(next(11));
    call.bias = bias, call.bias_dtype = kF32, call.addend = addend;
    for (int64_t i = 0; i < m * n; i++) want[size_t(i)] = 0.5 * want[size_t(i)] + double(bias[i % n]) + double(addend[i]);
  }
  // Exactly what is promised, so that more is found.
  const GemmScratch size = gemm_scratch(call, bf16, limits);
  void* scratch = memory.get<char>(size.total);
  const Status status = multiply(stream, call, bf16, scratch, limits);
  int64_t wrong = 0;
  for (int64_t i = 0; i < m * n; i++) wrong += double(c[i]) != want[size_t(i)];
  checked++;
  if (status.ok() && wrong == 0) return;
  failures++;
  std::printf("FAILED  %s: %s, %lld of %lld values are wrong\n", name, status.message().c_str(), static_cast<long long>(wrong), static_cast<long long>(m * n));
}

int test_all() {
  Queue* queue = nullptr;
  if (!open_queue(0, &queue).ok()) return 1;
  Stream stream;
  stream.handle = queue;
  const GemmLimits whole, cut{16 * 80, 32 * 80, 8, 16};
  for (const GemmLimits& limits : {whole, cut}) {
    for (bool ta : {false, true})
      for (bool tb : {false, true}) {
        check("bf16", stream, 130, 136, {{72, kBf16, kBf16, ta, tb}}, true, false, limits);
        check("bf16, odd", stream, 41, 51, {{37, kBf16, kBf16, ta, tb}}, true, true, limits);
        check("fp32 operands", stream, 40, 48, {{24, kF32, kF32, ta, tb}}, true, true, limits);
        check("fp32 arithmetic", stream, 40, 48, {{24, kF32, kF32, ta, tb}}, false, true, limits);
        check("nf4", stream, 40, 64, {{128, kBf16, kFormatNf4, ta, tb}}, true, true, limits);
        check("nf4, blocks across rows", stream, 40, 24, {{40, kBf16, kFormatNf4, ta, tb}}, true, false, limits);
        check("nf4 with an adapter", stream, 40, 64, {{128, kBf16, kFormatNf4, ta, tb}, {4, kBf16, kF32, ta, tb}}, true, true, limits);
      }
    check("four terms", stream, 64, 72, {{64, kBf16, kFormatNf4, false, false}, {32, kBf16, kFormatNf4, false, false}, {4, kBf16, kF32, false, false}, {3, kF32, kF32, false, false}}, true, true, limits);
    check("terms in several layouts", stream, 64, 72, {{24, kBf16, kBf16, false, true}, {32, kBf16, kBf16, true, false}, {8, kBf16, kF32, false, true}}, true, false, limits);
  }
  for (int64_t m : {1, 7, 8, 9, 17, 32})
    check("few rows", stream, m, 50, {{192, kBf16, kFormatNf4, false, true}, {6, kBf16, kF32, false, true}, {40, kF32, kBf16, false, true}}, true, true, whole);
  std::printf("products (%s): %d checked, %d failed\n", cublaslt_report().c_str(), checked, failures);
  close_queue(queue);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lathe::cuda

int main() { return lathe::cuda::test_all(); }
