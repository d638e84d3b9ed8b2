// Validation: everything a decoded program must satisfy before one byte of it runs. In order:
//
//   check_structure   every index, range and name means something
//   prepare_nodes     every op has a kernel, and the kernel accepts types, attributes and scratch
//   check_dataflow    every read sees the value that its writer wrote
//
// The dataflow check replays the node order over the arena. A write ends the life of every value whose bytes it
// touches; a read must find its value whole. So "overlaps a live buffer" needs no liveness analysis: the victim's next
// read fails and names both nodes. All of it is O(operands * log(operands)).
#pragma once
#include <vector>

#include "lathe/kernel.h"
#include "lathe/program.h"

namespace lathe {

struct PreparedNode {
  const Kernel* kernel = nullptr;
  KernelPlan plan;
  uint64_t arena_end = 0;  // one past the last arena byte that the node touches
};

Status check_structure(const Program& program);
Status prepare_nodes(Program& program, const DeviceSpec& device, std::vector<PreparedNode>* out);
Status check_dataflow(const Program& program, const std::vector<PreparedNode>& nodes);

// "f32 [2, 3]"
std::string describe(const TensorType& type);
// "node 12 rms_norm (model.layers.0)"
std::string describe(const NodeSpec& node, size_t index);

}  // namespace lathe
