// Addon functions register themselves, as kernels do: a file defines `Napi::Value f(const Napi::CallbackInfo&)` and
// says LATHE_ADDON_FUNCTION("name", f). Nothing central lists them; src/runtime/native.d.ts types them.
#pragma once
#include <napi.h>

#include <map>
#include <string>

namespace lathe::addon {

using AddonFunction = Napi::Value (*)(const Napi::CallbackInfo&);

inline std::map<std::string, AddonFunction>& addon_functions() {
  static auto* const all = new std::map<std::string, AddonFunction>;  // leaked: see Registry
  return *all;
}

struct AddonFunctionRegistration {
  AddonFunctionRegistration(const char* name, AddonFunction function) { addon_functions()[name] = function; }
};

#define LATHE_ADDON_FUNCTION(name, function) \
  static const ::lathe::addon::AddonFunctionRegistration lathe_addon_##function(name, function)

}  // namespace lathe::addon
