// The JavaScript class `Session`: arguments in, promises out; see src/runtime/native.d.ts for the types.
#pragma once
#include <napi.h>

#include <memory>

#include "addon/environment.h"
#include "engine/session.h"

namespace lathe::addon {

class SessionObject : public Napi::ObjectWrap<SessionObject> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit SessionObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::Env env) override;

 private:
  Napi::Value define_state(const Napi::CallbackInfo& info);
  Napi::Value drop_state(const Napi::CallbackInfo& info);
  Napi::Value states(const Napi::CallbackInfo& info);
  Napi::Value load_program(const Napi::CallbackInfo& info);
  Napi::Value release_program(const Napi::CallbackInfo& info);
  Napi::Value run(const Napi::CallbackInfo& info);
  Napi::Value read_state(const Napi::CallbackInfo& info);
  Napi::Value write_state(const Napi::CallbackInfo& info);
  Napi::Value all_gather(const Napi::CallbackInfo& info);
  Napi::Value broadcast(const Napi::CallbackInfo& info);
  Napi::Value release_files(const Napi::CallbackInfo& info);
  Napi::Value set_profiling(const Napi::CallbackInfo& info);
  Napi::Value profile(const Napi::CallbackInfo& info);
  Napi::Value reset_profile(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  Binding bind(Napi::Env env, Napi::Value value, const PortSpec& port, const LoadedProgram& loaded);
  // Tells the garbage collector what this object holds.
  void report_memory(Napi::Env env);
  // Submits `work(done)`; the promise resolves with `keep` or undefined.
  template <class Work>
  Napi::Promise promise_of(Napi::Env env, Napi::Value keep, Work&& work);

  std::shared_ptr<Environment> environment_;
  std::shared_ptr<Session> session_;
  int64_t reported_bytes_ = 0;
};

}  // namespace lathe::addon
