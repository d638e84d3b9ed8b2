// The validator's three passes; see the header for the idea.
#include "engine/validate.h"

#include <algorithm>
#include <map>
#include <unordered_set>

namespace lathe {

namespace {

using Kind = BufferSpec::Kind;

Status node_error(const Program& program, size_t index, const std::string& message) {
  return program_error(describe(program.nodes[index], index) + ": " + message);
}

std::string name_buffer(uint32_t buffer) { return "buffer " + std::to_string(buffer); }

Status check_buffer(const Program& program, size_t index) {
  const BufferSpec& buffer = program.buffers[index];
  const uint64_t bytes = static_cast<uint64_t>(buffer.type.bytes());
  const std::string name = name_buffer(static_cast<uint32_t>(index)) + " " + describe(buffer.type);
  switch (buffer.kind) {
    case Kind::Arena:
    case Kind::Constant: {
      const bool arena = buffer.kind == Kind::Arena;
      const uint64_t size = arena ? program.arena_bytes : program.blob.size();
      if (buffer.place % kAlignment != 0) {
        return program_error(name + ": its offset " + std::to_string(buffer.place) + " in the " +
                             (arena ? "arena" : "constants") + " is not a multiple of " + std::to_string(kAlignment));
      }
      if (buffer.place > size || bytes > size - buffer.place) {
        return program_error(name + " at " + std::to_string(buffer.place) + " ends outside the " +
                             (arena ? "arena" : "constants") + " of " + std::to_string(size) + " bytes");
      }
      return ok_status();
    }
    case Kind::State: {
      if (buffer.place >= program.states.size()) {
        return program_error(name + ": state " + std::to_string(buffer.place) + " does not exist");
      }
      const StateSpec& state = program.states[buffer.place];
      // A reshaped view of a slot is allowed; another element type or size is not.
      if (state.type.dtype != buffer.type.dtype || state.type.numel() != buffer.type.numel()) {
        return program_error(name + " does not match state '" + state.name + "' " + describe(state.type));
      }
      return ok_status();
    }
    case Kind::External:
      return ok_status();
  }
  return program_error(name + ": unknown kind");
}

Status check_ports(const Program& program, const std::vector<PortSpec>& ports, bool input) {
  std::unordered_set<std::string> names;
  std::unordered_set<uint32_t> buffers;
  for (const PortSpec& port : ports) {
    const std::string what = std::string(input ? "input" : "output") + " '" + port.name + "'";
    if (!names.insert(port.name).second) return program_error(what + " appears twice");
    if (port.buffer >= program.buffers.size()) {
      return program_error(what + ": " + name_buffer(port.buffer) + " does not exist");
    }
    if (!input) continue;
    const Kind kind = program.buffers[port.buffer].kind;
    if (kind != Kind::Arena && kind != Kind::External) {
      return program_error(what + ": only arena and external buffers can be bound");
    }
    if (!buffers.insert(port.buffer).second) return program_error(what + " shares its buffer with another input");
  }
  return ok_status();
}

Status check_node(const Program& program, size_t index) {
  const NodeSpec& node = program.nodes[index];
  // Kernels check their optional outputs; a node whose outputs are all absent should not be in a program.
  if (std::all_of(node.outputs.begin(), node.outputs.end(), [](uint32_t buffer) { return buffer == kAbsentBuffer; })) {
    return node_error(program, index, "has no outputs");
  }
  if (node.scratch_bytes > program.scratch_bytes) {
    return node_error(program, index, "wants " + std::to_string(node.scratch_bytes) + " bytes of scratch, the program has " +
                                          std::to_string(program.scratch_bytes));
  }
  for (uint32_t buffer : node.inputs) {
    if (buffer >= program.buffers.size()) return node_error(program, index, name_buffer(buffer) + " does not exist");
  }
  for (uint32_t buffer : node.outputs) {
    if (buffer == kAbsentBuffer) continue;
    if (buffer >= program.buffers.size()) return node_error(program, index, name_buffer(buffer) + " does not exist");
    const Kind kind = program.buffers[buffer].kind;
    if (kind != Kind::Arena && kind != Kind::State) {
      return node_error(program, index, "writes " + name_buffer(buffer) + ", which is read-only");
    }
  }
  return ok_status();
}

// Which value every byte of the arena and every state slot holds at one point of the node order.
class Storage {
 public:
  explicit Storage(const Program& program)
      : program_(program), bound_(program.buffers.size(), 0), external_(program.buffers.size(), false) {
    for (size_t i = 0; i < program.states.size(); i++) states_.push_back({0, next_version_++, DType::F32, kNobody});
  }

  struct Value {
    uint64_t end;
    uint64_t version;
    DType dtype;
    size_t writer;
  };
  static constexpr size_t kNobody = SIZE_MAX;

  void bind_input(uint32_t buffer) {
    if (program_.buffers[buffer].kind == Kind::External) {
      external_[buffer] = true;
    } else {
      write(buffer, kNobody);
    }
  }

  // The version of the value that a read of `buffer` sees now (0: nothing that a write could hurt).
  Status read(uint32_t buffer, uint64_t* version) {
    const BufferSpec& spec = program_.buffers[buffer];
    *version = 0;
    if (spec.type.bytes() == 0 || spec.kind == Kind::Constant) return ok_status();
    if (spec.kind == Kind::External) {
      return external_[buffer] ? ok_status() : program_error(name_buffer(buffer) + " is external but not an input");
    }
    const Value* value = find(spec);
    // The first read through a buffer that nobody wrote (a view) fixes which value it stands for.
    if (value && bound_[buffer] == 0) bound_[buffer] = value->version;
    if (!value || bound_[buffer] != value->version) return lost(buffer, value);
    *version = value->version;
    return ok_status();
  }

  void write(uint32_t buffer, size_t node) {
    const BufferSpec& spec = program_.buffers[buffer];
    const uint64_t bytes = static_cast<uint64_t>(spec.type.bytes());
    if (bytes == 0) return;
    const Value value{spec.place + bytes, next_version_++, spec.type.dtype, node};
    bound_[buffer] = value.version;
    if (spec.kind == Kind::State) {
      states_[spec.place] = value;
      return;
    }
    auto it = first_overlap(spec.place);
    while (it != arena_.end() && it->first < value.end) it = arena_.erase(it);
    arena_.emplace(spec.place, value);
  }

  // Calls visit(value, exact) for every value that a write to `buffer` would destroy.
  template <class Visit>
  Status destroyed_by(uint32_t buffer, Visit&& visit) {
    const BufferSpec& spec = program_.buffers[buffer];
    const uint64_t bytes = static_cast<uint64_t>(spec.type.bytes());
    if (bytes == 0) return ok_status();
    if (spec.kind == Kind::State) return visit(states_[spec.place], true);
    for (auto it = first_overlap(spec.place); it != arena_.end() && it->first < spec.place + bytes; ++it) {
      LATHE_TRY(visit(it->second, it->first == spec.place && it->second.end == spec.place + bytes));
    }
    return ok_status();
  }

  uint64_t next_version() const { return next_version_; }

 private:
  const Value* find(const BufferSpec& spec) const {
    if (spec.kind == Kind::State) return &states_[spec.place];
    auto it = arena_.find(spec.place);
    if (it == arena_.end()) return nullptr;
    const bool same = it->second.end == spec.place + static_cast<uint64_t>(spec.type.bytes()) &&
                      it->second.dtype == spec.type.dtype;
    return same ? &it->second : nullptr;
  }

  std::map<uint64_t, Value>::iterator first_overlap(uint64_t start) {
    auto it = arena_.upper_bound(start);
    if (it != arena_.begin() && std::prev(it)->second.end > start) --it;
    return it;
  }

  Status lost(uint32_t buffer, const Value* value) {
    if (bound_[buffer] == 0) return program_error(name_buffer(buffer) + " is read before it is written");
    if (!value) {
      auto it = first_overlap(program_.buffers[buffer].place);
      if (it != arena_.end()) value = &it->second;
    }
    const std::string by = !value                       ? "another node"
                           : value->writer == kNobody ? "an input"
                                                        : describe(program_.nodes[value->writer], value->writer);
    return program_error(name_buffer(buffer) + " is read after " + by + " overwrote it");
  }

  const Program& program_;
  std::map<uint64_t, Value> arena_;  // disjoint, by first byte
  std::vector<Value> states_;
  std::vector<uint64_t> bound_;      // the value each buffer stands for; 0: none yet
  std::vector<bool> external_;
  uint64_t next_version_ = 1;
};

// One node: reads, then the rule for outputs that share bytes with its inputs or with each other, then writes.
Status replay_node(const Program& program, size_t index, const KernelPlan& plan, Storage& storage) {
  const NodeSpec& node = program.nodes[index];
  std::vector<std::pair<uint64_t, int>> reads;  // (version, input)
  for (size_t i = 0; i < node.inputs.size(); i++) {
    uint64_t version = 0;
    Status status = storage.read(node.inputs[i], &version);
    if (!status.ok()) return node_error(program, index, "input " + std::to_string(i) + ": " + status.message());
    if (version != 0) reads.emplace_back(version, static_cast<int>(i));
  }
  std::sort(reads.begin(), reads.end());

  const uint64_t first_own = storage.next_version();
  for (size_t o = 0; o < node.outputs.size(); o++) {
    const uint32_t buffer = node.outputs[o];
    if (buffer == kAbsentBuffer) continue;
    const std::string output = "output " + std::to_string(o) + " (" + name_buffer(buffer) + ")";
    LATHE_TRY(storage.destroyed_by(buffer, [&](const Storage::Value& value, bool exact) -> Status {
      if (value.version >= first_own) return node_error(program, index, output + " overlaps another of its outputs");
      auto it = std::lower_bound(reads.begin(), reads.end(), std::make_pair(value.version, 0));
      for (; it != reads.end() && it->first == value.version; ++it) {
        if (exact && plan.alias_allowed(static_cast<int>(o), it->second)) continue;
        return node_error(program, index, output + " overlaps input " + std::to_string(it->second) +
                                              (exact ? ", which this op does not allow" : " partly"));
      }
      return ok_status();
    }));
    storage.write(buffer, index);
  }
  return ok_status();
}

NodeView view_of(const Program& program, NodeSpec& node) {
  // Equal to no tensor's type, so a kernel that forgets to ask whether an output is there refuses the node.
  TensorType absent;
  absent.rank = 1;
  absent.shape[0] = -1;
  NodeView view;
  view.op = node.op;
  view.where = node.where;
  for (uint32_t buffer : node.inputs) view.inputs.push_back(program.buffers[buffer].type);
  for (uint32_t buffer : node.outputs) {
    view.output_present.push_back(buffer != kAbsentBuffer);
    view.outputs.push_back(buffer == kAbsentBuffer ? absent : program.buffers[buffer].type);
  }
  view.scratch_bytes = static_cast<int64_t>(node.scratch_bytes);
  view.attributes = std::move(node.attributes);
  return view;
}

uint64_t arena_end_of(const Program& program, const NodeSpec& node) {
  uint64_t end = 0;
  auto include = [&](uint32_t index) {
    if (index == kAbsentBuffer) return;
    const BufferSpec& buffer = program.buffers[index];
    if (buffer.kind == Kind::Arena) end = std::max(end, buffer.place + static_cast<uint64_t>(buffer.type.bytes()));
  };
  for (uint32_t buffer : node.inputs) include(buffer);
  for (uint32_t buffer : node.outputs) include(buffer);
  return end;
}

}  // namespace

std::string describe(const TensorType& type) {
  static const char* const kNames[kDTypeCount] = {"f32", "bf16", "f16", "i32", "u8"};
  std::string out = std::string(kNames[static_cast<int>(type.dtype)]) + " [";
  for (int i = 0; i < type.rank; i++) out += (i ? ", " : "") + std::to_string(type.shape[i]);
  return out + "]";
}

std::string describe(const NodeSpec& node, size_t index) {
  return "node " + std::to_string(index) + " " + node.op + (node.where.empty() ? "" : " (" + node.where + ")");
}

Status check_structure(const Program& program) {
  constexpr uint64_t kMost = uint64_t{1} << 47;
  if (program.arena_bytes > kMost || program.scratch_bytes > kMost) {
    return program_error("an arena of " + std::to_string(program.arena_bytes) + " bytes with a scratch of " +
                         std::to_string(program.scratch_bytes) + " is out of range");
  }
  std::unordered_set<std::string> names;
  for (const StateSpec& state : program.states) {
    if (!names.insert(state.name).second) return program_error("state '" + state.name + "' appears twice");
  }
  for (size_t i = 0; i < program.buffers.size(); i++) LATHE_TRY(check_buffer(program, i));
  LATHE_TRY(check_ports(program, program.inputs, true));
  LATHE_TRY(check_ports(program, program.outputs, false));
  for (size_t i = 0; i < program.nodes.size(); i++) LATHE_TRY(check_node(program, i));
  return ok_status();
}

Status prepare_nodes(Program& program, const DeviceSpec& device, std::vector<PreparedNode>* out) {
  const Registry& registry = Registry::of(device.kind);
  out->clear();
  out->reserve(program.nodes.size());
  for (size_t i = 0; i < program.nodes.size(); i++) {
    NodeSpec& node = program.nodes[i];
    PreparedNode prepared;
    prepared.kernel = registry.find(node.op);
    if (!prepared.kernel) return node_error(program, i, "no kernel of this name on this device");
    NodeView view = view_of(program, node);
    Status status = prepared.kernel->prepare(view, device, &prepared.plan);
    if (!status.ok()) return {status.code(), "node " + std::to_string(i) + ": " + status.message()};
    const std::vector<std::string> unread = view.attributes.unread();
    if (!unread.empty()) return node_error(program, i, "attribute '" + unread.front() + "' is not known to this op");
    prepared.arena_end = arena_end_of(program, node);
    out->push_back(std::move(prepared));
  }
  return ok_status();
}

Status check_dataflow(const Program& program, const std::vector<PreparedNode>& nodes) {
  Storage storage(program);
  for (const PortSpec& port : program.inputs) storage.bind_input(port.buffer);
  for (size_t i = 0; i < program.nodes.size(); i++) LATHE_TRY(replay_node(program, i, nodes[i].plan, storage));
  for (const PortSpec& port : program.outputs) {
    uint64_t version = 0;
    Status status = storage.read(port.buffer, &version);
    if (!status.ok()) return program_error("output '" + port.name + "': " + status.message());
  }
  return ok_status();
}

}  // namespace lathe
