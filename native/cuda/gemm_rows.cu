// Few rows (generation): C [m <= 32, n] = sum_i a_i b_i^T with the weight streamed once, 4-bit or dense.
//
// The weight is the left operand of mma.m16n8k16 and the rows of A its eight columns, so up to 8 rows cost as many
// instructions as one and a 4-bit value is rounded to bf16 as in every other product. A block owns 16 columns of C; its 8
// warps take turns along K, 64 values at a time (one block of scales), and their sums are added in a fixed order. Within
// a turn a lane holds 16 neighbours of a row, 8 bytes of codes: which value meets which slot of the product does not
// matter as long as both operands agree.
#include "cuda/gemm_device.cuh"

namespace lathe::cuda {
namespace {

constexpr int kWarps = 8, kColumns = 16, kTurn = 64;
constexpr unsigned kThreads = kWarps * 32;
constexpr int64_t kMostRows = 32;

struct alignas(16) Words { uint32_t at[4]; };
struct alignas(8) Codes { uint32_t low, high; };

// Values [k0, k0 + 16) of a stored row as bf16 pairs; zeros past `k` and past the last row.
__device__ __forceinline__ void read_16(uint32_t (&out)[8], const GemmOperand& o, const GemmTables& t, int64_t row, int64_t rows, int64_t k0, int64_t k) {
  if (row >= rows || k0 >= k) {
#pragma unroll
    for (int j = 0; j < 8; j++) out[j] = 0;
    return;
  }
  const int64_t at = row * o.ld + k0;
  if (o.format >= kFormatNf4) {
    const Codes codes = *reinterpret_cast<const Codes*>(static_cast<const uint8_t*>(o.data) + at / 2);
    decode_16(out, codes.low, codes.high, t.four_bit + (o.format - kFormatNf4) * 16, block_scale(o, t, at / 64));
  } else if (o.format == kFormatBf16 && o.ld % 8 == 0 && k0 + 16 <= k) {
    const auto* from = reinterpret_cast<const Words*>(static_cast<const uint16_t*>(o.data) + at);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const Words w = from[h];
#pragma unroll
      for (int j = 0; j < 4; j++) out[4 * h + j] = w.at[j];
    }
  } else {
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const int64_t c = k0 + 2 * j;
      out[j] = bf16_pair(c < k ? load_as(o.data, at + 2 * j, o.format) : 0.0f, c + 1 < k ? load_as(o.data, at + 2 * j + 1, o.format) : 0.0f);
    }
  }
}

template <int kTiles>
__global__ void __launch_bounds__(kThreads, kTiles == 4 ? 2 : 3) rows_kernel(__grid_constant__ const GemmCall g) {
  LATHE_SHARED(float, four_bit, 32);
  LATHE_SHARED(float, dynamic, 256);
  LATHE_SHARED(float, partial, kWarps * kTiles * 128);
  fill_tables(four_bit, dynamic);
  block_sync();
  const GemmTables tables{four_bit, dynamic};
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32), group = lane / 4, pair = lane % 4;
  const int64_t n0 = int64_t(blockIdx.x) * kColumns;
  float sum[kTiles][4] = {};
  for (int i = 0; i < g.term_count; i++) {
    const GemmTerm& term = g.terms[i];
#pragma unroll 2
    for (int64_t turn = warp; turn * kTurn < term.k; turn += kWarps) {
      const int64_t k0 = turn * kTurn + pair * 16;
      uint32_t w[2][8];
#pragma unroll
      for (int h = 0; h < 2; h++) read_16(w[h], term.b, tables, n0 + group + 8 * h, g.n, k0, term.k);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
        uint32_t x[8];
        read_16(x, term.a, tables, tile * 8 + group, g.m, k0, term.k);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const uint32_t a[4] = {w[0][2 * j], w[1][2 * j], w[0][2 * j + 1], w[1][2 * j + 1]}, b[2] = {x[2 * j], x[2 * j + 1]};
          mma_bf16(sum[tile], a, b);
        }
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; tile++)
#pragma unroll
    for (int j = 0; j < 4; j++) partial[(warp * kTiles + tile) * 128 + lane * 4 + j] = sum[tile][j];
  block_sync();
  for (int e = int(threadIdx.x); e < kTiles * 128; e += int(kThreads)) {
    float total = partial[e];
    for (int w = 1; w < kWarps; w++) total += partial[w * kTiles * 128 + e];
    const int from = e % 128 / 4, j = e % 4;
    finish(g, e / 128 * 8 + from % 4 * 2 + j % 2, n0 + from / 4 + j / 2 * 8, g.m, total);
  }
}

}  // namespace

bool gemm_rows_takes(const GemmCall& call) {
  if (call.m > kMostRows || call.limit_m.count || call.limit_k.count) return false;
  for (int i = 0; i < call.term_count; i++) {
    const GemmTerm& t = call.terms[i];
    if (t.a.transposed || !t.b.transposed || (t.b.format >= kFormatNf4 && t.b.ld % kTurn != 0)) return false;
  }
  return true;
}

Status gemm_rows(Stream& stream, const GemmCall& call) {
  auto* kernel = call.m <= 8 ? rows_kernel<1> : call.m <= 16 ? rows_kernel<2> : rows_kernel<4>;
  return launch(stream, kernel, Grid(ceil_div(call.n, kColumns)), kThreads, 0, call);
}

}  // namespace lathe::cuda
