// Functions that describe the machine and the process: isa, devices, memory, kernels, defaultThreads.
#include "addon/convert.h"
#include "addon/functions.h"
#include "engine/backend_module.h"
#include "engine/memory.h"
#include "engine/system.h"
#include "lathe/backend.h"
#include "lathe/kernel.h"

namespace lathe::addon {

namespace {

Napi::Array string_array(Napi::Env env, const std::vector<std::string>& list) {
  Napi::Array out = Napi::Array::New(env, list.size());
  for (size_t i = 0; i < list.size(); i++) out.Set(static_cast<uint32_t>(i), Napi::String::New(env, list[i]));
  return out;
}

Napi::Value isa(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("arch", cpu_architecture());
  out.Set("features", string_array(info.Env(), cpu_features()));
  return out;
}

Napi::Value threads(const Napi::CallbackInfo& info) {
  int count = 0;
  check(info.Env(), default_threads(&count));
  return Napi::Number::New(info.Env(), count);
}

Napi::Value devices(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env);
  if (Backend::of(DeviceSpec::Kind::Cpu).open) {
    Napi::Object cpu = Napi::Object::New(env);
    cpu.Set("device", "cpu");
    cpu.Set("name", cpu_name());
    cpu.Set("memoryBytes", static_cast<double>(memory_limit()));
    out.Set(0u, cpu);
  }
  const CudaReport report = cuda_report();
  for (size_t i = 0; i < report.devices.size(); i++) {
    const DeviceInfo& info = report.devices[i];
    Napi::Object gpu = Napi::Object::New(env);
    gpu.Set("device", "cuda:" + std::to_string(i));
    gpu.Set("name", info.name);
    gpu.Set("memoryBytes", static_cast<double>(info.memory_bytes));
    gpu.Set("freeBytes", static_cast<double>(info.free_bytes));
    gpu.Set("heldBytes", static_cast<double>(device_memory_in_use(static_cast<int>(i))));
    out.Set(out.Length(), gpu);
  }
  return out;
}

// What became of the CUDA backend: {module, path, built, libraries, problem, kernels}.
Napi::Value cuda(const Napi::CallbackInfo& info) {
  const CudaReport report = cuda_report();
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("module", report.module);
  out.Set("path", report.module_path);
  out.Set("built", report.built);
  out.Set("libraries", report.libraries);
  out.Set("problem", report.problem);
  out.Set("kernels", string_array(info.Env(), report.kernels));
  return out;
}

Napi::Value memory(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("usedBytes", static_cast<double>(memory_in_use()));
  out.Set("limitBytes", static_cast<double>(memory_limit()));
  return out;
}

Napi::Value kernels(const Napi::CallbackInfo& info) {
  return string_array(info.Env(), Registry::of(DeviceSpec::Kind::Cpu).names());
}

LATHE_ADDON_FUNCTION("isa", isa);
LATHE_ADDON_FUNCTION("defaultThreads", threads);
LATHE_ADDON_FUNCTION("devices", devices);
LATHE_ADDON_FUNCTION("cuda", cuda);
LATHE_ADDON_FUNCTION("memory", memory);
LATHE_ADDON_FUNCTION("kernels", kernels);

}  // namespace

}  // namespace lathe::addon
