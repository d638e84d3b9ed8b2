// Our own dense product on tensor cores: 128 x 128 tiles of C, 8 warps of 64 x 32, K in steps of 32, three stages of
// cp.async, fragments by ldmatrix. Operands are bf16 in either orientation; terms follow each other in one pipeline.
//
// Shared rows are 16 bytes longer than their content, so that the eight rows of an ldmatrix hit different banks. Blocks are
// numbered in strips of eight row tiles, which share their columns of B in L2. The idea of a multi-stage cp.async
// pipeline with one barrier per step is NVIDIA's (CUTLASS, sm80 GEMM).
#include "cuda/gemm_device.cuh"

namespace lathe::cuda {
namespace {

constexpr int kTile = 128, kDepth = 32, kStages = 3;
constexpr int kAlongK = kDepth + 8, kAcross = kTile + 8;  // row lengths in shared memory, by orientation
constexpr int kOperand = kTile * kAlongK;                 // the larger of the two
constexpr unsigned kThreads = 256;
constexpr int kStrip = 8;
static_assert(kDepth * kAcross <= kOperand);

// One stage of an operand, rows [row0, row0 + 128) of M or N by [k0, k0 + 32) of K.
__device__ __forceinline__ void load_stage(uint16_t* tile, const GemmOperand& o, bool along_k, int64_t row0, int64_t rows, int64_t k0, int64_t depth) {
  const auto* data = static_cast<const uint16_t*>(o.data);
#pragma unroll
  for (int i = 0; i < kTile * kDepth / 8 / int(kThreads); i++) {
    const int e = int(threadIdx.x) + i * int(kThreads);
    const int r = along_k ? e / (kDepth / 8) : e / (kTile / 8), c = (along_k ? e % (kDepth / 8) : e % (kTile / 8)) * 8;
    const int64_t row = (along_k ? row0 : k0) + r, col = (along_k ? k0 : row0) + c;
    const int64_t left = (along_k ? depth : rows) - col;
    const int valid = row < (along_k ? rows : depth) && left > 0 ? int(left < 8 ? left : 8) : 0;
    copy_async(tile + r * (along_k ? kAlongK : kAcross) + c, valid ? data + row * o.ld + col : data, 2 * valid);
  }
}

struct Cursor {
  int term = 0;
  int64_t k0 = 0;
  __device__ __forceinline__ void settle(const GemmCall& g, const GemmLimit& limit) {
    while (term < g.term_count && k0 >= limited(limit, g.terms[term].k)) term++, k0 = 0;
  }
};

__global__ void __launch_bounds__(kThreads) mma_kernel(__grid_constant__ const GemmCall g) {
  LATHE_DYNAMIC_SHARED(shared);
  auto* stages = reinterpret_cast<uint16_t*>(shared);
  const int64_t m = limited(g.limit_m, g.m);
  const int64_t tiles_m = (g.m + kTile - 1) / kTile, tiles_n = (g.n + kTile - 1) / kTile;
  const int64_t strip = int64_t(blockIdx.x) / (kStrip * tiles_n), inside = int64_t(blockIdx.x) % (kStrip * tiles_n);
  const int64_t height = tiles_m - strip * kStrip < kStrip ? tiles_m - strip * kStrip : kStrip;
  const int64_t row0 = (strip * kStrip + inside % height) * kTile, col0 = inside / height * kTile;
  if (row0 >= m) return;
  int64_t steps = 0;
  for (int i = 0; i < g.term_count; i++) steps += (limited(g.limit_k, g.terms[i].k) + kDepth - 1) / kDepth;
  if (g.keep_when_empty && steps == 0) return;

  Cursor ahead, here;
  ahead.settle(g, g.limit_k), here.settle(g, g.limit_k);
  auto produce = [&](int stage) {
    if (ahead.term < g.term_count) {
      const GemmTerm& t = g.terms[ahead.term];
      const int64_t depth = limited(g.limit_k, t.k);
      load_stage(stages + stage * 2 * kOperand, t.a, !t.a.transposed, row0, m, ahead.k0, depth);
      load_stage(stages + stage * 2 * kOperand + kOperand, t.b, t.b.transposed, col0, g.n, ahead.k0, depth);
      ahead.k0 += kDepth;
      ahead.settle(g, g.limit_k);
    }
    copy_commit();
  };
  for (int s = 0; s + 1 < kStages; s++) produce(s);

  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), group = lane / 4, pair = lane % 4;
  const int warp_row = warp / 4 * 64, warp_col = warp % 4 * 32;
  const int r = lane % 8, low = lane / 8 % 2 * 8, high = lane / 16 * 8;
  float sum[4][4][4] = {};
  for (int64_t step = 0; step < steps; step++) {
    copy_wait<kStages - 2>();
    block_sync();  // this stage has arrived for everybody, and everybody is done with the one that is filled next
    produce(int((step + kStages - 1) % kStages));
    const uint16_t* a_tile = stages + int(step % kStages) * 2 * kOperand;
    const uint16_t* b_tile = a_tile + kOperand;
    const bool a_along = !g.terms[here.term].a.transposed, b_along = g.terms[here.term].b.transposed;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      uint32_t a[4][4], b[4][2];
#pragma unroll
      for (int x = 0; x < 4; x++) {
        const int row = warp_row + x * 16;
        if (a_along) load_matrices<false>(a[x], a_tile + (row + low + r) * kAlongK + k + high);
        else load_matrices<true>(a[x], a_tile + (k + high + r) * kAcross + row + low);
      }
#pragma unroll
      for (int y = 0; y < 4; y += 2) {
        const int col = warp_col + y * 8;
        uint32_t two[4];
        if (b_along) load_matrices<false>(two, b_tile + (col + high + r) * kAlongK + k + low);
        else load_matrices<true>(two, b_tile + (k + low + r) * kAcross + col + high);
        b[y][0] = two[0], b[y][1] = two[1], b[y + 1][0] = two[2], b[y + 1][1] = two[3];
      }
#pragma unroll
      for (int x = 0; x < 4; x++)
#pragma unroll
        for (int y = 0; y < 4; y++) mma_bf16(sum[x][y], a[x], b[y]);
    }
    here.k0 += kDepth;
    here.settle(g, g.limit_k);
  }
  copy_wait<0>();
#pragma unroll
  for (int x = 0; x < 4; x++)
#pragma unroll
    for (int y = 0; y < 4; y++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        finish(g, row0 + warp_row + x * 16 + group + j / 2 * 8, col0 + warp_col + y * 8 + 2 * pair + j % 2, m, sum[x][y][j]);
}

bool suits(const GemmOperand& o) { return o.format == kFormatBf16 && o.ld % 8 == 0 && reinterpret_cast<uintptr_t>(o.data) % 16 == 0; }

}  // namespace

bool gemm_mma_takes(const GemmCall& call) {
  for (int i = 0; i < call.term_count; i++)
    if (!suits(call.terms[i].a) || !suits(call.terms[i].b)) return false;
  return true;
}

Status gemm_mma(Stream& stream, const GemmCall& call) {
  return launch(stream, mma_kernel, Grid(ceil_div(call.m, kTile) * ceil_div(call.n, kTile)), kThreads, size_t(kStages) * 2 * kOperand * 2, call);
}

}  // namespace lathe::cuda
