// The runtime calls of native/cuda/backend.cu, on the host shim: one device, whose memory is the heap. Found instead of
// NVIDIA's header of the same name when the shim is compiled.
#pragma once
#include <cstddef>
#include <cstdio>
#include <cstring>

#include <algorithm>
#include <functional>
#include <vector>

#include "shim.h"

using cudaError_t = int;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorInsufficientDriver = 35, cudaErrorNoDevice = 100, cudaErrorLaunchFailure = 719, cudaErrorUnknown = 999 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
using cudaStream_t = int*;
enum { cudaStreamNonBlocking = 1 };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor;
};

inline const char* cudaGetErrorName(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : e == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "error"; }
inline const char* cudaGetErrorString(cudaError_t) {
  static std::string text;
  text = "from the host shim" + (shim::problem().empty() ? std::string() : ": " + shim::problem());
  shim::clear_problem();
  return text.c_str();
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* d) { return *d = 0, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
// One device, or as many as CUDA_VISIBLE_DEVICES lists.
inline cudaError_t cudaGetDeviceCount(int* n) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  *n = 1;
  if (visible) *n = *visible && *visible != '-' ? 1 + int(std::count(visible, visible + std::strlen(visible), ',')) : 0;
  return *n ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return *s = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return shim::failed() || !shim::problem().empty() ? cudaErrorLaunchFailure : cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** p, size_t n) { return (*p = shim::allocate(n)) ? cudaSuccess : cudaErrorMemoryAllocation; }
inline cudaError_t cudaFree(void* p) { return shim::release(p), cudaSuccess; }
inline cudaError_t cudaMemset(void* p, int v, size_t n) { return std::memset(p, v, n), cudaSuccess; }
// In stream order: recorded while a graph is, dropped once the device has failed.
template <class F>
cudaError_t shim_in_order(F work) {
  if (shim::recording()) shim::record(work);
  else if (!shim::failed()) work();
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t) { return shim_in_order([=] { std::memset(p, v, n); }); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) { return shim_in_order([=] { std::memcpy(to, from, n); }); }
inline int shim_write_value(cudaStream_t, unsigned long long address, uint32_t value, unsigned) { return shim_in_order([=] { *reinterpret_cast<volatile uint32_t*>(address) = value; }); }
using cudaEvent_t = int*;
enum { cudaEventDisableTiming = 2, cudaHostAllocMapped = 2 };
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return *e = nullptr, cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { return (*p = std::malloc(n)) ? cudaSuccess : cudaErrorMemoryAllocation; }
inline cudaError_t cudaFreeHost(void* p) { return std::free(p), cudaSuccess; }
inline cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) { return *device = host, cudaSuccess; }
struct shim_graph { std::vector<std::function<void()>> work; };
using cudaGraph_t = shim_graph*;
using cudaGraphExec_t = shim_graph*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) { return *e = new shim_graph(*g), cudaSuccess; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { return delete e, cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t) {
  for (auto& work : e->work) work();
  return cudaSuccess;
}
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
// LATHE_SHIM_SHARED: another device's limit, e.g. 65536 of sm_75.
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) {
  const char* text = std::getenv("LATHE_SHIM_SHARED");
  return *value = text && *text ? std::atoi(text) : 227 * 1024, cudaSuccess;
}
// LATHE_SHIM_MEMORY: bytes of the device; all of them are always free.
inline size_t shim_memory() {
  const char* text = std::getenv("LATHE_SHIM_MEMORY");
  return text && *text ? std::strtoull(text, nullptr, 10) : size_t(16) << 30;
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = shim_memory(), cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::snprintf(p->name, sizeof p->name, "host shim");
  p->totalGlobalMem = shim_memory();
  p->major = 9, p->minor = 0;
  return cudaSuccess;
}
