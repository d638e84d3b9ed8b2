// Operands as bf16 matrices in scratch: casts, and 4-bit weights dequantised with their nested scales in the same pass.
//
// A thread writes 16 neighbours of a row, 32 bytes; of a 4-bit weight it reads 8 bytes and one scale for them.
#include "cuda/gemm_device.cuh"

namespace lathe::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kPiece = 16;

struct Pack {
  GemmOperand from;
  uint16_t* to;
  int64_t row, rows, col, cols, ld, out_rows, out_cols, pieces;
};
struct alignas(16) Words { uint32_t at[4]; };
struct alignas(8) Codes { uint32_t low, high; };

__global__ void __launch_bounds__(kThreads) pack_kernel(__grid_constant__ const Pack p) {
  LATHE_SHARED(float, four_bit, 32);
  LATHE_SHARED(float, dynamic, 256);
  fill_tables(four_bit, dynamic);
  block_sync();
  const GemmTables tables{four_bit, dynamic};
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, r = i / p.pieces, c = i % p.pieces * kPiece;
  if (r >= p.out_rows) return;
  uint16_t* to = p.to + r * p.ld + c;
  const int64_t at = (p.row + r) * p.from.ld + p.col + c;
  const bool whole = r < p.rows && c + kPiece <= p.cols && p.ld % 8 == 0;
  if (whole && p.from.format >= kFormatNf4 && at % kPiece == 0) {
    const Codes codes = *reinterpret_cast<const Codes*>(static_cast<const uint8_t*>(p.from.data) + at / 2);
    uint32_t pairs[8];
    decode_16(pairs, codes.low, codes.high, tables.four_bit + (p.from.format - kFormatNf4) * 16, block_scale(p.from, tables, at / 64));
#pragma unroll
    for (int h = 0; h < 2; h++) reinterpret_cast<Words*>(to)[h] = {{pairs[4 * h], pairs[4 * h + 1], pairs[4 * h + 2], pairs[4 * h + 3]}};
    return;
  }
  if (whole && p.from.format == kFormatBf16 && at % 8 == 0) {
    const auto* words = reinterpret_cast<const Words*>(static_cast<const uint16_t*>(p.from.data) + at);
#pragma unroll
    for (int h = 0; h < 2; h++) reinterpret_cast<Words*>(to)[h] = words[h];
    return;
  }
  for (int j = 0; j < kPiece && c + j < p.out_cols; j++) {
    const bool inside = r < p.rows && c + j < p.cols;
    to[j] = inside ? round_bf16(float_bits(fetch(p.from, tables, p.row + r, p.col + c + j))) : uint16_t(0);
  }
}

}  // namespace

Status gemm_pack(Stream& stream, const GemmOperand& from, int64_t row, int64_t rows, int64_t col, int64_t cols, uint16_t* to, int64_t ld, int64_t out_rows, int64_t out_cols) {
  Pack p{from, to, row, rows, col, cols, ld, out_rows, out_cols, ceil_div(out_cols, kPiece)};
  if (out_rows * p.pieces == 0) return ok_status();
  return launch(stream, pack_kernel, Grid(ceil_div(out_rows * p.pieces, kThreads)), kThreads, 0, p);
}

}  // namespace lathe::cuda
