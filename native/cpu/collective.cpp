// What a program does together with the other ranks: all_reduce, broadcast (lathe/collective.h carries the bytes).
//
// all_reduce goes through the tensors, laid end to end, in pieces: every rank sends slice r of the piece to rank r, adds
// the slices it receives in rank order (in f64, one rounding) and gathers the sums. Each element is summed once, on one
// rank, so all ranks hold the same bits, and no more is sent than in any all-reduce.
//
// scratch(all_reduce) = 8 * world * ceil(min(elements, 262144) / world) if world > 1, else 0
// scratch(broadcast) = 0
#include <vector>

#include "common.h"
#include "lathe/collective.h"

namespace lathe::cpu {
namespace {

constexpr int64_t kPiece = 262144;  // elements

struct Tensors {
  std::vector<int64_t> size;  // all_reduce: elements; broadcast: bytes
  std::vector<int> roots;
  int world = 1;
  int64_t total = 0;
  int64_t slice() const { return (std::min(total, kPiece) + world - 1) / world; }
};

Status prepare_tensors(NodeView& node, KernelPlan* plan, Tensors** out) {
  auto* t = plan->emplace<Tensors>();
  int64_t world = 0;
  LATHE_TRY(node.attributes.integer("world", &world));
  const int size = Collective::process().size();
  LATHE_EXPECT(node, world == size, "the program was made for " + std::to_string(world) + " ranks, this process is one of " + std::to_string(size));
  t->world = size;
  LATHE_TRY(expect_arity(node, node.inputs.size(), node.inputs.size()));
  for (size_t i = 0; i < node.inputs.size(); i++) {
    LATHE_TRY(expect_same(node, node.inputs[i], node.outputs[i], "an output"));
    plan->allow_alias(int(i), int(i));
  }
  *out = t;
  return ok_status();
}

Status prepare_all_reduce(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Tensors* t;
  LATHE_TRY(prepare_tensors(node, plan, &t));
  for (auto& x : node.inputs) {
    LATHE_EXPECT(node, x.dtype == DType::F32, "expected f32, got " + describe(x));
    t->size.push_back(x.numel());
    t->total += x.numel();
  }
  return expect_scratch(node, t->world > 1 ? 8 * t->world * t->slice() : 0);
}

// Calls fn(tensor, first element, elements, place in the piece) for what [start, start + n) of all elements covers.
template <class F>
void over_span(const Tensors& t, int64_t start, int64_t n, F&& fn) {
  int64_t at = 0;
  for (size_t i = 0; i < t.size.size() && at < start + n; at += t.size[i], i++) {
    const int64_t from = std::max(start, at), to = std::min(start + n, at + t.size[i]);
    if (from < to) fn(int(i), from - at, to - from, from - start);
  }
}

Status run_all_reduce(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& t = plan.get<Tensors>();
  if (t.world == 1) {
    for (size_t i = 0; i < t.size.size(); i++) copy_bytes(stream, b.outputs[i], b.inputs[i], 4 * t.size[i]);
    return ok_status();
  }
  Collective& world = Collective::process();
  const int64_t slice = t.slice(), piece = slice * t.world;
  auto* mine = static_cast<float*>(b.scratch);
  auto* theirs = mine + piece;
  for (int64_t start = 0; start < t.total; start += piece) {
    const int64_t n = std::min(piece, t.total - start);
    over_span(t, start, n, [&](int i, int64_t first, int64_t count, int64_t place) {
      std::memcpy(mine + place, b.in<float>(i) + first, size_t(4 * count));
    });
    std::fill(mine + n, mine + piece, 0.0f);
    LATHE_TRY(world.all_to_all(mine, theirs, uint64_t(4 * slice)));
    parallel_range(stream, slice, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; j++) {
        double sum = 0;
        for (int r = 0; r < t.world; r++) sum += double(theirs[r * slice + j]);
        theirs[j] = float(sum);
      }
    });
    LATHE_TRY(world.all_gather(theirs, mine, uint64_t(4 * slice)));
    over_span(t, start, n, [&](int i, int64_t first, int64_t count, int64_t place) {
      std::memcpy(b.out<float>(i) + first, mine + place, size_t(4 * count));
    });
  }
  return ok_status();
}

Status prepare_broadcast(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  Tensors* t;
  LATHE_TRY(prepare_tensors(node, plan, &t));
  std::vector<double> roots;
  LATHE_TRY(node.attributes.numbers("roots", &roots));
  LATHE_EXPECT(node, roots.size() == node.inputs.size(), "roots: expected one rank per input");
  for (size_t i = 0; i < roots.size(); i++) {
    LATHE_EXPECT(node, roots[i] >= 0 && roots[i] < t->world && roots[i] == int(roots[i]), "roots: expected a rank, got " + std::to_string(roots[i]));
    t->roots.push_back(int(roots[i]));
    t->size.push_back(node.inputs[i].bytes());
  }
  return ok_status();
}
Status run_broadcast(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& t = plan.get<Tensors>();
  Collective& world = Collective::process();
  for (size_t i = 0; i < t.size.size(); i++) {
    if (t.roots[i] == world.rank()) copy_bytes(stream, b.outputs[i], b.inputs[i], t.size[i]);
    LATHE_TRY(world.broadcast(b.outputs[i], uint64_t(t.size[i]), t.roots[i]));
  }
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(all_reduce, prepare_all_reduce, run_all_reduce);
LATHE_CPU_KERNEL(broadcast, prepare_broadcast, run_broadcast);

}  // namespace lathe::cpu
