// Session's methods: each checks its arguments, calls the engine, and converts what comes back.
#include "addon/session_object.h"

#include <cstring>
#include <set>
#include <utility>

#include "addon/convert.h"
#include "engine/system.h"
#include "lathe/collective.h"

namespace lathe::addon {

namespace {

double as_number(uint64_t value) { return static_cast<double>(value); }

// N of "cuda:N"; 0 of "cuda". Numbers count the devices that CUDA_VISIBLE_DEVICES leaves.
int read_device_index(Napi::Env env, const std::string& text) {
  if (text == "cuda") return 0;
  const bool shaped = text.size() > 5 && text.size() < 9 && text[4] == ':' &&
                      text.find_first_not_of("0123456789", 5) == std::string::npos;
  if (!shaped) throw_status(env, {"ERR_CONFIG", "device: expected cpu, cuda or cuda:N, received '" + text + "'"});
  return std::stoi(text.substr(5));
}

DeviceSpec read_device(Napi::Env env, Napi::Value value) {
  DeviceSpec device;
  Napi::Object options = value.IsObject() ? value.As<Napi::Object>() : Napi::Object::New(env);
  Napi::Value name = options.Get("device");
  const std::string text = name.IsUndefined() ? "cpu" : read_string(env, name, "device");
  if (text == "cpu") {
    device.kind = DeviceSpec::Kind::Cpu;
  } else if (text.rfind("cuda", 0) == 0) {
    device.kind = DeviceSpec::Kind::Cuda;
    device.index = read_device_index(env, text);
  } else {
    throw_status(env, {"ERR_CONFIG", "device: expected cpu, cuda or cuda:N, received '" + text + "'"});
  }
  Napi::Value threads = options.Get("threads");
  if (threads.IsUndefined()) {
    check(env, default_threads(&device.threads));
  } else {
    const uint64_t count = read_size(env, threads, "threads");
    if (count < 1 || count > static_cast<uint64_t>(kMaxThreads)) {
      throw_status(env, {"ERR_CONFIG", "threads: expected 1 to " + std::to_string(kMaxThreads) + ", received " +
                                           std::to_string(count)});
    }
    device.threads = static_cast<int>(count);
  }
  return device;
}

// Every key must be an input of the program, and every input must be there.
void check_names(Napi::Env env, Napi::Object bindings, const LoadedProgram& loaded) {
  std::set<std::string> expected;
  for (const PortSpec& port : loaded.program.inputs) expected.insert(port.name);
  std::string list;
  for (const std::string& name : expected) list += (list.empty() ? "" : ", ") + name;
  Napi::Array keys = bindings.GetPropertyNames();
  size_t matched = 0;
  for (uint32_t i = 0; i < keys.Length(); i++) {
    const std::string key = read_string(env, keys.Get(i), "bindings");
    if (!expected.count(key)) {
      throw_status(env, program_error("program '" + loaded.name + "' has no input '" + key + "'; its inputs are: " + list));
    }
    matched++;
  }
  if (matched == expected.size()) return;
  for (const std::string& name : expected) {
    if (!bindings.HasOwnProperty(name)) {
      throw_status(env, program_error("program '" + loaded.name + "': input '" + name + "' is not bound"));
    }
  }
}

TensorType byte_vector(uint64_t length) {
  TensorType bytes;
  bytes.dtype = DType::U8;
  bytes.rank = 1;
  bytes.shape[0] = static_cast<int64_t>(length);
  return bytes;
}

Status copy_bytes(const ArrayView& view, const std::string& what, std::shared_ptr<Region>* out) {
  LATHE_TRY(Region::allocate(view.bytes, what, out));
  if (view.bytes > 0) std::memcpy((*out)->data(), view.data, view.bytes);
  return ok_status();
}

}  // namespace

Napi::Function SessionObject::define(Napi::Env env) {
  return DefineClass(env, "Session",
                     {
                         InstanceMethod<&SessionObject::define_state>("defineState"),
                         InstanceMethod<&SessionObject::drop_state>("dropState"),
                         InstanceMethod<&SessionObject::states>("states"),
                         InstanceMethod<&SessionObject::load_program>("loadProgram"),
                         InstanceMethod<&SessionObject::release_program>("releaseProgram"),
                         InstanceMethod<&SessionObject::run>("run"),
                         InstanceMethod<&SessionObject::read_state>("readState"),
                         InstanceMethod<&SessionObject::write_state>("writeState"),
                         InstanceMethod<&SessionObject::all_gather>("allGather"),
                         InstanceMethod<&SessionObject::broadcast>("broadcast"),
                         InstanceMethod<&SessionObject::release_files>("releaseFiles"),
                         InstanceMethod<&SessionObject::set_profiling>("setProfiling"),
                         InstanceMethod<&SessionObject::profile>("profile"),
                         InstanceMethod<&SessionObject::reset_profile>("resetProfile"),
                         InstanceMethod<&SessionObject::stats>("stats"),
                         InstanceMethod<&SessionObject::close>("close"),
                     });
}

SessionObject::SessionObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<SessionObject>(info), environment_(Environment::of(info.Env())) {
  check(info.Env(), Session::create(read_device(info.Env(), info[0]), &session_));
  environment_->adopt(session_);
}

void SessionObject::Finalize(Napi::Env env) {
  // A forgotten session: what is queued still runs (its promises are awaited by somebody), then it frees itself.
  if (session_) session_->close({});
  Napi::MemoryManagement::AdjustExternalMemory(env, -reported_bytes_);
}

void SessionObject::report_memory(Napi::Env env) {
  const int64_t now = static_cast<int64_t>(session_->held_bytes());
  Napi::MemoryManagement::AdjustExternalMemory(env, now - reported_bytes_);
  reported_bytes_ = now;
}

Napi::Value SessionObject::define_state(const Napi::CallbackInfo& info) {
  check(info.Env(), session_->define_state(read_slots(info.Env(), info[0])));
  report_memory(info.Env());
  return info.Env().Undefined();
}

Napi::Value SessionObject::drop_state(const Napi::CallbackInfo& info) {
  check(info.Env(), session_->drop_state(read_strings(info.Env(), info[0], "names")));
  report_memory(info.Env());
  return info.Env().Undefined();
}

Napi::Value SessionObject::states(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::vector<StateSpec> specs = session_->states();
  Napi::Array out = Napi::Array::New(env, specs.size());
  for (size_t i = 0; i < specs.size(); i++) {
    Napi::HandleScope scope(env);
    out.Set(static_cast<uint32_t>(i), port_object(env, specs[i].name, specs[i].type));
  }
  return out;
}

Napi::Value SessionObject::load_program(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const ArrayView bytes = read_array(env, info[0], "program");
  const std::string name = info[1].IsUndefined() ? "" : read_string(env, info[1], "name");
  std::shared_ptr<LoadedProgram> loaded;
  check(env, session_->load_program(bytes.data, bytes.bytes, name, &loaded));
  report_memory(env);

  const Program& program = loaded->program;
  auto ports = [&](const std::vector<PortSpec>& list) {
    Napi::Array out = Napi::Array::New(env, list.size());
    for (size_t i = 0; i < list.size(); i++) {
      out.Set(static_cast<uint32_t>(i), port_object(env, list[i].name, program.buffers[list[i].buffer].type));
    }
    return out;
  };
  Napi::Object out = Napi::Object::New(env);
  out.Set("id", loaded->id);
  out.Set("name", loaded->name);
  out.Set("arenaBytes", as_number(program.arena_bytes));
  out.Set("scratchBytes", as_number(program.scratch_bytes));
  out.Set("nodes", as_number(program.nodes.size()));
  out.Set("inputs", ports(program.inputs));
  out.Set("outputs", ports(program.outputs));
  return out;
}

Napi::Value SessionObject::release_program(const Napi::CallbackInfo& info) {
  check(info.Env(), session_->release_program(static_cast<uint32_t>(read_size(info.Env(), info[0], "program"))));
  report_memory(info.Env());
  return info.Env().Undefined();
}

Binding SessionObject::bind(Napi::Env env, Napi::Value value, const PortSpec& port, const LoadedProgram& loaded) {
  const TensorType& type = loaded.program.buffers[port.buffer].type;
  const std::string what = "program '" + loaded.name + "', input '" + port.name + "' " + describe(type);
  Binding binding;
  if (value.IsTypedArray()) {
    const ArrayView view = read_array(env, value, what);
    check(env, check_element_type(view, type.dtype, what));
    check(env, copy_bytes(view, what, &binding.copy));
    binding.data = binding.copy->data();
    binding.bytes = view.bytes;
  } else if (value.IsObject()) {
    Napi::Object range = value.As<Napi::Object>();
    const std::string path = read_string(env, range.Get("path"), "path");
    const uint64_t offset = read_size(env, range.Get("offset"), "offset");
    const uint64_t length = read_size(env, range.Get("byteLength"), "byteLength");
    Status status = session_->bind_file(path, offset, length, &binding);
    if (!status.ok()) throw_status(env, {status.code(), what + ": " + status.message()});
  } else {
    throw_status(env, {"ERR_DTYPE", what + ": expected a typed array or {path, offset, byteLength}"});
  }
  if (binding.bytes != static_cast<uint64_t>(type.bytes())) {
    throw_status(env, {"ERR_SHAPE", what + ": expected " + std::to_string(type.bytes()) + " bytes, received " +
                                        std::to_string(binding.bytes)});
  }
  return binding;
}

template <class Work>
Napi::Promise SessionObject::promise_of(Napi::Env env, Napi::Value keep, Work&& work) {
  PendingCall* call = nullptr;
  Napi::Promise promise = environment_->begin(env, &call, keep);
  auto environment = environment_;
  Status status = work([environment, call](const Status& s) { environment->settle(call, s); });
  if (!status.ok()) environment_->settle_now(env, call, status);
  return promise;
}

Napi::Value SessionObject::run(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  RunRequest request;
  check(env, session_->find_program(static_cast<uint32_t>(read_size(env, info[0], "program")), &request.program));
  const LoadedProgram& loaded = *request.program;
  if (!info[1].IsObject()) throw_status(env, {"ERR_CONFIG", "bindings: expected an object"});
  Napi::Object bindings = info[1].As<Napi::Object>();
  check_names(env, bindings, loaded);
  for (const PortSpec& port : loaded.program.inputs) {
    Napi::HandleScope scope(env);
    request.inputs.push_back(bind(env, bindings.Get(port.name), port, loaded));
  }

  // Results are allocated here and filled by the engine under the gate: nobody else sees them before the promise.
  Napi::Object outputs = Napi::Object::New(env);
  for (const PortSpec& port : loaded.program.outputs) {
    Napi::HandleScope scope(env);
    uint8_t* data = nullptr;
    outputs.Set(port.name, make_array(env, loaded.program.buffers[port.buffer].type, &data));
    request.outputs.push_back(data);
  }
  request.gate = environment_->gate();
  request.check_finite = info[2].ToBoolean();
  return promise_of(env, outputs,
                    [&](Session::Done done) { return session_->run(std::move(request), std::move(done)); });
}

Napi::Value SessionObject::read_state(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::shared_ptr<StateSlot> slot;
  check(env, session_->find_state(read_string(env, info[0], "name"), &slot));
  const uint64_t size = slot->region->bytes();
  const uint64_t offset = info[1].IsUndefined() ? 0 : read_size(env, info[1], "offset");
  const uint64_t length = info[2].IsUndefined() ? (offset < size ? size - offset : 0) : read_size(env, info[2], "byteLength");
  check(env, Session::check_range(*slot, offset, length));
  uint8_t* data = nullptr;
  Napi::Value array = make_array(env, byte_vector(length), &data);
  return promise_of(env, array, [&](Session::Done done) {
    return session_->read_state(slot, offset, length, data, environment_->gate(), std::move(done));
  });
}

Napi::Value SessionObject::write_state(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::string name = read_string(env, info[0], "name");
  std::shared_ptr<StateSlot> slot;
  check(env, session_->find_state(name, &slot));
  const std::string what = "state '" + name + "' " + describe(slot->spec.type);
  const ArrayView view = read_array(env, info[1], what);
  // Bytes are always welcome; any other array must have the slot's element type.
  if (view.kind != napi_uint8_array) check(env, check_element_type(view, slot->spec.type.dtype, what));
  const bool whole = info[2].IsUndefined();
  const uint64_t offset = whole ? 0 : read_size(env, info[2], "offset");
  if (whole && view.bytes != slot->region->bytes()) {
    throw_status(env, {"ERR_SHAPE", what + ": expected " + std::to_string(slot->region->bytes()) + " bytes, received " +
                                        std::to_string(view.bytes)});
  }
  check(env, Session::check_range(*slot, offset, view.bytes));
  std::shared_ptr<Region> copy;
  check(env, copy_bytes(view, "a copy for " + what, &copy));
  return promise_of(env, {}, [&](Session::Done done) {
    return session_->write_state(slot, offset, copy, std::move(done));
  });
}

Napi::Value SessionObject::all_gather(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const ArrayView view = read_array(env, info[0], "bytes");
  std::shared_ptr<Region> mine;
  check(env, copy_bytes(view, "an exchange between ranks", &mine));
  uint8_t* data = nullptr;
  Napi::Value all = make_array(env, byte_vector(view.bytes * static_cast<uint64_t>(Collective::process().size())), &data);
  return promise_of(env, all, [&](Session::Done done) {
    return session_->all_gather(mine, data, environment_->gate(), std::move(done));
  });
}

Napi::Value SessionObject::broadcast(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const ArrayView view = read_array(env, info[0], "bytes");
  const uint64_t root = read_size(env, info[1], "root");
  if (root >= static_cast<uint64_t>(Collective::process().size())) {
    throw_status(env, {"ERR_CONFIG", "root: expected a rank below " + std::to_string(Collective::process().size())});
  }
  std::shared_ptr<Region> bytes;
  check(env, copy_bytes(view, "an exchange between ranks", &bytes));
  uint8_t* data = nullptr;
  Napi::Value result = make_array(env, byte_vector(view.bytes), &data);
  return promise_of(env, result, [&](Session::Done done) {
    return session_->broadcast(bytes, static_cast<int>(root), data, environment_->gate(), std::move(done));
  });
}

Napi::Value SessionObject::release_files(const Napi::CallbackInfo& info) {
  session_->release_files();
  return info.Env().Undefined();
}

Napi::Value SessionObject::set_profiling(const Napi::CallbackInfo& info) {
  session_->set_profiling(info[0].ToBoolean());
  return info.Env().Undefined();
}

Napi::Value SessionObject::profile(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::vector<ProfileRow> rows = session_->profile();
  Napi::Array out = Napi::Array::New(env, rows.size());
  for (size_t i = 0; i < rows.size(); i++) {
    Napi::HandleScope scope(env);
    Napi::Object row = Napi::Object::New(env);
    row.Set("program", rows[i].program);
    row.Set("op", rows[i].op);
    row.Set("where", rows[i].where);
    row.Set("calls", as_number(rows[i].calls));
    row.Set("ns", as_number(rows[i].ns));
    out.Set(static_cast<uint32_t>(i), row);
  }
  return out;
}

Napi::Value SessionObject::reset_profile(const Napi::CallbackInfo& info) {
  session_->reset_profile();
  return info.Env().Undefined();
}

Napi::Value SessionObject::stats(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const SessionStats s = session_->stats();
  Napi::Object out = Napi::Object::New(env);
  // What programs of this session are compiled for.
  const DeviceSpec& device = session_->device();
  out.Set("device", device.kind == DeviceSpec::Kind::Cuda ? "cuda:" + std::to_string(device.index) : std::string("cpu"));
  out.Set("threads", device.threads);
  out.Set("stateBytes", as_number(s.state_bytes));
  out.Set("arenaBytes", as_number(s.arena_bytes));
  out.Set("arenaHighWaterBytes", as_number(s.arena_high_water_bytes));
  out.Set("scratchBytes", as_number(s.scratch_bytes));
  out.Set("constantBytes", as_number(s.constant_bytes));
  out.Set("mappedBytes", as_number(s.mapped_bytes));
  out.Set("states", as_number(s.states));
  out.Set("programs", as_number(s.programs));
  out.Set("runs", as_number(s.runs));
  out.Set("pending", as_number(s.pending));
  return out;
}

Napi::Value SessionObject::close(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return promise_of(env, {}, [&](Session::Done done) {
    session_->close(std::move(done));
    Napi::MemoryManagement::AdjustExternalMemory(env, -std::exchange(reported_bytes_, 0));
    return ok_status();
  });
}

}  // namespace lathe::addon
