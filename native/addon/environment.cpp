// The life of an environment; the rules are in the header.
#include "addon/environment.h"

#include <algorithm>
#include <system_error>
#include <thread>

#include "addon/convert.h"

namespace lathe::addon {

namespace {

using Holder = std::shared_ptr<Environment>;

// Throws Napi::Error when the promise could not be settled.
void settle_promise(Napi::Env env, PendingCall& call) {
  try {
    Napi::Value value = env.Undefined();
    if (call.keep) {
      napi_value kept = nullptr;
      napi_get_reference_value(env, call.keep, &kept);
      napi_delete_reference(env, call.keep);
      if (kept) value = Napi::Value(env, kept);
    }
    if (!call.status.ok()) {
      call.deferred.Reject(to_error(env, call.status));
    } else {
      call.deferred.Resolve(call.make_result ? call.make_result(env) : value);
    }
  } catch (const Napi::Error& error) {
    call.deferred.Reject(error.Value());
  } catch (const std::exception& error) {
    call.deferred.Reject(to_error(env, device_error(error.what())));
  }
}

}  // namespace

std::shared_ptr<Environment> Environment::create(Napi::Env env) {
  std::shared_ptr<Environment> environment(new Environment);
  // The function's own teardown runs after our hook, because hooks run in reverse order of registration.
  napi_value name = Napi::String::New(env, "lathe");
  napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, environment.get(), call_js,
                                      &environment->function_);
  if (status != napi_ok) throw Napi::Error::New(env, "lathe: cannot create a thread-safe function");
  napi_unref_threadsafe_function(env, environment->function_);
  napi_add_env_cleanup_hook(env, cleanup, new Holder(environment));
  env.SetInstanceData<Holder>(new Holder(environment));
  return environment;
}

std::shared_ptr<Environment> Environment::of(Napi::Env env) { return *env.GetInstanceData<Holder>(); }

void Environment::cleanup(void* data) {
  std::unique_ptr<Holder> holder(static_cast<Holder*>(data));
  Environment& self = **holder;
  {
    std::lock_guard<std::mutex> lock(self.gate_->mutex);
    self.gate_->closed = true;
  }
  {
    std::lock_guard<std::mutex> lock(self.mutex_);
    self.closed_ = true;
  }
  for (auto& weak : self.sessions_) {
    if (auto session = weak.lock()) session->abandon();
  }
}

void Environment::adopt(const std::shared_ptr<Session>& session) {
  auto expired = [](const std::weak_ptr<Session>& weak) { return weak.expired(); };
  sessions_.erase(std::remove_if(sessions_.begin(), sessions_.end(), expired), sessions_.end());
  sessions_.push_back(session);
}

Napi::Promise Environment::begin(Napi::Env env, PendingCall** out, Napi::Value keep) {
  auto call = std::make_unique<PendingCall>(env);
  if (!keep.IsEmpty() && napi_create_reference(env, keep, 1, &call->keep) != napi_ok) {
    throw Napi::Error::New(env, "lathe: cannot keep a result alive");
  }
  if (pending_++ == 0) napi_ref_threadsafe_function(env, function_);
  Napi::Promise promise = call->deferred.Promise();
  *out = call.release();
  return promise;
}

void Environment::settle(PendingCall* call, const Status& status) {
  call->status = status;
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_ || napi_call_threadsafe_function(function_, call, napi_tsfn_nonblocking) != napi_ok) delete call;
}

void Environment::settle_now(Napi::Env env, PendingCall* call, const Status& status) {
  call->status = status;
  finish(env, call);
}

void Environment::call_js(napi_env env, napi_value, void* context, void* data) {
  auto* call = static_cast<PendingCall*>(data);
  if (env == nullptr) {  // the environment is going away: nobody is left to hear it
    delete call;
    return;
  }
  static_cast<Environment*>(context)->finish(env, call);
}

void Environment::finish(napi_env raw, PendingCall* raw_call) {
  std::unique_ptr<PendingCall> call(raw_call);
  Napi::Env env(raw);
  Napi::HandleScope scope(env);
  if (--pending_ == 0) napi_unref_threadsafe_function(env, function_);
  try {
    settle_promise(env, *call);
  } catch (const Napi::Error&) {
    // A worker that is ending cannot run JavaScript any more, so not even a rejection: nobody is left to hear it.
  }
}

Napi::Promise run_in_background(Napi::Env env, std::function<Status()> work,
                                std::function<Napi::Value(Napi::Env)> result) {
  std::shared_ptr<Environment> environment = Environment::of(env);
  PendingCall* call = nullptr;
  Napi::Promise promise = environment->begin(env, &call);
  call->make_result = std::move(result);
  try {
    std::thread([environment, call, work = std::move(work)] {
      Status status;
      try {
        status = work();
      } catch (const std::bad_alloc&) {
        status = {"ERR_PLAN_MEMORY", "the heap is exhausted"};
      } catch (const std::exception& error) {
        status = device_error(error.what());
      }
      environment->settle(call, status);
    }).detach();
  } catch (const std::system_error& error) {
    environment->settle_now(env, call, device_error(std::string("a thread cannot be started: ") + error.what()));
  }
  return promise;
}

}  // namespace lathe::addon
