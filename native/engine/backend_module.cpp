// dlopen of a backend. The tables it fills are the leaked ones of registry.cpp.
#include "engine/backend_module.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>

#include "lathe/kernel.h"
#include "lathe/module.h"

namespace lathe {

namespace {

struct Module {
  Status status;
  std::string path;
  const BackendModule* table = nullptr;
};

std::string beside_this_library(const char* name) {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&beside_this_library), &info) == 0 || !info.dli_fname) return name;
  const std::string self = info.dli_fname;
  const size_t slash = self.rfind('/');
  return slash == std::string::npos ? name : self.substr(0, slash + 1) + name;
}

Module open_module() {
  Module module;
  const char* chosen = std::getenv("LATHE_CUDA_MODULE");
  module.path = chosen && *chosen ? chosen : beside_this_library("lathe_cuda.so");
  void* handle = dlopen(module.path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) {
    const char* why = dlerror();
    module.status = device_error("the CUDA backend could not be opened: " + std::string(why ? why : module.path.c_str()) +
                                 ": build it with `npm run build:cuda` where nvcc is installed");
    return module;
  }
  auto entry = reinterpret_cast<BackendModuleEntry>(dlsym(handle, kModuleEntry));
  const BackendModule* table = entry ? entry(kModuleAbi) : nullptr;
  if (!table || table->abi != kModuleAbi || table->size != sizeof(BackendModule)) {
    module.status = device_error(module.path + " was built from another version: run `npm run build:cuda` again");
    return module;
  }
  Backend::of(DeviceSpec::Kind::Cuda) = table->backend;
  for (size_t i = 0; i < table->kernel_count; i++) Registry::of(DeviceSpec::Kind::Cuda).add(table->kernels[i]);
  module.table = table;
  return module;
}

const Module& cuda_module() {
  static std::mutex mutex;
  static Module* module = nullptr;  // leaked: engine threads may outlive static destructors
  std::lock_guard<std::mutex> lock(mutex);
  if (!module) module = new Module(open_module());
  return *module;
}

}  // namespace

Status ensure_backend(DeviceSpec::Kind kind) {
  return kind == DeviceSpec::Kind::Cuda ? cuda_module().status : ok_status();
}

CudaReport cuda_report() {
  CudaReport report;
  const Module& module = cuda_module();
  report.module_path = module.path;
  if (!module.status.ok()) {
    report.problem = module.status.message();
    return report;
  }
  report.module = true;
  report.built = module.table->built;
  report.kernels = Registry::of(DeviceSpec::Kind::Cuda).names();
  const Backend& backend = Backend::of(DeviceSpec::Kind::Cuda);
  const int count = backend.count(&report.problem);
  if (count > 0 && module.table->libraries) report.libraries = module.table->libraries();
  for (int i = 0; i < count; i++) {
    DeviceInfo info;
    const Status status = backend.describe(i, &info);
    if (!status.ok()) {
      report.problem = status.message();
      break;
    }
    report.devices.push_back(info);
  }
  return report;
}

}  // namespace lathe
