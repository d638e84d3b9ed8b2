// The addon's entry point: one Environment per Node environment, the Session class, the registered functions.
#include <napi.h>

#include "addon/environment.h"
#include "addon/functions.h"
#include "addon/session_object.h"

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  lathe::addon::Environment::create(env);
  exports.Set("Session", lathe::addon::SessionObject::define(env));
  for (auto& entry : lathe::addon::addon_functions()) {
    exports.Set(entry.first, Napi::Function::New(env, entry.second, entry.first));
  }
  return exports;
}

}  // namespace

NODE_API_MODULE(lathe, init)
