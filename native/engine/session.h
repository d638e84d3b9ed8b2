// Session: the only owner of bytes. State slots, loaded programs, one arena and one scratch region, one engine thread.
//
// Threads: every method may be called from the host's thread while the engine thread runs; both meet under one mutex
// that is never held during a kernel. A run keeps what it uses alive by shared pointers, so a program may be released
// and the arena may grow while a run is under way. Completion callbacks are called on the engine's thread.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/execute.h"
#include "engine/executor.h"
#include "engine/mapped_file.h"
#include "engine/memory.h"
#include "lathe/backend.h"
#include "lathe/kernel.h"
#include "lathe/status.h"

namespace lathe {

struct SessionStats {
  uint64_t state_bytes = 0;
  uint64_t arena_bytes = 0;
  uint64_t arena_high_water_bytes = 0;  // measured over all runs
  uint64_t scratch_bytes = 0;
  uint64_t constant_bytes = 0;
  uint64_t mapped_bytes = 0;
  uint64_t states = 0;
  uint64_t programs = 0;
  uint64_t runs = 0;
  uint64_t pending = 0;  // submitted and not finished
};

struct ProfileRow {
  std::string program;
  std::string op;
  std::string where;
  uint64_t calls = 0;
  uint64_t ns = 0;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  using Done = std::function<void(const Status&)>;

  static Status create(const DeviceSpec& device, std::shared_ptr<Session>* out);
  const DeviceSpec& device() const { return device_; }

  // Allocates zeroed slots. A slot that exists with the same type keeps its contents; another type is ERR_PROGRAM.
  // All or nothing.
  Status define_state(const std::vector<StateSpec>& specs);
  // Fails while a loaded program uses one of them. All or nothing.
  Status drop_state(const std::vector<std::string>& names);
  std::vector<StateSpec> states() const;
  Status find_state(const std::string& name, std::shared_ptr<StateSlot>* out) const;

  // Decodes, validates and prepares; nothing changes on failure.
  Status load_program(const uint8_t* data, size_t size, const std::string& name, std::shared_ptr<LoadedProgram>* out);
  Status release_program(uint32_t id);
  Status find_program(uint32_t id, std::shared_ptr<LoadedProgram>* out) const;

  // Binds `length` bytes of a file; the mapping is shared by all bindings of this path.
  Status bind_file(const std::string& path, uint64_t offset, uint64_t length, Binding* out);
  // What loading weights leaves behind: unmaps the files that no queued run needs, and gives back working memory beyond
  // what the loaded programs need.
  void release_files();

  // Queued, in call order. `done` is always called once, on the engine's thread, unless the call itself fails.
  Status run(RunRequest request, Done done);
  // Fails with ERR_SHAPE unless the slot has these bytes.
  static Status check_range(const StateSlot& slot, uint64_t offset, uint64_t length);
  // Copies between a slot and the other side's memory; the reader's is guarded by `gate`.
  Status read_state(std::shared_ptr<StateSlot> slot, uint64_t offset, uint64_t length, uint8_t* destination,
                    std::shared_ptr<Gate> gate, Done done);
  Status write_state(std::shared_ptr<StateSlot> slot, uint64_t offset, std::shared_ptr<Region> bytes, Done done);

  // Exchanges with the other ranks of the process's world (lathe/collective.h), in turn with runs. `all` has room for
  // every rank's `mine`; `data` is filled in place. The memory is the other side's, guarded by `gate` for writing.
  Status all_gather(std::shared_ptr<Region> mine, uint8_t* all, std::shared_ptr<Gate> gate, Done done);
  Status broadcast(std::shared_ptr<Region> data, int root, uint8_t* result, std::shared_ptr<Gate> gate, Done done);

  void set_profiling(bool on) { profiling_ = on; }
  std::vector<ProfileRow> profile() const;  // one row per (program, op, where)
  void reset_profile();
  SessionStats stats() const;
  // Bytes of state, arena, scratch and constants.
  uint64_t held_bytes() const;

  // No further calls; what is queued still runs, then the memory is freed. `done` may be empty.
  void close(Done done);
  // As close, but the run under way stops at the next node.
  void abandon();

 private:
  explicit Session(const DeviceSpec& device) : device_(device) {}
  Status submit(std::function<Status()> work, Done done);
  Status execute_on_engine(const RunRequest& request);
  Status allocate_states(const std::vector<StateSlot*>& slots);
  Status reserve_working_memory(const LoadedProgram& loaded);
  void trim_working_memory();
  Status copy_now(void* to, const void* from, uint64_t bytes, CopyKind kind);
  void free_everything();

  const DeviceSpec device_;
  Stream stream_;
  std::shared_ptr<Executor> executor_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> profiling_{false};
  std::atomic<uint64_t> runs_{0};
  std::atomic<uint64_t> pending_{0};

  mutable std::mutex mutex_;  // everything below
  bool closed_ = false;
  bool freed_ = false;
  std::vector<Done> on_closed_;
  std::map<std::string, std::shared_ptr<StateSlot>> states_;
  std::map<uint32_t, std::shared_ptr<LoadedProgram>> programs_;
  uint32_t next_program_ = 1;
  std::shared_ptr<Region> arena_;
  std::shared_ptr<Region> scratch_;
  std::vector<std::shared_ptr<Region>> spare_;  // see RunContext
  std::vector<UnfinishedRun> unfinished_;       // the engine's thread only
  uint64_t arena_high_water_ = 0;
  FileCache files_;
};

}  // namespace lathe
