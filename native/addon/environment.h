// Environment: what the addon keeps per Node environment (the main thread, or one worker_thread).
//
// Engine threads outlive environments: a worker may exit in the middle of a step. So everything they need to report
// back sits behind a mutex with a `closed` flag, in an object held by shared_ptr. The environment's cleanup hook
// closes it; after that a finished run is simply dropped. One ThreadSafeFunction per environment carries all
// completions; it keeps the event loop alive only while promises are pending.
#pragma once
#include <napi.h>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/session.h"
#include "lathe/status.h"

namespace lathe::addon {

// A promise that an engine thread will settle. Created, read and deleted on the environment's thread; in between the
// engine only writes `status` and passes the pointer on. Members hold no JavaScript reference with a destructor,
// because a call that outlives its environment is deleted elsewhere.
struct PendingCall {
  explicit PendingCall(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise::Deferred deferred;
  napi_ref keep = nullptr;                             // the value to resolve with, kept alive meanwhile
  std::function<Napi::Value(Napi::Env)> make_result;   // instead of `keep`; runs on the environment's thread
  Status status;
};

class Environment {
 public:
  static std::shared_ptr<Environment> create(Napi::Env env);
  static std::shared_ptr<Environment> of(Napi::Env env);

  // On the environment's thread: a promise, and the call through which it will be settled. `keep`: see PendingCall.
  Napi::Promise begin(Napi::Env env, PendingCall** out, Napi::Value keep = {});
  // On the environment's thread: settles at once, for work that could not be submitted.
  void settle_now(Napi::Env env, PendingCall* call, const Status& status);
  // On any thread, exactly once per call.
  void settle(PendingCall* call, const Status& status);

  // Guards ArrayBuffers of this environment that engine threads write into.
  const std::shared_ptr<Gate>& gate() const { return gate_; }
  // The session is abandoned when the environment goes away.
  void adopt(const std::shared_ptr<Session>& session);

 private:
  Environment() : gate_(std::make_shared<Gate>()) {}
  static void call_js(napi_env env, napi_value callback, void* context, void* data);
  static void cleanup(void* data);
  void finish(napi_env env, PendingCall* call);

  std::mutex mutex_;  // closed_ and function_
  bool closed_ = false;
  napi_threadsafe_function function_ = nullptr;
  std::shared_ptr<Gate> gate_;
  size_t pending_ = 0;                             // environment's thread only
  std::vector<std::weak_ptr<Session>> sessions_;   // environment's thread only
};

// Runs `work` on a thread of its own and settles a promise with what `result` makes of it. For long native work that
// is not a session's: never on libuv's four threads.
Napi::Promise run_in_background(Napi::Env env, std::function<Status()> work,
                                std::function<Napi::Value(Napi::Env)> result);

}  // namespace lathe::addon
