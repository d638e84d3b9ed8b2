// The CUDA backend's entry: devices, memory, streams, and the table that the engine reads (lathe/module.h).
//
// cudart is linked statically and finds the driver at run time: without one every call fails with a code and the
// backend reports 0 devices. One stream per session. Memory is allocated zeroed, as the engine promises of state.
//
// Transfers go through pinned memory of the session: two halves for what goes to the device, so that reading a file and
// the transfer of what was read before overlap; a third piece collects what comes back until somebody waits.
// Progress marks are written by the stream itself (cuStreamWriteValue32) into pinned memory, which stays readable when a
// kernel has failed: so the node that failed can be named without waiting for each.
#include "cuda/runtime.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/common.cuh"
#include "cuda/cublaslt.h"
#include "lathe/module.h"

namespace lathe::cuda {

struct Arrival {  // in pinned memory; goes to `to` once the stream has been waited for
  void* to;
  const void* from;
  uint64_t bytes;
};

struct Queue {
  cudaStream_t stream = nullptr;
  int device = 0;
  size_t shared_bytes = 0;
  bool recording = false;
  std::shared_ptr<void> extra;

  static constexpr uint64_t kHalf = uint64_t(8) << 20, kBack = uint64_t(4) << 20;
  char* pinned = nullptr;  // two halves out, one piece back, the mark; null when the host refused
  cudaEvent_t read[2] = {nullptr, nullptr};
  int half = 0;
  uint64_t returned = 0;
  std::vector<Arrival> arrivals;
  volatile uint32_t* mark = nullptr;
  unsigned long long mark_on_device = 0;
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

// cuStreamWriteValue32, from the driver that cudart has loaded.
using WriteValue = int (*)(cudaStream_t, unsigned long long address, uint32_t value, unsigned flags);
WriteValue write_value() {
#if defined(LATHE_CUDA_ON_HOST)
  return shim_write_value;
#else
  static const WriteValue function = [] {
    void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    void* symbol = driver ? dlsym(driver, "cuStreamWriteValue32_v2") : nullptr;
    if (driver && !symbol) symbol = dlsym(driver, "cuStreamWriteValue32");
    return reinterpret_cast<WriteValue>(symbol);
  }();
  return function;
#endif
}

// Without pinned memory transfers are slower and errors less exact; nothing else.
void open_staging(Queue* queue) {
  void* place = nullptr;
  if (cudaHostAlloc(&place, 2 * Queue::kHalf + Queue::kBack + 256, cudaHostAllocMapped) != cudaSuccess) {
    cudaGetLastError();
    return;
  }
  for (cudaEvent_t& event : queue->read) {
    if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess) continue;
    cudaGetLastError();
    cudaFreeHost(place);
    return;
  }
  queue->pinned = static_cast<char*>(place);
  char* mark = queue->pinned + 2 * Queue::kHalf + Queue::kBack;
  void* on_device = nullptr;
  if (!write_value() || cudaHostGetDevicePointer(&on_device, mark, 0) != cudaSuccess) {
    cudaGetLastError();
    return;
  }
  std::memset(mark, 0, 256);
  queue->mark = reinterpret_cast<volatile uint32_t*>(mark);
  queue->mark_on_device = reinterpret_cast<unsigned long long>(on_device);
}

// Pageable memory in pieces through the two halves: one is filled while the other is on its way.
Status stage_out(Queue* queue, char* to, const char* from, uint64_t bytes) {
  while (bytes > 0) {
    const uint64_t piece = std::min(bytes, Queue::kHalf);
    const int half = queue->half;
    queue->half ^= 1;
    char* staged = queue->pinned + uint64_t(half) * Queue::kHalf;
    LATHE_CUDA_TRY(cudaEventSynchronize(queue->read[half]), "waiting for a transfer");
    std::memcpy(staged, from, piece);
    LATHE_CUDA_TRY(cudaMemcpyAsync(to, staged, piece, cudaMemcpyHostToDevice, queue->stream), "a copy");
    LATHE_CUDA_TRY(cudaEventRecord(queue->read[half], queue->stream), "a copy");
    to += piece, from += piece, bytes -= piece;
  }
  return ok_status();
}
void deliver(Queue* queue) {
  for (const Arrival& a : queue->arrivals) std::memcpy(a.to, a.from, a.bytes);
  queue->arrivals.clear();
  queue->returned = 0;
}

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
  int shared_bytes = 0;
  if (cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) cudaGetLastError();
  queue->shared_bytes = size_t(shared_bytes);
  open_staging(queue);
  *out = queue;
  return ok_status();
}

void close_queue(Queue* queue) {
  if (!queue) return;
  cudaSetDevice(queue->device);
  cudaStreamSynchronize(queue->stream);
  queue->extra.reset();
  for (cudaEvent_t event : queue->read)
    if (event) cudaEventDestroy(event);
  if (queue->pinned) cudaFreeHost(queue->pinned);
  cudaStreamDestroy(queue->stream);
  delete queue;
}

void activate_device(int device) { cudaSetDevice(device); }
int queue_device(const Queue* queue) { return queue->device; }
size_t queue_shared_bytes(const Queue* queue) { return queue->shared_bytes; }

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
  if (queue->pinned && !queue->recording && bytes > 0) {
    if (kind == CopyKind::ToDevice) return stage_out(queue, static_cast<char*>(to), static_cast<const char*>(from), bytes);
    // Large results go straight to their place: they are read once, and the driver stages them itself.
    if (kind == CopyKind::ToHost && bytes <= Queue::kBack - queue->returned) {
      char* staged = queue->pinned + 2 * Queue::kHalf + queue->returned;
      LATHE_CUDA_TRY(cudaMemcpyAsync(staged, from, bytes, cudaMemcpyDeviceToHost, queue->stream), "a copy");
      queue->arrivals.push_back({to, staged, bytes});
      queue->returned += uint64_t(round_up(int64_t(bytes), 64));
      queue->returned = std::min(queue->returned, Queue::kBack);
      return ok_status();
    }
  }
  LATHE_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, kinds[int(kind)], queue->stream), "a copy");
  return ok_status();
}

Status zero_queued(Queue* queue, void* to, uint64_t bytes) {
  LATHE_CUDA_TRY(cudaMemsetAsync(to, 0, bytes, queue->stream), "clearing memory");
  return ok_status();
}

Status wait_queue(Queue* queue) {
  const cudaError_t error = cudaStreamSynchronize(queue->stream);
  if (error != cudaSuccess) {
    queue->arrivals.clear();
    queue->returned = 0;
    return failed("a kernel or copy failed", error);
  }
  deliver(queue);
  return ok_status();
}

std::shared_ptr<void>& queue_extra(Queue* queue) { return queue->extra; }

Status queue_call(Queue* queue, const std::function<Status(void* stream)>& work) {
#if defined(LATHE_CUDA_ON_HOST)
  if (shim::recording()) return shim::record([work] { (void)work(nullptr); }), ok_status();
#endif
  return work(queue->stream);
}

Status begin_recording(Queue* queue) {
  LATHE_CUDA_TRY(cudaStreamBeginCapture(queue->stream, cudaStreamCaptureModeThreadLocal), "starting a graph");
  queue->recording = true;
  return ok_status();
}
Status end_recording(Queue* queue, void** recording) {
  queue->recording = false;
  cudaGraph_t graph = nullptr;
  cudaError_t error = cudaStreamEndCapture(queue->stream, &graph);
  if (error == cudaSuccess && !graph) error = cudaErrorUnknown;
  cudaGraphExec_t executable = nullptr;
  if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, graph, 0);
  if (graph) cudaGraphDestroy(graph);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return failed("recording a graph", error);
  }
  *recording = executable;
  return ok_status();
}
Status launch_recording(Queue* queue, void* recording) {
  LATHE_CUDA_TRY(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), queue->stream), "launching a graph");
  return ok_status();
}
void release_recording(int device, void* recording) {
  cudaSetDevice(device);
  cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recording));
}

Status queue_mark(Queue* queue, uint32_t number) {
  if (!queue->mark) return ok_status();
  const int error = write_value()(queue->stream, queue->mark_on_device, number, 0);
  if (error != 0) queue->mark = nullptr;  // not a reason to fail: errors are less exact from here on
  return ok_status();
}
uint32_t queue_last_mark(const Queue* queue) { return queue->mark ? *queue->mark : Backend::kNoMark; }

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
  if (shared_bytes > queue_of(stream)->shared_bytes)
    return device_error("a kernel needs " + std::to_string(shared_bytes) + " bytes of shared memory per block, the device has " +
                        std::to_string(queue_of(stream)->shared_bytes) + ": heads this wide need a newer GPU in bf16");
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
Status begin(Stream& stream) { return begin_recording(queue_of(stream)); }
Status end(Stream& stream, void** recording) { return end_recording(queue_of(stream), recording); }
Status launch_recorded(Stream& stream, void* recording) { return launch_recording(queue_of(stream), recording); }
Status mark(Stream& stream, uint32_t number) { return queue_mark(queue_of(stream), number); }
uint32_t last_mark(Stream& stream) { return queue_last_mark(queue_of(stream)); }

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
                      cuda::copy, cuda::synchronize, cuda::device_count, cuda::describe_device, cuda::begin, cuda::end,
                      cuda::launch_recorded, cuda::release_recording, cuda::mark, cuda::last_mark};
    table->libraries = [] { return "cuBLASLt " + cuda::cublaslt_report(); };
    table->kernels = kernels->data();
    table->kernel_count = kernels->size();
    return table;
  }();
  return module;
}
