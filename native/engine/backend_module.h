// Opens the CUDA backend's shared object at run time, once per process.
//
// It is looked for at LATHE_CUDA_MODULE, else beside the addon (lathe_cuda.so). Its absence is not an error until a
// session asks for the device: the addon must load, and list its devices, on a machine that never saw CUDA.
#pragma once
#include <string>
#include <vector>

#include "lathe/backend.h"
#include "lathe/status.h"

namespace lathe {

// After this, Backend::of(kind) and Registry::of(kind) are filled in, or the Status says why not. The CPU is always
// there. Thread-safe; the outcome of the first call is kept.
Status ensure_backend(DeviceSpec::Kind kind);

struct CudaReport {
  bool module = false;      // the shared object was opened
  std::string module_path;
  std::string built;        // architectures
  std::string libraries;    // of the vendor, where there is a device
  std::string problem;      // why there is no device; empty when there is one
  std::vector<DeviceInfo> devices;
  std::vector<std::string> kernels;
};
CudaReport cuda_report();

}  // namespace lathe
