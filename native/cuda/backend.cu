// The CUDA backend's entry: devices, memory, streams, and the table that the engine reads (lathe/module.h).
//
// cudart is linked statically and finds the driver at run time: without one every call fails with a code and the
// backend reports 0 devices. One stream per session. Memory is allocated zeroed, as the engine promises of state.
#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "cuda/common.cuh"
#include "lathe/module.h"

namespace lathe::cuda {

struct Queue {
  cudaStream_t stream = nullptr;
  int device = 0;
};

namespace {

Status failed(const char* what, cudaError_t error) {
  return device_error(std::string(what) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}
#define LATHE_CUDA_TRY(call, what)                                   \
  do {                                                               \
    const cudaError_t lathe_error_ = (call);                         \
    if (lathe_error_ != cudaSuccess) return failed(what, lathe_error_); \
  } while (0)

}  // namespace

Status open_queue(int device, Queue** out) {
  std::string why;
  const int devices = device_count(&why);
  if (devices == 0) return device_error("no CUDA device: " + why + ": use --device cpu");
  if (device >= devices) {
    return device_error("cuda:" + std::to_string(device) + " does not exist: this process sees " +
                        std::to_string(devices) + " (CUDA_VISIBLE_DEVICES counts)");
  }
  LATHE_CUDA_TRY(cudaSetDevice(device), "selecting the device");
  auto* queue = new Queue;
  queue->device = device;
  const cudaError_t error = cudaStreamCreateWithFlags(&queue->stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) {
    delete queue;
    return failed("creating a stream", error);
  }
  *out = queue;
  return ok_status();
}

void close_queue(Queue* queue) {
  if (!queue) return;
  cudaSetDevice(queue->device);
  cudaStreamSynchronize(queue->stream);
  cudaStreamDestroy(queue->stream);
  delete queue;
}

void activate_device(int device) { cudaSetDevice(device); }
int queue_device(const Queue* queue) { return queue->device; }

Status allocate_device(int device, uint64_t bytes, void** out) {
  LATHE_CUDA_TRY(cudaSetDevice(device), "selecting the device");
  const size_t asked = bytes ? bytes : 1;
  LATHE_CUDA_TRY(cudaMalloc(out, asked), "cudaMalloc");
  cudaError_t error = cudaMemset(*out, 0, asked);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();  // the session's stream does not wait for this one
  if (error == cudaSuccess) return ok_status();
  cudaFree(*out);
  return failed("clearing memory", error);
}

void release_device(int device, void* data) {
  cudaSetDevice(device);
  cudaFree(data);
}

Status copy_queued(Queue* queue, void* to, const void* from, uint64_t bytes, CopyKind kind) {
  const cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice};
  LATHE_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kinds[int(kind)], queue->stream), "a copy");
  return ok_status();
}

Status zero_queued(Queue* queue, void* to, uint64_t bytes) {
  LATHE_CUDA_TRY(cudaMemsetAsync(to, 0, bytes, queue->stream), "clearing memory");
  return ok_status();
}

Status wait_queue(Queue* queue) {
  LATHE_CUDA_TRY(cudaStreamSynchronize(queue->stream), "a kernel or copy failed");
  return ok_status();
}

int device_count(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  *why = error == cudaSuccess                      ? "the driver lists none"
         : error == cudaErrorInsufficientDriver    ? "no NVIDIA driver, or one older than this build's CUDA"
         : error == cudaErrorNoDevice              ? "the driver lists none (see CUDA_VISIBLE_DEVICES)"
                                                   : cudaGetErrorString(error);
  return 0;
}

Status describe_device(int device, DeviceInfo* out) {
  cudaDeviceProp properties;
  LATHE_CUDA_TRY(cudaGetDeviceProperties(&properties, device), "reading the device's properties");
  out->name = properties.name;
  out->memory_bytes = properties.totalGlobalMem;
  out->major = properties.major;
  out->minor = properties.minor;
  int before = 0;
  cudaGetDevice(&before);
  size_t free_bytes = 0, total = 0;
  LATHE_CUDA_TRY(cudaSetDevice(device), "selecting the device");
  LATHE_CUDA_TRY(cudaMemGetInfo(&free_bytes, &total), "asking for free memory");
  cudaSetDevice(before);
  out->free_bytes = free_bytes;
  return ok_status();
}

#if !defined(LATHE_CUDA_ON_HOST)
Status launch_raw(Stream& stream, const void* kernel, unsigned x, unsigned y, unsigned z, unsigned threads,
                  size_t shared_bytes, void** arguments) {
  if (shared_bytes > 48 * 1024) {
    LATHE_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)),
                   "asking for shared memory");
  }
  LATHE_CUDA_TRY(cudaLaunchKernel(kernel, dim3(x, y, z), dim3(threads), arguments, shared_bytes, queue_of(stream)->stream),
                 "launching a kernel");
  return ok_status();
}
#endif

const char* built_for() {
#if defined(LATHE_CUDA_ON_HOST)
  return "the host (shim)";
#elif defined(LATHE_CUDA_BUILT_FOR)
  return LATHE_CUDA_BUILT_FOR;
#else
  return "unknown architectures";
#endif
}

namespace {

Status open(const DeviceSpec& device, Stream* stream) {
  Queue* queue = nullptr;
  LATHE_TRY(open_queue(device.index, &queue));
  stream->handle = queue;
  return ok_status();
}
void close(Stream* stream) {
  close_queue(queue_of(*stream));
  stream->handle = nullptr;
}
void activate(Stream& stream) { activate_device(queue_device(queue_of(stream))); }
Status copy(Stream& stream, void* to, const void* from, uint64_t bytes, CopyKind kind) {
  return copy_queued(queue_of(stream), to, from, bytes, kind);
}
Status synchronize(Stream& stream) { return wait_queue(queue_of(stream)); }

}  // namespace

}  // namespace lathe::cuda

extern "C" __attribute__((visibility("default"))) const lathe::BackendModule* lathe_backend_module(uint32_t abi) {
  using namespace lathe;
  if (abi != kModuleAbi) return nullptr;
  // Leaked: threads may still run while the process exits.
  static const BackendModule* const module = [] {
    auto* kernels = new std::vector<Kernel>;
    const Registry& registry = Registry::of(DeviceSpec::Kind::Cuda);
    for (const std::string& name : registry.names()) kernels->push_back(*registry.find(name));
    auto* table = new BackendModule;
    table->built = cuda::built_for();
    table->backend = {cuda::open, cuda::close, cuda::activate, cuda::allocate_device, cuda::release_device,
                      cuda::copy, cuda::synchronize, cuda::device_count, cuda::describe_device};
    table->kernels = kernels->data();
    table->kernel_count = kernels->size();
    return table;
  }();
  return module;
}
