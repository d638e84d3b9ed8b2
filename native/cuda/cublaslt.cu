// Finding cuBLASLt, descriptors per shape, and the call. See cublaslt.h.
//
// The library is column-major: our row-major C = A B is its C' = B' A', so its A is our B. A matrix stored [rows, cols] with
// rows of `ld` is its [cols, rows] with the same leading dimension.
#include "cuda/cublaslt.h"

#include <dlfcn.h>
#include <glob.h>

#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

namespace lathe::cuda {

namespace {

struct Library {
  lt::Functions functions{};
  std::string report;
  bool found = false;
};

std::vector<std::string> candidates() {
  std::vector<std::string> list;
  const std::string names[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
  for (const std::string& name : names) list.push_back(name);
  std::vector<std::string> folders;
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* root = std::getenv(variable); root && *root) folders.push_back(std::string(root) + "/lib64/");
  folders.push_back("/usr/local/cuda/lib64/");
  std::vector<std::string> patterns;
  const auto site = [&](const std::string& root) {
    for (const char* part : {"nvidia/cublas/lib/", "nvidia/cu13/lib/", "torch/lib/"}) patterns.push_back(root + part);
  };
  if (const char* root = std::getenv("VIRTUAL_ENV"); root && *root) site(std::string(root) + "/lib/python3*/site-packages/");
  if (const char* home = std::getenv("HOME"); home && *home) site(std::string(home) + "/.local/lib/python3*/site-packages/");
  site("/usr/local/lib/python3*/dist-packages/"), site("/usr/local/lib/python3*/site-packages/"), site("/usr/lib/python3/dist-packages/");
  for (const std::string& pattern : patterns) {
    glob_t found{};
    if (glob(pattern.c_str(), GLOB_ONLYDIR, nullptr, &found) == 0)
      for (size_t i = 0; i < found.gl_pathc; i++) folders.emplace_back(found.gl_pathv[i]);
    globfree(&found);
  }
  for (std::string folder : folders) {
    if (folder.back() != '/') folder += '/';
    for (const std::string& name : names) list.push_back(folder + name);
  }
  return list;
}

bool resolve(void* handle, lt::Functions* f, std::string* missing) {
  bool all = true;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
    if (!function && all) *missing = name, all = false;
  };
#define LATHE_FIND(name) find(f->name, #name)
  LATHE_FIND(cublasLtCreate), LATHE_FIND(cublasLtDestroy), LATHE_FIND(cublasLtMatmulDescCreate), LATHE_FIND(cublasLtMatmulDescDestroy);
  LATHE_FIND(cublasLtMatmulDescSetAttribute), LATHE_FIND(cublasLtMatrixLayoutCreate), LATHE_FIND(cublasLtMatrixLayoutDestroy);
  LATHE_FIND(cublasLtMatmulPreferenceCreate), LATHE_FIND(cublasLtMatmulPreferenceDestroy), LATHE_FIND(cublasLtMatmulPreferenceSetAttribute);
  LATHE_FIND(cublasLtMatmulAlgoGetHeuristic), LATHE_FIND(cublasLtMatmul);
#undef LATHE_FIND
  return all;
}

Library open_library() {
  Library library;
  const char* chosen = std::getenv("LATHE_CUBLASLT");
  if (chosen && std::string(chosen) == "off") {
    library.report = "off (LATHE_CUBLASLT)";
    return library;
  }
#if defined(LATHE_CUDA_ON_HOST)
  // Only what a test names: the real library has no business with the shim's memory.
  const std::vector<std::string> list = chosen && *chosen ? std::vector<std::string>{chosen} : std::vector<std::string>{};
#else
  const std::vector<std::string> list = chosen && *chosen ? std::vector<std::string>{chosen} : candidates();
#endif
  library.report = "not found: own kernels";
  for (const std::string& path : list) {
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle) {
      if (chosen && *chosen) library.report = std::string("LATHE_CUBLASLT: ") + dlerror() + ": own kernels";
      continue;
    }
    std::string missing;
    if (resolve(handle, &library.functions, &missing)) {
      library.report = path;
      library.found = true;
      break;
    }
    library.report = path + " lacks " + missing + ": own kernels";
  }
  return library;
}

// Leaked: sessions may close while the process exits.
const Library& library() {
  static std::mutex mutex;
  static const Library* opened = nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  if (!opened) opened = new Library(open_library());
  return *opened;
}

// What tells one prepared product from another.
using Key = std::array<int64_t, 12>;
struct Prepared {
  lt::Descriptor descriptor = nullptr;
  lt::Layout a = nullptr, b = nullptr, c = nullptr;
  lt::Heuristic heuristic{};
  bool usable = false;
};

Status failed(const char* what, int status) { return device_error(std::string("cuBLASLt: ") + what + " failed with status " + std::to_string(status)); }
#define LATHE_LT_TRY(call, what)                              \
  do {                                                        \
    const int lathe_lt_status_ = (call);                      \
    if (lathe_lt_status_ != lt::kSuccess) return failed(what, lathe_lt_status_); \
  } while (0)

}  // namespace

struct CublasLt {
  const lt::Functions& f = library().functions;
  lt::Handle handle = nullptr;
  bool usable = false;
  std::map<Key, Prepared> prepared;
  ~CublasLt() {
    for (auto& entry : prepared) {
      Prepared& p = entry.second;
      if (p.a) f.cublasLtMatrixLayoutDestroy(p.a);
      if (p.b) f.cublasLtMatrixLayoutDestroy(p.b);
      if (p.c) f.cublasLtMatrixLayoutDestroy(p.c);
      if (p.descriptor) f.cublasLtMatmulDescDestroy(p.descriptor);
    }
    if (handle) f.cublasLtDestroy(handle);
  }
};

std::string cublaslt_report() { return library().report; }

CublasLt* cublaslt_of(Queue* queue) {
  std::shared_ptr<void>& place = queue_extra(queue);
  if (!place) {
    auto made = std::make_shared<CublasLt>();
    made->usable = library().found && made->f.cublasLtCreate(&made->handle) == lt::kSuccess;
    place = made;
  }
  auto* lt = static_cast<CublasLt*>(place.get());
  return lt->usable ? lt : nullptr;
}

namespace {

Status prepare(CublasLt& lt, const GemmOperand& a, const GemmOperand& b, const GemmCall& call, int64_t k, Prepared* p) {
  const lt::Functions& f = lt.f;
  const auto type = [](int dtype) { return dtype == kFormatBf16 ? lt::kBf16 : lt::kF32; };
  const int op_a = b.transposed ? lt::kOpT : lt::kOpN, op_b = a.transposed ? lt::kOpT : lt::kOpN;
  LATHE_LT_TRY(f.cublasLtMatmulDescCreate(&p->descriptor, lt::kComputeF32, lt::kF32), "MatmulDescCreate");
  LATHE_LT_TRY(f.cublasLtMatmulDescSetAttribute(p->descriptor, lt::kDescTransA, &op_a, sizeof op_a), "setting TRANSA");
  LATHE_LT_TRY(f.cublasLtMatmulDescSetAttribute(p->descriptor, lt::kDescTransB, &op_b, sizeof op_b), "setting TRANSB");
  const uint32_t epilogue = call.bias ? lt::kEpilogueBias : lt::kEpilogueDefault;
  LATHE_LT_TRY(f.cublasLtMatmulDescSetAttribute(p->descriptor, lt::kDescEpilogue, &epilogue, sizeof epilogue), "setting EPILOGUE");
  if (call.bias) LATHE_LT_TRY(f.cublasLtMatmulDescSetAttribute(p->descriptor, lt::kDescBiasPointer, &call.bias, sizeof call.bias), "setting BIAS_POINTER");
  const auto layout = [&](lt::Layout* out, const GemmOperand& o, int64_t rows, int64_t cols) { return f.cublasLtMatrixLayoutCreate(out, type(o.format), uint64_t(cols), uint64_t(rows), o.ld); };
  LATHE_LT_TRY(b.transposed ? layout(&p->a, b, call.n, k) : layout(&p->a, b, k, call.n), "MatrixLayoutCreate");
  LATHE_LT_TRY(a.transposed ? layout(&p->b, a, k, call.m) : layout(&p->b, a, call.m, k), "MatrixLayoutCreate");
  LATHE_LT_TRY(f.cublasLtMatrixLayoutCreate(&p->c, type(call.c_dtype), uint64_t(call.n), uint64_t(call.m), call.ldc), "MatrixLayoutCreate");
  lt::Preference preference = nullptr;
  LATHE_LT_TRY(f.cublasLtMatmulPreferenceCreate(&preference), "MatmulPreferenceCreate");
  const uint64_t workspace = uint64_t(kGemmWorkspace);
  const uint32_t reductions = lt::kReductionComputeType;
  int found = 0;
  int status = f.cublasLtMatmulPreferenceSetAttribute(preference, lt::kPreferWorkspace, &workspace, sizeof workspace);
  if (status == lt::kSuccess) status = f.cublasLtMatmulPreferenceSetAttribute(preference, lt::kPreferReductions, &reductions, sizeof reductions);
  if (status == lt::kSuccess) status = f.cublasLtMatmulAlgoGetHeuristic(lt.handle, p->descriptor, p->a, p->b, p->c, p->c, preference, 1, &p->heuristic, &found);
  f.cublasLtMatmulPreferenceDestroy(preference);
  // No algorithm for these shapes and alignments is not an error: our own kernels take them.
  p->usable = status == lt::kSuccess && found == 1 && p->heuristic.state == lt::kSuccess && p->heuristic.workspace <= size_t(kGemmWorkspace);
  return ok_status();
}

}  // namespace

Status cublaslt_multiply(CublasLt& lt, Stream& stream, const GemmCall& call, bool bf16_compute, void* workspace, bool* done) {
  *done = false;
  const int format = bf16_compute ? kFormatBf16 : int(DType::F32);
  const GemmOperand &a = call.terms[0].a, &b = call.terms[0].b;
  const int64_t k = call.terms[0].k;
  if (call.term_count != 1 || k == 0 || a.format != format || b.format != format || call.c_dtype == int(DType::F16)) return ok_status();
  // The bias of the epilogue has C's type.
  if (call.bias && call.bias_dtype != call.c_dtype) return ok_status();
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  // Algorithms are chosen for pointers of 16 bytes and more.
  if (!aligned(a.data) || !aligned(b.data) || !aligned(call.c) || !aligned(call.addend) || !aligned(call.bias)) return ok_status();
  const Key key{call.m, call.n, k, a.transposed, b.transposed, a.ld, b.ld, call.ldc, format, call.c_dtype, reinterpret_cast<int64_t>(call.bias), call.addend != nullptr};
  auto at = lt.prepared.find(key);
  if (at == lt.prepared.end()) {
    at = lt.prepared.emplace(key, Prepared{}).first;
    LATHE_TRY(prepare(lt, a, b, call, k, &at->second));
  }
  Prepared& p = at->second;
  if (!p.usable) return ok_status();
  const float beta = call.addend ? 1.0f : 0.0f;
  const void* c = call.addend ? call.addend : call.c;
  *done = true;
  return queue_call(queue_of(stream), [&lt, &p, a = a.data, b = b.data, c, d = call.c, alpha = call.alpha, beta, workspace](void* raw) -> Status {
    LATHE_LT_TRY(lt.f.cublasLtMatmul(lt.handle, p.descriptor, &alpha, b, p.a, a, p.b, &beta, c, p.c, d, p.c, &p.heuristic.algorithm, workspace, size_t(kGemmWorkspace), raw), "Matmul");
    return ok_status();
  });
}

}  // namespace lathe::cuda
