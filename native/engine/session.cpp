// Session: bookkeeping under one mutex, work on the executor.
#include "engine/session.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "engine/backend_module.h"
#include "lathe/backend.h"
#include "lathe/collective.h"

namespace lathe {

namespace {

// Work on the engine's thread may run out of heap; nothing may leave it as an exception.
Status guarded(const std::function<Status()>& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return {"ERR_PLAN_MEMORY", "the heap is exhausted"};
  } catch (const std::exception& error) {
    return {"ERR_DEVICE", std::string("unexpected failure: ") + error.what()};
  }
}

bool same_type(const TensorType& a, const TensorType& b) {
  return a.dtype == b.dtype && a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

Status closed_error() { return device_error("the session is closed"); }

uint64_t region_bytes(const std::shared_ptr<Region>& region) { return region ? region->bytes() : 0; }

}  // namespace

Status Session::create(const DeviceSpec& device, std::shared_ptr<Session>* out) {
  LATHE_TRY(ensure_backend(device.kind));
  const Backend& backend = Backend::of(device.kind);
  if (!backend.open) return device_error("this build has no backend for the device");
  const auto& duplicates = Registry::of(device.kind).duplicates();
  if (!duplicates.empty()) return device_error("kernel '" + duplicates.front() + "' is registered twice");

  std::shared_ptr<Session> session(new Session(device));
  LATHE_TRY(backend.open(device, &session->stream_));
  // The thread keeps the session alive until it has drained: a forgotten session dies with its last task.
  auto owner = std::make_shared<std::shared_ptr<Session>>(session);
  Status started = Executor::start(
      [owner] {
        std::shared_ptr<Session> last = std::move(*owner);
        last->free_everything();
      },
      &session->executor_);
  if (!started.ok()) {
    backend.close(&session->stream_);
    return started;
  }
  *out = std::move(session);
  return ok_status();
}

Status Session::define_state(const std::vector<StateSpec>& specs) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return closed_error();
  std::map<std::string, std::shared_ptr<StateSlot>> added;
  std::vector<StateSlot*> fresh;
  for (const StateSpec& spec : specs) {
    auto find = [&](auto& map) { auto it = map.find(spec.name); return it == map.end() ? nullptr : it->second; };
    std::shared_ptr<StateSlot> existing = find(states_);
    if (!existing) existing = find(added);
    if (existing) {
      if (same_type(existing->spec.type, spec.type)) continue;
      return program_error("state '" + spec.name + "' is already defined as " + describe(existing->spec.type) +
                           ", received " + describe(spec.type));
    }
    auto slot = std::make_shared<StateSlot>();
    slot->spec = spec;
    fresh.push_back(slot.get());
    added.emplace(spec.name, std::move(slot));
  }
  LATHE_TRY(allocate_states(fresh));
  states_.merge(added);
  return ok_status();
}

// Neighbours share allocations of up to kSlab bytes: a device's are slow and coarse, and on a CPU small states then lie in huge
// pages too (a product of 512 cubed gains 2 to 3 %). What is defined together is mostly dropped together.
Status Session::allocate_states(const std::vector<StateSlot*>& slots) {
  constexpr uint64_t kSlab = uint64_t{256} << 20;
  for (size_t first = 0, end; first < slots.size(); first = end) {
    std::vector<uint64_t> bytes;
    uint64_t total = 0;
    for (end = first; end < slots.size(); end++) {
      const uint64_t more = static_cast<uint64_t>(slots[end]->spec.type.bytes());
      if (end > first && total + more > kSlab) break;
      bytes.push_back(more);
      total += more;
    }
    std::string what = "state '" + slots[first]->spec.name + "' " + describe(slots[first]->spec.type);
    if (bytes.size() == 1) {
      LATHE_TRY(Region::allocate_on(device_, total, what, &slots[first]->region));
      continue;
    }
    what += " with " + std::to_string(bytes.size() - 1) + " more after it";
    std::vector<std::shared_ptr<Region>> parts;
    LATHE_TRY(Region::allocate_parts(device_, bytes, what, &parts));
    for (size_t i = 0; i < parts.size(); i++) slots[first + i]->region = std::move(parts[i]);
  }
  return ok_status();
}

Status Session::drop_state(const std::vector<std::string>& names) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return closed_error();
  std::map<const StateSlot*, const LoadedProgram*> users;
  for (auto& entry : programs_)
    for (auto& slot : entry.second->states) users[slot.get()] = entry.second.get();
  for (const std::string& name : names) {
    auto it = states_.find(name);
    if (it == states_.end()) return program_error("state '" + name + "' is not defined");
    auto user = users.find(it->second.get());
    if (user != users.end()) {
      return program_error("state '" + name + "' is used by program '" + user->second->name +
                           "': release the program first");
    }
  }
  for (const std::string& name : names) states_.erase(name);
  return ok_status();
}

std::vector<StateSpec> Session::states() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<StateSpec> out;
  for (auto& entry : states_) out.push_back(entry.second->spec);
  return out;
}

Status Session::find_state(const std::string& name, std::shared_ptr<StateSlot>* out) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return closed_error();
  auto it = states_.find(name);
  if (it == states_.end()) return program_error("state '" + name + "' is not defined");
  *out = it->second;
  return ok_status();
}

Status Session::load_program(const uint8_t* data, size_t size, const std::string& name,
                             std::shared_ptr<LoadedProgram>* out) {
  auto loaded = std::make_shared<LoadedProgram>();
  return guarded([&]() -> Status {
    Program& program = loaded->program;
    LATHE_TRY(decode_program(data, size, &program));
    loaded->name = name.empty() ? program.name : name;
    auto in_program = [&](const Status& status) -> Status {
      if (status.ok()) return status;
      return {status.code(), "program '" + loaded->name + "': " + status.message()};
    };
    LATHE_TRY(in_program(check_structure(program)));
    LATHE_TRY(in_program(prepare_nodes(program, device_, &loaded->nodes)));
    LATHE_TRY(in_program(check_dataflow(program, loaded->nodes)));
    if (!program.blob.empty()) {
      LATHE_TRY(Region::allocate_on(device_, program.blob.size(), "constants of program '" + loaded->name + "'",
                                    &loaded->constants));
      if (Backend::of(device_.kind).separate_memory()) {
        // Copied by the first run, on the engine's thread: the stream is not this thread's to use.
        loaded->constants_to_copy = std::move(program.blob);
      } else {
        std::memcpy(loaded->constants->data(), program.blob.data(), program.blob.size());
      }
      std::vector<uint8_t>().swap(program.blob);
    }

    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return closed_error();
    for (const StateSpec& spec : program.states) {
      auto it = states_.find(spec.name);
      if (it == states_.end()) return in_program(program_error("state '" + spec.name + "' is not defined in this session"));
      if (!same_type(it->second->spec.type, spec.type)) {
        return in_program(program_error("state '" + spec.name + "' is " + describe(it->second->spec.type) +
                                        " in this session, the program expects " + describe(spec.type)));
      }
      loaded->states.push_back(it->second);
    }
    LATHE_TRY(reserve_working_memory(*loaded));
    loaded->id = next_program_++;
    programs_.emplace(loaded->id, loaded);
    *out = loaded;
    return ok_status();
  });
}

// One arena and one scratch region serve all programs, so they grow to the largest need. Nothing in them
// outlives a run: a run under way keeps the old region, the next one takes the new. When nothing runs the old one goes
// first, so that both never stand beside each other and the plan's peak holds; if there is no room for the new one, the next run
// of another program takes what it needs again.
Status Session::reserve_working_memory(const LoadedProgram& loaded) {
  const auto grow = [&](std::shared_ptr<Region>& region, uint64_t bytes, const char* what) -> Status {
    if (bytes <= region_bytes(region)) return ok_status();
    if (pending_ == 0) region.reset();
    std::shared_ptr<Region> larger;
    LATHE_TRY(Region::allocate_on(device_, bytes, what + (" of program '" + loaded.name + "'"), &larger));
    region = std::move(larger);
    return ok_status();
  };
  LATHE_TRY(grow(arena_, loaded.program.arena_bytes, "the arena"));
  return grow(scratch_, loaded.program.scratch_bytes, "the scratch");
}

// Regions that are larger than any loaded program needs are replaced by smaller ones, or kept if that fails.
void Session::trim_working_memory() {
  uint64_t arena = 0, scratch = 0;
  for (auto& entry : programs_) {
    arena = std::max(arena, entry.second->program.arena_bytes);
    scratch = std::max(scratch, entry.second->program.scratch_bytes);
  }
  auto shrink = [&](std::shared_ptr<Region>& region, uint64_t bytes, const char* what) {
    if (region_bytes(region) <= bytes) return;
    std::shared_ptr<Region> smaller;
    if (bytes == 0 || Region::allocate_on(device_, bytes, what, &smaller).ok()) region = std::move(smaller);
  };
  shrink(arena_, arena, "the arena");
  shrink(scratch_, scratch, "the scratch");
}

Status Session::release_program(uint32_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return closed_error();
  if (programs_.erase(id) == 0) return program_error("program " + std::to_string(id) + " is not loaded");
  return ok_status();
}

Status Session::find_program(uint32_t id, std::shared_ptr<LoadedProgram>* out) const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) return closed_error();
  auto it = programs_.find(id);
  if (it == programs_.end()) return program_error("program " + std::to_string(id) + " is not loaded");
  *out = it->second;
  return ok_status();
}

Status Session::bind_file(const std::string& path, uint64_t offset, uint64_t length, Binding* out) {
  std::shared_ptr<MappedFile> file;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return closed_error();
    LATHE_TRY(files_.open(path, &file));
  }
  LATHE_TRY(file->check_range(offset, length));
  out->data = file->data() + offset;
  out->bytes = length;
  out->offset = offset;
  out->file = std::move(file);
  return ok_status();
}

void Session::release_files() {
  std::lock_guard<std::mutex> lock(mutex_);
  files_.clear();
  spare_.clear();
  if (!closed_) trim_working_memory();
}

Status Session::submit(std::function<Status()> work, Done done) {
  pending_++;
  auto self = shared_from_this();
  auto task = [self, work = std::move(work), done]() mutable {
    Status status = guarded(work);
    work = nullptr;  // frees staging copies before the caller hears about it
    self->pending_--;
    done(status);
  };
  if (executor_->submit(std::move(task))) return ok_status();
  pending_--;
  return closed_error();
}

Status Session::run(RunRequest request, Done done) {
  auto shared = std::make_shared<RunRequest>(std::move(request));
  return submit([this, shared] { return execute_on_engine(*shared); }, std::move(done));
}

Status Session::execute_on_engine(const RunRequest& request) {
  RunContext context;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // A program that was released while this run was queued may have had its memory trimmed away.
    LATHE_TRY(reserve_working_memory(*request.program));
    context.arena = arena_;
    context.scratch = scratch_;
    context.spare.swap(spare_);
  }
  context.stream = &stream_;
  context.device = device_;
  context.cancelled = &cancelled_;
  context.pending = &pending_;
  context.unfinished = &unfinished_;
  context.profile = profiling_;
  Status status = execute(request, context);
  runs_++;
  std::lock_guard<std::mutex> lock(mutex_);
  arena_high_water_ = std::max(arena_high_water_, context.arena_high_water);
  if (!closed_) spare_.swap(context.spare);
  return status;
}

Status Session::check_range(const StateSlot& slot, uint64_t offset, uint64_t length) {
  const uint64_t size = slot.region->bytes();
  if (offset <= size && length <= size - offset) return ok_status();
  return {"ERR_SHAPE", "state '" + slot.spec.name + "' " + describe(slot.spec.type) + " holds " + std::to_string(size) +
                           " bytes, received " + std::to_string(length) + " at offset " + std::to_string(offset)};
}

Status Session::read_state(std::shared_ptr<StateSlot> slot, uint64_t offset, uint64_t length, uint8_t* destination,
                           std::shared_ptr<Gate> gate, Done done) {
  LATHE_TRY(check_range(*slot, offset, length));
  return submit(
      [this, slot, offset, length, destination, gate]() -> Status {
        std::lock_guard<std::mutex> lock(gate->mutex);
        if (gate->closed || length == 0) return ok_status();
        return copy_now(destination, slot->region->data() + offset, length, CopyKind::ToHost);
      },
      std::move(done));
}

Status Session::write_state(std::shared_ptr<StateSlot> slot, uint64_t offset, std::shared_ptr<Region> bytes,
                            Done done) {
  LATHE_TRY(check_range(*slot, offset, bytes->bytes()));
  return submit(
      [this, slot, offset, bytes]() -> Status {
        if (bytes->bytes() == 0) return ok_status();
        return copy_now(slot->region->data() + offset, bytes->data(), bytes->bytes(), CopyKind::ToDevice);
      },
      std::move(done));
}

// The exchange itself goes through memory of ours: the other side may go away while ranks wait for each other.
Status Session::all_gather(std::shared_ptr<Region> mine, uint8_t* all, std::shared_ptr<Gate> gate, Done done) {
  std::shared_ptr<Region> gathered;
  const uint64_t bytes = mine->bytes();
  LATHE_TRY(Region::allocate(bytes * uint64_t(Collective::process().size()), "an exchange between ranks", &gathered));
  return submit(
      [mine, all, gate, gathered, bytes]() -> Status {
        if (bytes == 0) return ok_status();
        LATHE_TRY(Collective::process().all_gather(mine->data(), gathered->data(), bytes));
        std::lock_guard<std::mutex> lock(gate->mutex);
        if (!gate->closed) std::memcpy(all, gathered->data(), gathered->bytes());
        return ok_status();
      },
      std::move(done));
}

Status Session::broadcast(std::shared_ptr<Region> data, int root, uint8_t* result, std::shared_ptr<Gate> gate, Done done) {
  return submit(
      [data, root, result, gate]() -> Status {
        if (data->bytes() == 0) return ok_status();
        LATHE_TRY(Collective::process().broadcast(data->data(), data->bytes(), root));
        std::lock_guard<std::mutex> lock(gate->mutex);
        if (!gate->closed) std::memcpy(result, data->data(), data->bytes());
        return ok_status();
      },
      std::move(done));
}

// On the engine's thread: one copy between the host and a slot, done when it returns.
Status Session::copy_now(void* to, const void* from, uint64_t bytes, CopyKind kind) {
  const Backend& backend = Backend::of(device_.kind);
  if (!backend.separate_memory()) return std::memcpy(to, from, bytes), ok_status();
  backend.activate(stream_);
  const Status queued = backend.copy(stream_, to, from, bytes, kind);
  Status done = backend.synchronize(stream_);
  if (!queued.ok()) done = queued;
  (void)settle_unfinished(&done, backend, stream_, &unfinished_);
  return done;
}

std::vector<ProfileRow> Session::profile() const {
  std::vector<std::shared_ptr<LoadedProgram>> programs;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& entry : programs_) programs.push_back(entry.second);
  }
  std::vector<ProfileRow> rows;
  for (auto& loaded : programs) {
    std::lock_guard<std::mutex> lock(loaded->timing_mutex);
    std::map<std::pair<std::string, std::string>, size_t> seen;
    for (size_t i = 0; i < loaded->timing.size(); i++) {
      const NodeSpec& node = loaded->program.nodes[i];
      auto [it, fresh] = seen.emplace(std::make_pair(node.op, node.where), rows.size());
      if (fresh) rows.push_back({loaded->name, node.op, node.where, 0, 0});
      rows[it->second].calls += loaded->timing[i].calls;
      rows[it->second].ns += loaded->timing[i].ns;
    }
  }
  return rows;
}

void Session::reset_profile() {
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto& entry : programs_) {
    std::lock_guard<std::mutex> timing(entry.second->timing_mutex);
    entry.second->timing.clear();
  }
}

SessionStats Session::stats() const {
  std::lock_guard<std::mutex> lock(mutex_);
  SessionStats stats;
  for (auto& entry : states_) stats.state_bytes += entry.second->region->bytes();
  for (auto& entry : programs_) stats.constant_bytes += region_bytes(entry.second->constants);
  stats.arena_bytes = region_bytes(arena_);
  stats.scratch_bytes = region_bytes(scratch_);
  stats.arena_high_water_bytes = arena_high_water_;
  stats.mapped_bytes = files_.mapped_bytes();
  stats.states = states_.size();
  stats.programs = programs_.size();
  stats.runs = runs_;
  stats.pending = pending_;
  return stats;
}

uint64_t Session::held_bytes() const {
  const SessionStats s = stats();
  return s.state_bytes + s.arena_bytes + s.scratch_bytes + s.constant_bytes;
}

void Session::close(Done done) {
  bool first = false, freed = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    first = !std::exchange(closed_, true);
    freed = freed_;
    if (done && !freed) on_closed_.push_back(std::move(done));
  }
  if (first) executor_->close();
  if (freed && done) done(ok_status());
}

void Session::abandon() {
  cancelled_ = true;
  close({});
}

void Session::free_everything() {
  std::vector<Done> callbacks;
  unfinished_.clear();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    programs_.clear();
    states_.clear();
    arena_.reset();
    scratch_.reset();
    spare_.clear();
    files_.clear();
  }
  Backend::of(device_.kind).close(&stream_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    freed_ = true;
    callbacks.swap(on_closed_);
  }
  for (Done& done : callbacks) done(ok_status());
}

}  // namespace lathe
