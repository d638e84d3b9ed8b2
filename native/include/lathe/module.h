// The boundary between the engine and a backend in a shared object of its own (build/Release/lathe_cuda.so).
//
// The module exports one C function. It returns a table that lives as long as the process: the module is opened
// with RTLD_NODELETE, because plans hold objects whose code lies in it. Both sides are compiled from the same tree by
// the same compiler, which `kModuleAbi` and `size` guard: raise the number when a header of lathe/ changes.
#pragma once
#include <cstddef>
#include <cstdint>

#include "lathe/backend.h"
#include "lathe/kernel.h"

namespace lathe {

constexpr uint32_t kModuleAbi = 2;
constexpr const char* kModuleEntry = "lathe_backend_module";

struct BackendModule {
  uint32_t abi = kModuleAbi;
  uint32_t size = sizeof(BackendModule);
  const char* built = "";  // what it was compiled for, for `lathe doctor`
  std::string (*libraries)() = nullptr;  // which of the vendor's libraries are in use, likewise
  Backend backend;
  const Kernel* kernels = nullptr;
  size_t kernel_count = 0;
};

using BackendModuleEntry = const BackendModule* (*)(uint32_t abi);

}  // namespace lathe
