// Flash attention for bf16 on tensor cores (Dao, 2307.08691): forward, and a deterministic backward of two kernels.
//
// A block of 4 warps owns 64 rows of one document and one head; a warp owns 16 of them and passes over the other side
// in tiles of 64 (32 in the backward pass and for wide heads). Scores are made by mma.m16n8k16 with both operands in
// shared memory (ldmatrix), and the accumulator's layout is the next product's left operand, so probabilities never leave
// registers. Tiles come in by cp.async, two stages deep in the forward pass. Statistics and sums are fp32; P and dS are
// rounded to bf16 before they are multiplied. With a causal mask or a window, tiles that nobody sees are skipped.
//   forward   rows are queries; O, LSE
//   backward  delta = rowsum(dO O) first; dQ: rows are queries; dK, dV: rows are keys, looping over the query heads that
//             share them. Seven products instead of five, no atomics, no expansion of K and V.
// Head dims are padded with zeros to the next of 16, 32, 64, 80, 96, 128, 256. Rows outside documents are cleared first.
//
// Shared memory: rows are padded by 8 elements, so that a fragment's eight rows hit different banks.
#include "cuda/attention.cuh"
#include "cuda/common.cuh"

namespace lathe::cuda {
namespace {

constexpr int kRows = 64;
constexpr unsigned kThreads = 128;
constexpr float kLog2E = 1.4426950408889634f;

// Rows [first, first + kCount) of a matrix into shared memory, kDim columns; rows past `rows` and columns past `dim` are
// zero. Asynchronous where a row's pieces of 16 bytes are aligned.
template <int kDim, int kCount>
__device__ __forceinline__ void load_rows(uint16_t* tile, const uint16_t* from, int64_t ld, int64_t first, int64_t rows, int dim) {
  constexpr int kLd = kDim + 8, kPieces = kDim / 8;
  const bool wide = dim % 8 == 0 && ld % 8 == 0;
  for (int e = int(threadIdx.x); e < kCount * kPieces; e += int(kThreads)) {
    const int r = e / kPieces, c = e % kPieces * 8;
    uint16_t* to = tile + r * kLd + c;
    const bool inside = first + r < rows;
    const uint16_t* source = from + (inside ? first + r : 0) * ld + c;
    if (wide) {
      copy_async(to, inside && c < dim ? source : from, inside && c < dim ? 16 : 0);
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) to[i] = inside && c + i < dim ? source[i] : uint16_t(0);
    }
  }
}

struct Lane {
  int group, pair;
  __device__ Lane() : group(int(threadIdx.x % 32) / 4), pair(int(threadIdx.x % 4)) {}
};
// The rows that a block owns and, of those, the first of this warp; length 0: none.
struct Place {
  Tile tile;
  int64_t length, begin, head;
  int dim, row;
  __device__ Place(const AttentionShape& s, const int32_t* cu, int64_t number)
      : tile(tile_of(cu, s.documents, s.tokens, number, kRows)), length(tile.document.length), begin(tile.document.begin), head(blockIdx.y),
        dim(int(s.head_dim)), row(int(threadIdx.x / 32) * 16) {}
};
// Left operand: rows [row, row + 16), columns [k, k + 16) of a tile.
template <int kLd>
__device__ __forceinline__ void left(uint32_t (&a)[4], const uint16_t* tile, int row, int k) {
  const int lane = int(threadIdx.x % 32);
  load_matrices<false>(a, tile + (row + lane % 16) * kLd + k + lane / 16 * 8);
}
// Two right operands whose columns are the tile's rows (its transpose): columns [col, col + 16), depth [k, k + 16).
template <int kLd>
__device__ __forceinline__ void right_rows(uint32_t (&b)[4], const uint16_t* tile, int col, int k) {
  const int lane = int(threadIdx.x % 32);
  load_matrices<false>(b, tile + (col + lane / 16 * 8 + lane % 8) * kLd + k + lane / 8 % 2 * 8);
}
// Two right operands as the tile lies: depth is its rows [k, k + 16), columns [col, col + 16).
template <int kLd>
__device__ __forceinline__ void right(uint32_t (&b)[4], const uint16_t* tile, int col, int k) {
  const int lane = int(threadIdx.x % 32);
  load_matrices<true>(b, tile + (k + lane % 16) * kLd + col + lane / 16 * 8);
}
// Two neighbouring tiles of 8 columns.
__device__ __forceinline__ void mma_two(float (&low)[4], float (&high)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  mma_bf16(low, a, first);
  mma_bf16(high, a, second);
}
// The four values of an accumulator pair (columns 16 y .. 16 y + 15) as a left operand.
__device__ __forceinline__ void to_left(uint32_t (&a)[4], const float (&low)[4], const float (&high)[4]) {
  a[0] = bf16_pair(low[0], low[1]), a[1] = bf16_pair(low[2], low[3]);
  a[2] = bf16_pair(high[0], high[1]), a[3] = bf16_pair(high[2], high[3]);
}
// sum[y] += rows of `a_tile` times rows of `b_tile`, over the head dim.
template <int kDim, int kCols>
__device__ __forceinline__ void product(float (&sum)[kCols / 8][4], const uint16_t* a_tile, int row, const uint16_t* b_tile) {
  constexpr int kLd = kDim + 8;
#pragma unroll
  for (int y = 0; y < kCols / 8; y++)
#pragma unroll
    for (int j = 0; j < 4; j++) sum[y][j] = 0;
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t a[4];
    left<kLd>(a, a_tile, row, k);
#pragma unroll
    for (int y = 0; y < kCols / 8; y += 2) {
      uint32_t b[4];
      right_rows<kLd>(b, b_tile, y * 8, k);
      mma_two(sum[y], sum[y + 1], a, b);
    }
  }
}
// acc += p times the tile as it lies; p in accumulator layout, kDepth columns.
template <int kDim, int kDepth>
__device__ __forceinline__ void accumulate(float (&acc)[kDim / 8][4], const float (&p)[kDepth / 8][4], const uint16_t* tile) {
#pragma unroll
  for (int k = 0; k < kDepth / 16; k++) {
    uint32_t a[4];
    to_left(a, p[2 * k], p[2 * k + 1]);
#pragma unroll
    for (int y = 0; y < kDim / 8; y += 2) {
      uint32_t b[4];
      right<kDim + 8>(b, tile, y * 8, k * 16);
      mma_two(acc[y], acc[y + 1], a, b);
    }
  }
}
// Rows of an accumulator to device memory, scaled per row.
template <int kDim>
__device__ __forceinline__ void write_rows(uint16_t* to, int64_t ld, int64_t first, int64_t rows, int dim, const float (&acc)[kDim / 8][4], float low, float high, Lane l) {
#pragma unroll
  for (int y = 0; y < kDim / 8; y++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int64_t row = first + l.group + j / 2 * 8;
      const int c = y * 8 + 2 * l.pair + j % 2;
      if (row < rows && c < dim) to[row * ld + c] = round_bf16(float_bits(acc[y][j] * (j < 2 ? low : high)));
    }
}
// Over the four lanes that share a row.
template <class Op>
__device__ __forceinline__ float row_reduce(float v, Op op) {
  v = op(v, warp_shuffle_xor(v, 1));
  return op(v, warp_shuffle_xor(v, 2));
}

// ---- forward

template <int kDim, int kKeys>
__global__ void __launch_bounds__(kThreads) forward_kernel(AttentionShape s, const uint16_t* q, const uint16_t* k, const uint16_t* v, const int32_t* cu, uint16_t* o, float* lse) {
  constexpr int kLd = kDim + 8;
  LATHE_DYNAMIC_SHARED(shared);
  auto* q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* k_tiles = q_tile + kRows * kLd;
  uint16_t* v_tiles = k_tiles + 2 * kKeys * kLd;
  // Under a causal mask the last rows have the most work: they start first.
  const Place at(s, cu, gridDim.x - 1 - blockIdx.x);
  const auto& [tile, length, begin, head, dim, row] = at;
  if (length == 0) return;
  const Lane l;
  const uint16_t* q_doc = q + begin * s.q_ld() + head * dim;
  const uint16_t* k_doc = k + begin * s.kv_ld() + head / s.group() * dim;
  const uint16_t* v_doc = v + begin * s.kv_ld() + head / s.group() * dim;
  const int64_t last = tile.first + kRows < length ? tile.first + kRows : length;
  const int64_t lo = s.key_lo(tile.first) / kKeys * kKeys, hi = s.key_hi(last - 1, length);

  load_rows<kDim, kRows>(q_tile, q_doc, s.q_ld(), tile.first, length, dim);
  load_rows<kDim, kKeys>(k_tiles, k_doc, s.kv_ld(), lo, length, dim);
  load_rows<kDim, kKeys>(v_tiles, v_doc, s.kv_ld(), lo, length, dim);
  copy_commit();
  float acc[kDim / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const int64_t i[2] = {tile.first + row + l.group, tile.first + row + l.group + 8};
  const int64_t key_lo[2] = {s.key_lo(i[0]), s.key_lo(i[1])};
  const int64_t key_hi[2] = {s.key_hi(i[0], length), s.key_hi(i[1], length)};
  int stage = 0;
  for (int64_t j0 = lo; j0 < hi; j0 += kKeys, stage ^= 1) {
    if (j0 + kKeys < hi) {
      load_rows<kDim, kKeys>(k_tiles + (stage ^ 1) * kKeys * kLd, k_doc, s.kv_ld(), j0 + kKeys, length, dim);
      load_rows<kDim, kKeys>(v_tiles + (stage ^ 1) * kKeys * kLd, v_doc, s.kv_ld(), j0 + kKeys, length, dim);
    }
    copy_commit();
    copy_wait<1>();
    block_sync();
    float p[kKeys / 8][4];
    product<kDim, kKeys>(p, q_tile, row, k_tiles + stage * kKeys * kLd);
    float best[2] = {top[0], top[1]};
#pragma unroll
    for (int y = 0; y < kKeys / 8; y++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int64_t key = j0 + y * 8 + 2 * l.pair + j % 2;
        p[y][j] = key >= key_lo[j / 2] && key < key_hi[j / 2] ? s.score(p[y][j]) : -INFINITY;
        best[j / 2] = Max{}(best[j / 2], p[y][j]);
      }
    float shrink[2], fresh[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; h++) {
      best[h] = row_reduce(best[h], Max{});
      // A row that has seen nothing yet keeps everything at 0.
      shrink[h] = best[h] == -INFINITY ? 1.0f : exp2f((top[h] - best[h]) * kLog2E);
      top[h] = best[h];
    }
#pragma unroll
    for (int y = 0; y < kKeys / 8; y++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        p[y][j] = p[y][j] == -INFINITY ? 0.0f : exp2f((p[y][j] - top[j / 2]) * kLog2E);
        fresh[j / 2] += p[y][j];
      }
#pragma unroll
    for (int h = 0; h < 2; h++) sum[h] = sum[h] * shrink[h] + row_reduce(fresh[h], Sum{});
#pragma unroll
    for (int y = 0; y < kDim / 8; y++)
#pragma unroll
      for (int j = 0; j < 4; j++) acc[y][j] *= shrink[j / 2];
    accumulate<kDim, kKeys>(acc, p, v_tiles + stage * kKeys * kLd);
    block_sync();  // before the next turn loads over this stage's other half
  }
  copy_wait<0>();
  write_rows<kDim>(o + begin * s.q_ld() + head * dim, s.q_ld(), tile.first + row, length, dim, acc, 1.0f / sum[0], 1.0f / sum[1], l);
  if (l.pair == 0)
    for (int h = 0; h < 2; h++)
      if (i[h] < length) lse[head * s.tokens + begin + i[h]] = top[h] + logf(sum[h]);
}

// ---- backward

// delta [heads, T]: a warp per (row, head). Rows outside documents get whatever: nobody reads them.
__global__ void __launch_bounds__(kThreads) delta_kernel(AttentionShape s, const uint16_t* dout, const uint16_t* o, float* delta) {
  const int64_t t = int64_t(blockIdx.x) * 4 + threadIdx.x / 32, head = blockIdx.y;
  if (t >= s.tokens) return;
  float sum = 0;
  for (int64_t d = threadIdx.x % 32; d < s.head_dim; d += 32) {
    const int64_t at = t * s.q_ld() + head * s.head_dim + d;
    sum = fma_rn(bits_float(uint32_t(dout[at]) << 16), bits_float(uint32_t(o[at]) << 16), sum);
  }
  sum = warp_reduce(sum, Sum{});
  if (threadIdx.x % 32 == 0) delta[head * s.tokens + t] = sum;
}

template <int kDim, int kCols>
__global__ void __launch_bounds__(kThreads, kDim > 128 ? 2 : kDim > 80 ? 3 : 4) dq_kernel(AttentionShape s, const uint16_t* dout, const uint16_t* q, const uint16_t* k, const uint16_t* v, const float* lse, const float* delta, const int32_t* cu, uint16_t* dq) {
  constexpr int kLd = kDim + 8;
  LATHE_DYNAMIC_SHARED(shared);
  auto* q_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* do_tile = q_tile + kRows * kLd;
  uint16_t* k_tile = do_tile + kRows * kLd;
  uint16_t* v_tile = k_tile + kCols * kLd;
  // Under a causal mask the last rows have the most work: they start first.
  const Place at(s, cu, gridDim.x - 1 - blockIdx.x);
  const auto& [tile, length, begin, head, dim, row] = at;
  if (length == 0) return;
  const Lane l;
  const int64_t q_at = begin * s.q_ld() + head * dim, kv_at = begin * s.kv_ld() + head / s.group() * dim;
  load_rows<kDim, kRows>(q_tile, q + q_at, s.q_ld(), tile.first, length, dim);
  load_rows<kDim, kRows>(do_tile, dout + q_at, s.q_ld(), tile.first, length, dim);
  copy_commit();
  float acc[kDim / 8][4] = {}, log_sum[2], row_delta[2];
  int64_t key_lo[2], key_hi[2];
  for (int h = 0; h < 2; h++) {
    const int64_t i = tile.first + row + l.group + 8 * h;
    const bool inside = i < length;
    key_lo[h] = s.key_lo(i), key_hi[h] = inside ? s.key_hi(i, length) : 0;
    log_sum[h] = inside ? lse[head * s.tokens + begin + i] : 0;
    row_delta[h] = inside ? delta[head * s.tokens + begin + i] : 0;
  }
  const int64_t last = tile.first + kRows < length ? tile.first + kRows : length;
  const int64_t lo = s.key_lo(tile.first) / kCols * kCols, hi = s.key_hi(last - 1, length);
  for (int64_t j0 = lo; j0 < hi; j0 += kCols) {
    block_sync();
    load_rows<kDim, kCols>(k_tile, k + kv_at, s.kv_ld(), j0, length, dim);
    load_rows<kDim, kCols>(v_tile, v + kv_at, s.kv_ld(), j0, length, dim);
    copy_commit();
    copy_wait<0>();
    block_sync();
    float p[kCols / 8][4], g[kCols / 8][4];
    product<kDim, kCols>(p, q_tile, row, k_tile);
    product<kDim, kCols>(g, do_tile, row, v_tile);
#pragma unroll
    for (int y = 0; y < kCols / 8; y++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int h = j / 2;
        const int64_t key = j0 + y * 8 + 2 * l.pair + j % 2;
        const float score = s.score(p[y][j]);
        const bool seen = key >= key_lo[h] && key < key_hi[h];
        p[y][j] = seen ? exp2f((score - log_sum[h]) * kLog2E) * (g[y][j] - row_delta[h]) * s.slope(score) : 0.0f;
      }
    accumulate<kDim, kCols>(acc, p, k_tile);
  }
  copy_wait<0>();
  write_rows<kDim>(dq + q_at, s.q_ld(), tile.first + row, length, dim, acc, s.scale, s.scale, l);
}

// Rows are keys: scores are made transposed (K Q^T), so that P^T and dS^T are left operands.
// The sums of wide heads do not fit a thread's registers together: then one launch makes dK and another dV.
template <int kDim, int kCols, bool kWantK, bool kWantV>
__global__ void __launch_bounds__(kThreads, kDim > 80 ? 2 : kDim > 16 ? 3 : 4) dkv_kernel(AttentionShape s, const uint16_t* dout, const uint16_t* q, const uint16_t* k, const uint16_t* v, const float* lse, const float* delta, const int32_t* cu, uint16_t* dk, uint16_t* dv) {
  constexpr int kLd = kDim + 8;
  LATHE_DYNAMIC_SHARED(shared);
  auto* k_tile = reinterpret_cast<uint16_t*>(shared);
  uint16_t* v_tile = k_tile + kRows * kLd;
  uint16_t* q_tile = v_tile + kRows * kLd;
  uint16_t* do_tile = q_tile + kCols * kLd;
  auto* statistics = reinterpret_cast<float*>(do_tile + kCols * kLd);  // lse, then delta, of the queries of a tile
  const Place at(s, cu, blockIdx.x);
  const auto& [tile, length, begin, kv_head, dim, row] = at;
  if (length == 0) return;
  const Lane l;
  const int64_t kv_at = begin * s.kv_ld() + kv_head * dim;
  load_rows<kDim, kRows>(k_tile, k + kv_at, s.kv_ld(), tile.first, length, dim);
  load_rows<kDim, kRows>(v_tile, v + kv_at, s.kv_ld(), tile.first, length, dim);
  copy_commit();
  float acc_k[kWantK ? kDim / 8 : 1][4] = {}, acc_v[kWantV ? kDim / 8 : 1][4] = {};
  int64_t query_lo[2], query_hi[2];
  for (int h = 0; h < 2; h++) {
    const int64_t j = tile.first + row + l.group + 8 * h;
    query_lo[h] = s.query_lo(j), query_hi[h] = j < length ? s.query_hi(j, length) : 0;
  }
  const int64_t last = tile.first + kRows < length ? tile.first + kRows : length;
  const int64_t lo = s.query_lo(tile.first) / kCols * kCols, hi = s.query_hi(last - 1, length);
  for (int64_t member = 0; member < s.group(); member++) {
    const int64_t head = kv_head * s.group() + member, q_at = begin * s.q_ld() + head * dim;
    for (int64_t i0 = lo; i0 < hi; i0 += kCols) {
      block_sync();
      load_rows<kDim, kCols>(q_tile, q + q_at, s.q_ld(), i0, length, dim);
      load_rows<kDim, kCols>(do_tile, dout + q_at, s.q_ld(), i0, length, dim);
      copy_commit();
      for (int e = int(threadIdx.x); e < 2 * kCols; e += int(kThreads)) {
        const int64_t i = i0 + e % kCols;
        statistics[e] = i < length ? (e < kCols ? lse : delta)[head * s.tokens + begin + i] : 0.0f;
      }
      copy_wait<0>();
      block_sync();
      float p[kCols / 8][4], g[kWantK ? kCols / 8 : 1][4];
      product<kDim, kCols>(p, k_tile, row, q_tile);
      if constexpr (kWantK) product<kDim, kCols>(g, v_tile, row, do_tile);
#pragma unroll
      for (int y = 0; y < kCols / 8; y++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int c = y * 8 + 2 * l.pair + j % 2, h = j / 2;
          const bool seen = i0 + c >= query_lo[h] && i0 + c < query_hi[h];
          const float score = s.score(p[y][j]);
          p[y][j] = seen ? exp2f((score - statistics[c]) * kLog2E) : 0.0f;
          if constexpr (kWantK) g[y][j] = seen ? p[y][j] * (g[y][j] - statistics[kCols + c]) * s.slope(score) : 0.0f;
        }
      if constexpr (kWantV) accumulate<kDim, kCols>(acc_v, p, do_tile);
      if constexpr (kWantK) accumulate<kDim, kCols>(acc_k, g, q_tile);
    }
  }
  copy_wait<0>();
  if constexpr (kWantK) write_rows<kDim>(dk + kv_at, s.kv_ld(), tile.first + row, length, dim, acc_k, s.scale, s.scale, l);
  if constexpr (kWantV) write_rows<kDim>(dv + kv_at, s.kv_ld(), tile.first + row, length, dim, acc_v, 1.0f, 1.0f, l);
}

// lse of rows outside documents; those inside are overwritten.
__global__ void __launch_bounds__(256) infinity_kernel(float* lse, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < n) lse[i] = kNoDocument;
}

// fn(integral constant) of the padded head dim.
template <int kDim> struct Dim { static constexpr int value = kDim; };
template <class F>
Status with_dim(int64_t dim, F&& fn) {
  if (dim <= 16) return fn(Dim<16>{});
  if (dim <= 32) return fn(Dim<32>{});
  if (dim <= 64) return fn(Dim<64>{});
  if (dim <= 80) return fn(Dim<80>{});
  if (dim <= 96) return fn(Dim<96>{});
  if (dim <= 128) return fn(Dim<128>{});
  return fn(Dim<256>{});
}
// Every document adds at most one tile that is not full.
int64_t most_tiles(const AttentionShape& s) { return ceil_div(s.tokens, kRows) + s.documents; }
Status clear(Stream& stream, void* rows, int64_t tokens, int64_t ld) { return zero_queued(queue_of(stream), rows, uint64_t(tokens * ld * 2)); }

}  // namespace

Status attention_mma_forward(Stream& stream, const AttentionShape& s, const Buffers& b) {
  LATHE_TRY(clear(stream, b.outputs[0], s.tokens, s.q_ld()));
  LATHE_TRY(launch(stream, infinity_kernel, Grid(ceil_div(s.heads * s.tokens, 256)), 256, 0, b.out<float>(1), s.heads * s.tokens));
  return with_dim(s.head_dim, [&](auto d) {
    constexpr int kDim = decltype(d)::value, kKeys = kDim > 128 ? 32 : 64;
    constexpr auto bytes = [](int keys) { return size_t(kRows + 4 * keys) * (kDim + 8) * 2; };
    const auto with = [&](auto* kernel, int keys) {
      return launch(stream, kernel, Grid(most_tiles(s), s.heads), kThreads, bytes(keys), s, b.in<uint16_t>(0), b.in<uint16_t>(1), b.in<uint16_t>(2),
                    b.in<int32_t>(3), b.out<uint16_t>(0), b.out<float>(1));
    };
    // sm_75 has 64 KiB of shared memory.
    if constexpr (kDim == 96 || kDim == 128)
      if (queue_shared_bytes(queue_of(stream)) < bytes(kKeys)) return with(forward_kernel<kDim, 32>, 32);
    return with(forward_kernel<kDim, kKeys>, kKeys);
  });
}

Status attention_mma_backward(Stream& stream, const AttentionShape& s, const Buffers& b) {
  auto* delta = static_cast<float*>(b.scratch);
  LATHE_TRY(clear(stream, b.outputs[0], s.tokens, s.q_ld()));
  LATHE_TRY(clear(stream, b.outputs[1], s.tokens, s.kv_ld()));
  LATHE_TRY(clear(stream, b.outputs[2], s.tokens, s.kv_ld()));
  LATHE_TRY(launch(stream, delta_kernel, Grid(ceil_div(s.tokens, 4), s.heads), kThreads, 0, s, b.in<uint16_t>(0), b.in<uint16_t>(4), delta));
  return with_dim(s.head_dim, [&](auto d) -> Status {
    constexpr int kDim = decltype(d)::value, kCols = kDim > 128 ? 16 : 32;
    constexpr size_t kTiles = size_t(2 * kRows + 2 * kCols) * (kDim + 8) * 2;
    LATHE_TRY(launch(stream, dq_kernel<kDim, kCols>, Grid(most_tiles(s), s.heads), kThreads, kTiles, s, b.in<uint16_t>(0), b.in<uint16_t>(1),
                     b.in<uint16_t>(2), b.in<uint16_t>(3), b.in<float>(5), delta, b.in<int32_t>(6), b.out<uint16_t>(0)));
    const auto with = [&](auto* kernel) {
      return launch(stream, kernel, Grid(most_tiles(s), s.kv_heads), kThreads, kTiles + 2 * kCols * 4, s, b.in<uint16_t>(0), b.in<uint16_t>(1), b.in<uint16_t>(2),
                    b.in<uint16_t>(3), b.in<float>(5), delta, b.in<int32_t>(6), b.out<uint16_t>(1), b.out<uint16_t>(2));
    };
    if constexpr (kDim > 128) {
      LATHE_TRY(with(dkv_kernel<kDim, kCols, true, false>));
      return with(dkv_kernel<kDim, kCols, false, true>);
    } else {
      return with(dkv_kernel<kDim, kCols, true, true>);
    }
  });
}

}  // namespace lathe::cuda
