// The general product: any dtype, orientation and alignment, 4-bit weights too, element by element; 64 x 64 tiles, 128
// threads. bf16 arithmetic uses mma.m16n8k16, fp32 arithmetic fma. What the faster ways cannot take ends here.
#include "cuda/gemm_device.cuh"

namespace lathe::cuda {
namespace {

constexpr int kTile = 64;
constexpr unsigned kThreads = 128;

// One tile of op(operand), rows [row0, row0 + 64) of M or N by columns [k0, k0 + kDepth) of K, into tile[row][k] with
// `ld`. `k_first`: K is the stored matrix's row, so neighbouring threads walk along M or N.
template <int kDepth, class Put>
__device__ __forceinline__ void load_tile(const GemmOperand& o, const GemmTables& t, int64_t row0, int64_t rows, int64_t k0, int64_t depth, bool k_first, Put put) {
  for (int e = int(threadIdx.x); e < kTile * kDepth; e += int(kThreads)) {
    const int r = k_first ? e % kTile : e / kDepth, k = k_first ? e / kTile : e % kDepth;
    float v = 0;
    if (row0 + r < rows && k0 + k < depth) v = k_first ? fetch(o, t, k0 + k, row0 + r) : fetch(o, t, row0 + r, k0 + k);
    put(r, k, v);
  }
}

// The block's 64 x 64 results: where they begin, and the rows that exist.
struct Tile {
  GemmTables tables;
  int64_t m, row, col;
};
// Fills the code books; the first barrier of for_each_step makes them visible.
__device__ __forceinline__ Tile begin_tile(const GemmCall& g, float* four_bit, float* dynamic) {
  fill_tables(four_bit, dynamic);
  const int64_t tiles_n = (g.n + kTile - 1) / kTile;
  return {{four_bit, dynamic}, limited(g.limit_m, g.m), int64_t(blockIdx.x) / tiles_n * kTile, int64_t(blockIdx.x) % tiles_n * kTile};
}
// kDepth of K after another, of all terms: put_a and put_b get the operands' elements, then step() multiplies. Returns the K there was.
template <int kDepth, class PutA, class PutB, class Step>
__device__ __forceinline__ int64_t for_each_step(const GemmCall& g, const Tile& tile, PutA put_a, PutB put_b, Step step) {
  int64_t total = 0;
  for (int i = 0; i < g.term_count; i++) {
    const GemmTerm& term = g.terms[i];
    const int64_t depth = limited(g.limit_k, term.k);
    total += depth;
    for (int64_t k0 = 0; k0 < depth; k0 += kDepth) {
      block_sync();  // the tiles before have been read; at first, the tables are written
      load_tile<kDepth>(term.a, tile.tables, tile.row, tile.m, k0, depth, term.a.transposed != 0, put_a);
      load_tile<kDepth>(term.b, tile.tables, tile.col, g.n, k0, depth, term.b.transposed == 0, put_b);
      block_sync();
      step();
    }
  }
  return total;
}

// bf16: 4 warps of 32 x 32. Shared rows are 40 elements apart, so that a fragment's 8 rows hit different banks.
__global__ void __launch_bounds__(kThreads) gemm_bf16_kernel(__grid_constant__ const GemmCall g) {
  constexpr int kDepth = 32, kLd = kDepth + 8;
  LATHE_SHARED(uint16_t, a_tile, kTile * kLd);
  LATHE_SHARED(uint16_t, b_tile, kTile * kLd);
  LATHE_SHARED(float, four_bit, 32);
  LATHE_SHARED(float, dynamic, 256);
  const Tile tile = begin_tile(g, four_bit, dynamic);
  if (tile.row >= tile.m) return;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), group = lane / 4, pair = lane % 4;
  const int warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
  float sum[2][4][4] = {};
  const int64_t total = for_each_step<kDepth>(
      g, tile, [&](int r, int k, float v) { a_tile[r * kLd + k] = round_bf16(float_bits(v)); }, [&](int r, int k, float v) { b_tile[r * kLd + k] = round_bf16(float_bits(v)); }, [&] {
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        uint32_t a[2][4], b[4][2];
#pragma unroll
        for (int x = 0; x < 2; x++)
#pragma unroll
          for (int j = 0; j < 4; j++)
            a[x][j] = *reinterpret_cast<const uint32_t*>(&a_tile[(warp_row + x * 16 + group + j % 2 * 8) * kLd + k + 2 * pair + j / 2 * 8]);
#pragma unroll
        for (int y = 0; y < 4; y++)
#pragma unroll
          for (int j = 0; j < 2; j++)
            b[y][j] = *reinterpret_cast<const uint32_t*>(&b_tile[(warp_col + y * 8 + group) * kLd + k + 2 * pair + j * 8]);
#pragma unroll
        for (int x = 0; x < 2; x++)
#pragma unroll
          for (int y = 0; y < 4; y++) mma_bf16(sum[x][y], a[x], b[y]);
      }
    });
  if (g.keep_when_empty && total == 0) return;
#pragma unroll
  for (int x = 0; x < 2; x++)
#pragma unroll
    for (int y = 0; y < 4; y++)
#pragma unroll
      for (int j = 0; j < 4; j++)
        finish(g, tile.row + warp_row + x * 16 + group + j / 2 * 8, tile.col + warp_col + y * 8 + 2 * pair + j % 2, tile.m, sum[x][y][j]);
}

// fp32: each thread owns 8 x 4 results, rows 8 apart.
__global__ void __launch_bounds__(kThreads) gemm_f32_kernel(__grid_constant__ const GemmCall g) {
  constexpr int kDepth = 16, kLd = kDepth + 1;
  LATHE_SHARED(float, a_tile, kTile * kLd);
  LATHE_SHARED(float, b_tile, kTile * kLd);
  LATHE_SHARED(float, four_bit, 32);
  LATHE_SHARED(float, dynamic, 256);
  const Tile tile = begin_tile(g, four_bit, dynamic);
  if (tile.row >= tile.m) return;
  const int tx = int(threadIdx.x % 16), ty = int(threadIdx.x / 16);
  float sum[8][4] = {};
  const int64_t total = for_each_step<kDepth>(
      g, tile, [&](int r, int k, float v) { a_tile[r * kLd + k] = v; }, [&](int r, int k, float v) { b_tile[r * kLd + k] = v; }, [&] {
#pragma unroll
      for (int k = 0; k < kDepth; k++) {
        float b[4];
#pragma unroll
        for (int y = 0; y < 4; y++) b[y] = b_tile[(tx + y * 16) * kLd + k];
#pragma unroll
        for (int x = 0; x < 8; x++) {
          const float a = a_tile[(ty + x * 8) * kLd + k];
#pragma unroll
          for (int y = 0; y < 4; y++) sum[x][y] = fma_rn(a, b[y], sum[x][y]);
        }
      }
    });
  if (g.keep_when_empty && total == 0) return;
#pragma unroll
  for (int x = 0; x < 8; x++)
#pragma unroll
    for (int y = 0; y < 4; y++) finish(g, tile.row + ty + x * 8, tile.col + tx + y * 16, tile.m, sum[x][y]);
}

}  // namespace

Status gemm_general(Stream& stream, const GemmCall& call, bool bf16_compute) {
  const Grid grid(ceil_div(call.m, kTile) * ceil_div(call.n, kTile));
  return launch(stream, bf16_compute ? gemm_bf16_kernel : gemm_f32_kernel, grid, kThreads, 0, call);
}

}  // namespace lathe::cuda
