// Ops over the ranks of a job. One rank only so far: the world of several GPUs is NCCL's business, which is not here yet, and
// a program made for more ranks is refused when it loads.
//
// scratch(each) = 0
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

struct Copies { std::vector<int64_t> bytes; };

Status prepare_alone(NodeView& node, KernelPlan* plan) {
  int64_t world = 0;
  LATHE_TRY(node.attributes.integer("world", &world));
  LATHE_EXPECT(node, world == 1, "the program was made for " + std::to_string(world) + " ranks, and the CUDA backend knows one: train on one GPU, or with --device cpu");
  LATHE_TRY(expect_arity(node, node.inputs.size(), node.inputs.size()));
  auto* c = plan->emplace<Copies>();
  for (size_t i = 0; i < node.inputs.size(); i++) {
    LATHE_TRY(expect_same(node, node.inputs[i], node.outputs[i], "an output"));
    plan->allow_alias(int(i), int(i));
    c->bytes.push_back(node.inputs[i].bytes());
  }
  return ok_status();
}
Status prepare_all_reduce(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(prepare_alone(node, plan));
  for (auto& x : node.inputs) LATHE_EXPECT(node, x.dtype == DType::F32, "expected f32, got " + describe(x));
  return ok_status();
}
Status prepare_broadcast(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  std::vector<double> roots;
  LATHE_TRY(node.attributes.numbers("roots", &roots));
  LATHE_EXPECT(node, roots.size() == node.inputs.size(), "roots: expected one rank per input");
  for (double root : roots) LATHE_EXPECT(node, root == 0, "roots: expected a rank, got " + std::to_string(root));
  return prepare_alone(node, plan);
}
Status run_copies(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Copies>();
  for (size_t i = 0; i < c.bytes.size(); i++)
    if (c.bytes[i] > 0 && b.outputs[i] && b.outputs[i] != b.inputs[i])
      LATHE_TRY(copy_queued(queue_of(stream), b.outputs[i], b.inputs[i], uint64_t(c.bytes[i]), CopyKind::OnDevice));
  return ok_status();
}

}  // namespace

LATHE_CUDA_KERNEL(all_reduce, prepare_all_reduce, run_copies);
LATHE_CUDA_KERNEL(broadcast, prepare_broadcast, run_copies);

}  // namespace lathe::cuda
