// How the engine opens a device without knowing it: a backend registers one table of functions per device kind.
//
// `open` makes what kernels need in `Stream` (the CPU's worker pool, a CUDA stream); `close` frees it. Both are
// called by the session that owns the stream, `close` on the engine's thread after the last kernel.
//
// A backend whose memory is not the host's also fills in the rest; all of it is null for the CPU. Work is ordered by
// its stream: a copy sees what kernels before it wrote. `copy` may return before host memory was read or written;
// after `synchronize` it has been, and errors of kernels that failed on the way are reported.
#pragma once
#include <cstdint>
#include <string>

#include "lathe/kernel.h"
#include "lathe/status.h"
#include "lathe/types.h"

namespace lathe {

struct DeviceInfo {
  std::string name;
  uint64_t memory_bytes = 0;
  uint64_t free_bytes = 0;  // now, of all processes
  int major = 0, minor = 0;  // compute capability
};

enum class CopyKind : uint8_t { ToDevice, ToHost, OnDevice };

struct Backend {
  Status (*open)(const DeviceSpec& device, Stream* stream) = nullptr;
  void (*close)(Stream* stream) = nullptr;

  // Makes the stream's device current on the calling thread.
  void (*activate)(Stream& stream) = nullptr;
  // Zeroed memory, aligned to 256 bytes at least.
  Status (*allocate)(int device, uint64_t bytes, void** out) = nullptr;
  void (*release)(int device, void* data) = nullptr;
  Status (*copy)(Stream& stream, void* to, const void* from, uint64_t bytes, CopyKind kind) = nullptr;
  Status (*synchronize)(Stream& stream) = nullptr;
  // Devices that can be opened; 0 without a driver, and then `why` says so.
  int (*count)(std::string* why) = nullptr;
  Status (*describe)(int device, DeviceInfo* out) = nullptr;

  // Optional. Between the first two, work is recorded instead of done; the recording can then be launched any number of
  // times, with the same pointers. A failed recording leaves the stream as it was.
  Status (*begin_recording)(Stream& stream) = nullptr;
  Status (*end_recording)(Stream& stream, void** recording) = nullptr;
  Status (*launch_recording)(Stream& stream, void* recording) = nullptr;
  void (*release_recording)(int device, void* recording) = nullptr;

  // Optional. The device notes that everything before has been done; the last number so noted can be read from the host
  // at any time, also after the device has failed. kNoMark when there is no way to tell.
  Status (*mark)(Stream& stream, uint32_t number) = nullptr;
  uint32_t (*last_mark)(Stream& stream) = nullptr;
  static constexpr uint32_t kNoMark = 0xffffffffu;

  // Buffers are in memory that the host cannot touch.
  bool separate_memory() const { return allocate != nullptr; }

  // The backend of this kind; `open` is null when none is part of this build.
  static Backend& of(DeviceSpec::Kind kind);
};

struct BackendRegistration {
  BackendRegistration(DeviceSpec::Kind kind, const Backend& backend) { Backend::of(kind) = backend; }
};

}  // namespace lathe
