// A loaded program and one run of it. Everything here happens on the engine's thread, after validation.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/mapped_file.h"
#include "engine/memory.h"
#include "engine/validate.h"
#include "lathe/backend.h"
#include "lathe/kernel.h"
#include "lathe/program.h"

namespace lathe {

struct StateSlot {
  StateSpec spec;
  std::shared_ptr<Region> region;
};

struct NodeTiming {
  uint64_t calls = 0;
  uint64_t ns = 0;
};

// A program's nodes as one recorded piece of work, where the backend can do that (CUDA graphs). Valid for the pointers it
// was made with; made at the second run with the same ones, because the first may set up tables.
struct Recording {
  std::vector<uint8_t*> base;
  void* scratch = nullptr;
  void* handle = nullptr;
  uint64_t arena_end = 0;
  bool refused = false;
  DeviceSpec device;

  Recording() = default;
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() { release(); }
  void release();
};

struct LoadedProgram {
  uint32_t id = 0;
  std::string name;
  Program program;  // nodes keep names and operands; their attributes have moved into the kernels' plans
  std::vector<PreparedNode> nodes;
  std::vector<std::shared_ptr<StateSlot>> states;
  std::shared_ptr<Region> constants;  // null when there are none
  std::vector<uint8_t> constants_to_copy;  // until the first run, where constants lie in device memory

  Recording recording;  // the engine's thread only

  std::mutex timing_mutex;
  std::vector<NodeTiming> timing;  // per node, filled while profiling
};

// The bytes of one input. `data` points into one of the owners.
struct Binding {
  std::shared_ptr<Region> copy;
  std::shared_ptr<MappedFile> file;
  uint64_t offset = 0;  // in the file
  const uint8_t* data = nullptr;
  uint64_t bytes = 0;
};

// Guards memory of somebody who may go away (a Node environment): it is touched only under the mutex and only while
// the gate is open. The one who leaves closes the gate first, which waits for at most one copy.
struct Gate {
  std::mutex mutex;
  bool closed = false;
};

struct RunRequest {
  std::shared_ptr<LoadedProgram> program;
  std::vector<Binding> inputs;      // in the program's order
  std::vector<uint8_t*> outputs;    // where each output goes, in the program's order
  std::shared_ptr<Gate> gate;       // guards `outputs`
  bool check_finite = false;
};

// A run on a device that ended without waiting, as another call was queued behind it: whoever waits next hears of its errors.
struct UnfinishedRun {
  std::shared_ptr<LoadedProgram> program;
  uint32_t first_mark = 0;  // its nodes note first_mark + 1 ... when they are done
};

// After waiting: forgets them. True when `status` is an error that belongs to one of them, and then it is in that one's name.
bool settle_unfinished(Status* status, const Backend& backend, Stream& stream, std::vector<UnfinishedRun>* runs);

// What a run needs from its session.
struct RunContext {
  std::shared_ptr<Region> arena;    // null when no program needs one
  std::shared_ptr<Region> scratch;
  // In and out, on a device: places for inputs bound to files, kept from one run to the next while files are open. Loading
  // weights would wait for the device at every allocation otherwise.
  std::vector<std::shared_ptr<Region>> spare;
  Stream* stream = nullptr;
  DeviceSpec device;
  const std::atomic<bool>* cancelled = nullptr;
  const std::atomic<uint64_t>* pending = nullptr;  // calls submitted and not finished, this one among them
  std::vector<UnfinishedRun>* unfinished = nullptr;
  bool profile = false;
  uint64_t arena_high_water = 0;    // out: one past the last arena byte that was used
};

// Copies inputs in, runs the nodes in order, copies outputs out. A failure in the middle leaves the state slots that
// were already written as they are.
Status execute(const RunRequest& request, RunContext& context);

}  // namespace lathe
