// A stand-in for cuBLASLt on the host: the functions that native/cuda/cublaslt_abi.h declares, in plain loops over
// column-major matrices, refusing what the library refuses. LATHE_CUBLASLT names the built file.
//
// It shows that descriptors, layouts and leading dimensions mean what we think they mean, as far as we have read NVIDIA's
// documentation right. LATHE_CUBLASLT_MOCK=wrong makes every product twice too large, so that a test can tell that it ran.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "cuda/cublaslt_abi.h"

namespace {

using namespace lathe::cuda;
constexpr int kInvalid = 7;  // CUBLAS_STATUS_INVALID_VALUE

struct Description {
  int op_a = lt::kOpN, op_b = lt::kOpN;
  uint32_t epilogue = lt::kEpilogueDefault;
  const void* bias = nullptr;
};
struct Matrix {
  int type;
  uint64_t rows, cols;
  int64_t ld;
};
struct Wish {
  uint64_t workspace = 0;
  uint32_t reductions = 7;
};

float at(const void* data, int type, int64_t i) {
  if (type == lt::kF32) return static_cast<const float*>(data)[i];
  const uint32_t bits = uint32_t(static_cast<const uint16_t*>(data)[i]) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
void put(void* data, int type, int64_t i, float x) {
  if (type == lt::kF32) {
    static_cast<float*>(data)[i] = x;
    return;
  }
  uint32_t u;
  std::memcpy(&u, &x, 4);
  static_cast<uint16_t*>(data)[i] = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t(u >> 16 | 0x40) : uint16_t((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
bool sound(const Matrix& m) { return (m.type == lt::kF32 || m.type == lt::kBf16) && m.rows > 0 && m.cols > 0 && m.ld >= int64_t(m.rows); }

struct Sizes { int64_t m, n, k; };
int sizes_of(const Description& d, const Matrix& a, const Matrix& b, const Matrix& c, const Matrix& out, Sizes* s) {
  if (!sound(a) || !sound(b) || !sound(c) || !sound(out)) return kInvalid;
  s->m = int64_t(d.op_a == lt::kOpT ? a.cols : a.rows), s->k = int64_t(d.op_a == lt::kOpT ? a.rows : a.cols);
  s->n = int64_t(d.op_b == lt::kOpT ? b.rows : b.cols);
  const int64_t kb = int64_t(d.op_b == lt::kOpT ? b.cols : b.rows);
  if (s->k != kb || int64_t(c.rows) != s->m || int64_t(c.cols) != s->n || int64_t(out.rows) != s->m || int64_t(out.cols) != s->n) return kInvalid;
  return a.type == b.type && c.type == out.type ? 0 : kInvalid;
}

}  // namespace

extern "C" {
#define LATHE_MOCK __attribute__((visibility("default")))

LATHE_MOCK int cublasLtCreate(void** h) { return *h = new int(1), 0; }
LATHE_MOCK int cublasLtDestroy(void* h) { return delete static_cast<int*>(h), 0; }
LATHE_MOCK int cublasLtMatmulDescCreate(void** d, int compute, int scale) {
  if (compute != lt::kComputeF32 || scale != lt::kF32) return kInvalid;
  return *d = new Description, 0;
}
LATHE_MOCK int cublasLtMatmulDescDestroy(void* d) { return delete static_cast<Description*>(d), 0; }
LATHE_MOCK int cublasLtMatmulDescSetAttribute(void* raw, int attribute, const void* value, size_t bytes) {
  auto* d = static_cast<Description*>(raw);
  if (attribute == lt::kDescTransA && bytes == 4) return std::memcpy(&d->op_a, value, 4), 0;
  if (attribute == lt::kDescTransB && bytes == 4) return std::memcpy(&d->op_b, value, 4), 0;
  if (attribute == lt::kDescEpilogue && bytes == 4) return std::memcpy(&d->epilogue, value, 4), 0;
  if (attribute == lt::kDescBiasPointer && bytes == 8) return std::memcpy(&d->bias, value, 8), 0;
  return kInvalid;
}
LATHE_MOCK int cublasLtMatrixLayoutCreate(void** l, int type, uint64_t rows, uint64_t cols, int64_t ld) { return *l = new Matrix{type, rows, cols, ld}, 0; }
LATHE_MOCK int cublasLtMatrixLayoutDestroy(void* l) { return delete static_cast<Matrix*>(l), 0; }
LATHE_MOCK int cublasLtMatmulPreferenceCreate(void** p) { return *p = new Wish, 0; }
LATHE_MOCK int cublasLtMatmulPreferenceDestroy(void* p) { return delete static_cast<Wish*>(p), 0; }
LATHE_MOCK int cublasLtMatmulPreferenceSetAttribute(void* raw, int attribute, const void* value, size_t bytes) {
  auto* p = static_cast<Wish*>(raw);
  if (attribute == lt::kPreferWorkspace && bytes == 8) return std::memcpy(&p->workspace, value, 8), 0;
  if (attribute == lt::kPreferReductions && bytes == 4) return std::memcpy(&p->reductions, value, 4), 0;
  return kInvalid;
}
LATHE_MOCK int cublasLtMatmulAlgoGetHeuristic(void*, void* d, void* a, void* b, void* c, void* out, void* wish, int wanted, lt::Heuristic* results, int* found) {
  Sizes s{};
  const int status = sizes_of(*static_cast<Description*>(d), *static_cast<Matrix*>(a), *static_cast<Matrix*>(b), *static_cast<Matrix*>(c), *static_cast<Matrix*>(out), &s);
  if (status != 0 || wanted < 1) return kInvalid;
  results[0] = {};
  results[0].algorithm.data[0] = 0x1a7e;
  results[0].workspace = size_t(static_cast<Wish*>(wish)->workspace);
  *found = 1;
  return 0;
}
LATHE_MOCK int cublasLtMatmul(void*, void* raw, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                              void* d, void* d_layout, const lt::Algorithm* algorithm, void* workspace, size_t workspace_bytes, void*) {
  const Description& p = *static_cast<Description*>(raw);
  const Matrix &ma = *static_cast<Matrix*>(a_layout), &mb = *static_cast<Matrix*>(b_layout), &mc = *static_cast<Matrix*>(c_layout), &md = *static_cast<Matrix*>(d_layout);
  Sizes s{};
  if (sizes_of(p, ma, mb, mc, md, &s) != 0 || algorithm->data[0] != 0x1a7e) return kInvalid;
  for (const void* q : {a, b, c, static_cast<const void*>(d), static_cast<const void*>(workspace)})
    if (!q || reinterpret_cast<uintptr_t>(q) % 16 != 0) return kInvalid;
  if (p.epilogue == lt::kEpilogueBias ? !p.bias : p.epilogue != lt::kEpilogueDefault) return kInvalid;
  std::memset(workspace, 0xff, workspace_bytes < 4096 ? workspace_bytes : 4096);  // it is the library's to write
  static const bool wrong = [] { const char* v = std::getenv("LATHE_CUBLASLT_MOCK"); return v && std::string(v) == "wrong"; }();
  const float times = *static_cast<const float*>(alpha) * (wrong ? 2.0f : 1.0f), plus = *static_cast<const float*>(beta);
  for (int64_t j = 0; j < s.n; j++)
    for (int64_t i = 0; i < s.m; i++) {
      float sum = 0;
      for (int64_t k = 0; k < s.k; k++) {
        const float x = at(a, ma.type, p.op_a == lt::kOpT ? i * ma.ld + k : k * ma.ld + i);
        const float y = at(b, mb.type, p.op_b == lt::kOpT ? k * mb.ld + j : j * mb.ld + k);
        sum = __builtin_fmaf(x, y, sum);
      }
      float v = times * sum;
      if (p.epilogue == lt::kEpilogueBias) v += at(p.bias, md.type, i);
      if (plus != 0) v += plus * at(c, mc.type, j * mc.ld + i);
      put(d, md.type, j * md.ld + i, v);
    }
  return 0;
}
}
