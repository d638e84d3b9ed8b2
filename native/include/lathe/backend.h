// How the engine opens a device without knowing it: a backend registers one pair of functions per device kind.
//
// `open` makes what kernels need in `Stream` (the CPU's worker pool, a CUDA stream); `close` frees it. Both are
// called by the session that owns the stream, `close` on the engine's thread after the last kernel.
#pragma once
#include "lathe/kernel.h"
#include "lathe/status.h"
#include "lathe/types.h"

namespace lathe {

struct Backend {
  Status (*open)(const DeviceSpec& device, Stream* stream) = nullptr;
  void (*close)(Stream* stream) = nullptr;

  // The backend of this kind; `open` is null when none is part of this build.
  static Backend& of(DeviceSpec::Kind kind);
};

struct BackendRegistration {
  BackendRegistration(DeviceSpec::Kind kind, const Backend& backend) { Backend::of(kind) = backend; }
};

}  // namespace lathe
