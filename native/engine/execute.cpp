// One run: resolve pointers, copy in, nodes in order, copy out.
#include "engine/execute.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <utility>

#include "lathe/backend.h"

namespace lathe {

namespace {

using Kind = BufferSpec::Kind;
using Clock = std::chrono::steady_clock;

// Index of the first element that is not finite, or -1. Works on bits: the exponent is all ones.
template <class T>
int64_t first_nonfinite(const void* data, int64_t n, T exponent) {
  const T* bits = static_cast<const T*>(data);
  constexpr int64_t kBlock = 1024;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(n, start + kBlock);
    int bad = 0;
    for (int64_t i = start; i < end; i++) bad |= (bits[i] & exponent) == exponent;
    if (!bad) continue;
    for (int64_t i = start; i < end; i++)
      if ((bits[i] & exponent) == exponent) return i;
  }
  return -1;
}

int64_t first_nonfinite(const TensorType& type, const void* data) {
  switch (type.dtype) {
    case DType::F32: return first_nonfinite<uint32_t>(data, type.numel(), 0x7f800000u);
    case DType::BF16: return first_nonfinite<uint16_t>(data, type.numel(), 0x7f80u);
    case DType::F16: return first_nonfinite<uint16_t>(data, type.numel(), 0x7c00u);
    case DType::I32:
    case DType::U8: return -1;
  }
  return -1;
}

Status node_status(const LoadedProgram& loaded, size_t index, const char* code, const std::string& message) {
  return {code, "program '" + loaded.name + "', " + describe(loaded.program.nodes[index], index) + ": " + message};
}

class Run {
 public:
  Run(const RunRequest& request, RunContext& context)
      : request_(request), context_(context), loaded_(*request.program), program_(loaded_.program),
        backend_(Backend::of(context.device.kind)) {}

  Status operator()() {
    if (backend_.separate_memory()) backend_.activate(*context_.stream);
    Status status = bind();
    if (status.ok()) status = run_nodes();
    if (status.ok()) status = copy_out();
    if (!status.ok() && backend_.separate_memory()) {
      // What is still under way reads memory that this run owns.
      if (!backend_.synchronize(*context_.stream).ok()) (void)settle(&status);
    }
    if (backend_.separate_memory()) std::move(aligned_.begin(), aligned_.end(), std::back_inserter(context_.spare));
    return status;
  }

 private:
  Status bind() {
    base_.resize(program_.buffers.size(), nullptr);
    for (size_t i = 0; i < base_.size(); i++) {
      const BufferSpec& buffer = program_.buffers[i];
      if (buffer.kind == Kind::Arena && context_.arena) base_[i] = context_.arena->data() + buffer.place;
      if (buffer.kind == Kind::State) base_[i] = loaded_.states[buffer.place]->region->data();
      if (buffer.kind == Kind::Constant && loaded_.constants) base_[i] = loaded_.constants->data() + buffer.place;
    }
    if (!loaded_.constants_to_copy.empty()) {
      const std::vector<uint8_t>& blob = loaded_.constants_to_copy;
      LATHE_TRY(to_device(loaded_.constants->data(), blob.data(), blob.size()));
      LATHE_TRY(backend_.synchronize(*context_.stream));
      std::vector<uint8_t>().swap(loaded_.constants_to_copy);
    }
    uint64_t end = 0;
    for (size_t i = 0; i < program_.inputs.size(); i++) {
      const uint32_t index = program_.inputs[i].buffer;
      const BufferSpec& buffer = program_.buffers[index];
      const Binding& binding = request_.inputs[i];
      if (binding.file) {
        LATHE_TRY(binding.file->check_range(binding.offset, binding.bytes));
        binding.file->will_need(binding.offset, binding.bytes);
      }
      if (buffer.kind == Kind::External) {
        LATHE_TRY(bind_external(index, binding));
      } else {
        LATHE_TRY(to_device(base_[index], binding.data, binding.bytes));
        end = std::max(end, buffer.place + binding.bytes);
      }
    }
    context_.arena_high_water = end;
    return ok_status();
  }

  // Kernels may assume that a pointer is aligned to its element; file formats do not promise it.
  Status bind_external(uint32_t index, const Binding& binding) {
    if (backend_.separate_memory()) {
      std::shared_ptr<Region> place;
      LATHE_TRY(device_place(binding.bytes, &place));
      base_[index] = place->data();
      aligned_.push_back(std::move(place));
      return to_device(base_[index], binding.data, binding.bytes);
    }
    const uint64_t element = static_cast<uint64_t>(dtype_bytes(program_.buffers[index].type.dtype));
    if (reinterpret_cast<uintptr_t>(binding.data) % element == 0) {
      base_[index] = const_cast<uint8_t*>(binding.data);
      return ok_status();
    }
    std::shared_ptr<Region> copy;
    LATHE_TRY(Region::allocate(binding.bytes, "an aligned copy of an input", &copy));
    std::memcpy(copy->data(), binding.data, binding.bytes);
    base_[index] = copy->data();
    aligned_.push_back(std::move(copy));
    return ok_status();
  }

  // The smallest spare place that is large enough; where none is, the largest makes room for a new one.
  Status device_place(uint64_t bytes, std::shared_ptr<Region>* out) {
    auto& spare = context_.spare;
    const auto smaller = [](const auto& a, const auto& b) { return a->bytes() < b->bytes(); };
    std::sort(spare.begin(), spare.end(), smaller);
    auto it = std::find_if(spare.begin(), spare.end(), [&](const auto& r) { return r->bytes() >= bytes; });
    if (it != spare.end()) {
      *out = std::move(*it);
      spare.erase(it);
      return ok_status();
    }
    if (!spare.empty()) spare.pop_back();
    return Region::allocate_on(context_.device, bytes, "the device's copy of an input", out);
  }

  Status to_device(void* to, const void* from, uint64_t bytes) {
    if (bytes == 0) return ok_status();
    if (backend_.separate_memory()) return backend_.copy(*context_.stream, to, from, bytes, CopyKind::ToDevice);
    std::memcpy(to, from, bytes);
    return ok_status();
  }

  Status run_nodes() {
    if (!may_record()) return issue_nodes(true);
    Recording& r = loaded_.recording;
    void* scratch = context_.scratch ? context_.scratch->data() : nullptr;
    if (r.base != base_ || r.scratch != scratch) {
      r.release();
      r.base = base_, r.scratch = scratch, r.device = context_.device;
      const Status status = issue_nodes(true);
      r.arena_end = context_.arena_high_water;
      return status;
    }
    if (!r.handle && !r.refused) record(r);
    if (!r.handle) return issue_nodes(true);
    marked_ = false;
    launched_ = true;
    context_.arena_high_water = std::max(context_.arena_high_water, r.arena_end);
    return backend_.launch_recording(*context_.stream, r.handle);
  }

  // Whoever looks at single nodes gets single nodes. External inputs have other addresses every time.
  bool may_record() const {
    static const bool off = [] { const char* v = std::getenv("LATHE_CUDA_GRAPHS"); return v && *v == '0'; }();
    return !off && backend_.begin_recording && !context_.profile && !request_.check_finite && !synchronous() &&
           aligned_.empty() && program_.nodes.size() > 1;
  }

  // A recording that fails is no error: the nodes are issued one by one from then on.
  void record(Recording& r) {
    r.refused = true;
    if (!backend_.begin_recording(*context_.stream).ok()) return;
    const Status issued = issue_nodes(false);
    const Status ended = backend_.end_recording(*context_.stream, &r.handle);
    if (!ended.ok()) r.handle = nullptr;
    if (!issued.ok() && r.handle) backend_.release_recording(context_.device.index, std::exchange(r.handle, nullptr));
    r.refused = !r.handle;
  }

  Status issue_nodes(bool mark) {
    void* scratch = context_.scratch ? context_.scratch->data() : nullptr;
    marked_ = mark && backend_.mark;
    first_mark_ = next_mark();
    if (marked_) LATHE_TRY(backend_.mark(*context_.stream, first_mark_));
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    if (context_.profile) timing_.resize(program_.nodes.size());
    Status status;
    for (size_t i = 0; i < program_.nodes.size() && status.ok(); i++) {
      if (context_.cancelled && context_.cancelled->load(std::memory_order_relaxed)) {
        status = device_error("the session was abandoned while program '" + loaded_.name + "' ran");
        break;
      }
      const NodeSpec& node = program_.nodes[i];
      inputs.clear();
      outputs.clear();
      for (uint32_t buffer : node.inputs) inputs.push_back(base_[buffer]);
      for (uint32_t buffer : node.outputs) outputs.push_back(buffer == kAbsentBuffer ? nullptr : base_[buffer]);
      const Buffers buffers{inputs.data(), outputs.data(), scratch};
      status = run_node(i, buffers);
    }
    if (context_.profile) add_timing();
    return status;
  }

  Status run_node(size_t i, const Buffers& buffers) {
    const PreparedNode& node = loaded_.nodes[i];
    context_.arena_high_water = std::max(context_.arena_high_water, node.arena_end);
    const auto start = context_.profile ? Clock::now() : Clock::time_point{};
    Status status = node.kernel->run(node.plan, buffers, *context_.stream);
    // A device works behind our back; times and the blame for an error need it to have arrived.
    if (backend_.separate_memory() && status.ok() && (context_.profile || synchronous()))
      status = backend_.synchronize(*context_.stream);
    if (context_.profile) {
      timing_[i].calls++;
      timing_[i].ns += static_cast<uint64_t>((Clock::now() - start).count());
    }
    if (status.ok() && marked_) status = backend_.mark(*context_.stream, first_mark_ + static_cast<uint32_t>(i + 1));
    if (!status.ok()) return blame(status, i);
    return request_.check_finite ? check_finite(i) : ok_status();
  }

  Status check_finite(size_t i) {
    const NodeSpec& node = program_.nodes[i];
    for (size_t o = 0; o < node.outputs.size(); o++) {
      if (node.outputs[o] == kAbsentBuffer) continue;
      const TensorType& type = program_.buffers[node.outputs[o]].type;
      const void* data = base_[node.outputs[o]];
      if (backend_.separate_memory()) {
        host_copy_.resize(static_cast<size_t>(type.bytes()));
        LATHE_TRY(backend_.copy(*context_.stream, host_copy_.data(), data, host_copy_.size(), CopyKind::ToHost));
        LATHE_TRY(backend_.synchronize(*context_.stream));
        data = host_copy_.data();
      }
      const int64_t at = first_nonfinite(type, data);
      if (at >= 0) {
        return node_status(loaded_, i, "ERR_NONFINITE",
                           "output " + std::to_string(o) + " " + describe(type) + " is not finite at element " +
                               std::to_string(at));
      }
    }
    return ok_status();
  }

  void add_timing() {
    std::lock_guard<std::mutex> lock(loaded_.timing_mutex);
    loaded_.timing.resize(program_.nodes.size());
    for (size_t i = 0; i < timing_.size(); i++) {
      loaded_.timing[i].calls += timing_[i].calls;
      loaded_.timing[i].ns += timing_[i].ns;
    }
  }

  // LATHE_CUDA_SYNC=1: every node is waited for, so that an error names the node that caused it.
  static bool synchronous() {
    static const bool on = [] { const char* v = std::getenv("LATHE_CUDA_SYNC"); return v && *v && *v != '0'; }();
    return on;
  }

  // An error that node `i` reports may be an earlier one's, as a device works behind our back. Then waiting fails too, and
  // the last mark tells whose it is.
  Status blame(Status status, size_t i) const {
    if (marked_ && backend_.last_mark && !backend_.synchronize(*context_.stream).ok()) {
      if (settle(&status)) return status;
      const uint32_t done = nodes_done();
      if (done < i) return node_status(loaded_, done, status.code(), status.message());
    }
    return node_status(loaded_, i, status.code(), status.message());
  }

  // Marks go on from those of runs that were left unfinished, so that the last one tells whose it is.
  uint32_t next_mark() const {
    if (context_.unfinished->empty()) return 0;
    const UnfinishedRun& last = context_.unfinished->back();
    return last.first_mark + static_cast<uint32_t>(last.program->program.nodes.size()) + 1;
  }

  bool settle(Status* status) const { return settle_unfinished(status, backend_, *context_.stream, context_.unfinished); }

  // How many of this run's nodes the device has noted as done; kNoMark where it does not say, or speaks of an earlier run.
  uint32_t nodes_done() const {
    if (!marked_ || !backend_.last_mark) return Backend::kNoMark;
    const uint32_t last = backend_.last_mark(*context_.stream);
    return last == Backend::kNoMark || last < first_mark_ ? Backend::kNoMark : last - first_mark_;
  }

  // A run that reads files and gives nothing back, as loading a weight is, does not wait for the device while another call is
  // queued: the file of the next one is read meanwhile. The stream keeps the order, and memory it uses is freed in that order too.
  bool may_leave() const {
    return program_.outputs.empty() && !aligned_.empty() && context_.pending->load() > 1 && !context_.profile && !request_.check_finite &&
           !synchronous() && context_.unfinished->size() < kMostUnfinished && marked_ && backend_.last_mark && backend_.last_mark(*context_.stream) != Backend::kNoMark;
  }
  static constexpr size_t kMostUnfinished = 32;

  Status copy_out() {
    if (backend_.separate_memory()) {
      if (may_leave()) {
        context_.unfinished->push_back({request_.program, first_mark_});
        return ok_status();
      }
      Status status = backend_.synchronize(*context_.stream);
      if (settle(&status)) return status;
      const uint32_t done = nodes_done();
      if (!status.ok() && done < program_.nodes.size()) return node_status(loaded_, done, status.code(), status.message());
      if (!status.ok())
        return {status.code(), "program '" + loaded_.name + "'" + (launched_ ? ", run as one recorded graph: " : ": ") + status.message() + ": set " +
                                   (launched_ ? "LATHE_CUDA_GRAPHS=0" : "LATHE_CUDA_SYNC=1") + " and run it again to learn which node caused it"};
    }
    std::lock_guard<std::mutex> lock(request_.gate->mutex);
    if (request_.gate->closed) return ok_status();
    for (size_t i = 0; i < program_.outputs.size(); i++) {
      const uint32_t buffer = program_.outputs[i].buffer;
      const size_t bytes = static_cast<size_t>(program_.buffers[buffer].type.bytes());
      if (bytes == 0) continue;
      if (backend_.separate_memory())
        LATHE_TRY(backend_.copy(*context_.stream, request_.outputs[i], base_[buffer], bytes, CopyKind::ToHost));
      else
        std::memcpy(request_.outputs[i], base_[buffer], bytes);
    }
    return backend_.separate_memory() ? backend_.synchronize(*context_.stream) : ok_status();
  }

  const RunRequest& request_;
  RunContext& context_;
  LoadedProgram& loaded_;
  const Program& program_;
  const Backend& backend_;
  std::vector<uint8_t*> base_;
  std::vector<uint8_t> host_copy_;  // of an output that is scanned for non-finite values
  std::vector<std::shared_ptr<Region>> aligned_;
  std::vector<NodeTiming> timing_;
  bool marked_ = false;  // the device notes each node that is done
  uint32_t first_mark_ = 0;
  bool launched_ = false;  // as a recording, which does not say which of its nodes are done
};

}  // namespace

void Recording::release() {
  if (handle) Backend::of(device.kind).release_recording(device.index, handle);
  handle = nullptr;
  refused = false;
  base.clear();
}

bool settle_unfinished(Status* status, const Backend& backend, Stream& stream, std::vector<UnfinishedRun>* runs) {
  const std::vector<UnfinishedRun> earlier = std::move(*runs);
  runs->clear();
  if (status->ok() || earlier.empty() || !backend.last_mark) return false;
  const uint32_t last = backend.last_mark(stream);
  for (const UnfinishedRun& run : earlier) {
    const uint32_t done = last - run.first_mark;
    if (last < run.first_mark || done >= run.program->program.nodes.size()) continue;
    *status = node_status(*run.program, done, status->code(), status->message());
    return true;
  }
  return false;
}

Status execute(const RunRequest& request, RunContext& context) { return Run(request, context)(); }

}  // namespace lathe
