// Deterministic scatter-add: one thread block finds, in order, which rows go to its target and adds them in that order.
//
// No atomics and no sorting: the index list is read in pieces of kListRows, matches are packed into shared memory by
// ballots (so they stay in order), and every thread adds its columns. Cost is n index reads per target and 1024 columns.
#pragma once
#include "cuda/common.cuh"

namespace lathe::cuda {

constexpr unsigned kListThreads = 128;
constexpr int kListRows = 512;

// Calls put(column, sum of value(row, column) over rows first <= row < n with index[row] == target) for every column.
// `list` holds kListRows, `counts` one int per warp. All threads of the block call this.
template <class Value, class Put>
__device__ void sum_listed_rows(const int32_t* index, int64_t first, int64_t n, int32_t target, int64_t cols, int32_t* list,
                                int32_t* counts, Value value, Put put) {
  constexpr int kPerThread = 8, kWarps = int(kListThreads) / 32;
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  for (int64_t col0 = 0; col0 < cols; col0 += kPerThread * kListThreads) {
    float sum[kPerThread] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int64_t piece = first; piece < n; piece += kListRows) {
      int found = 0;
      block_sync();  // the list of the piece before has been read
      for (int at = 0; at < kListRows; at += int(kListThreads)) {
        const int64_t row = piece + at + threadIdx.x;
        const bool match = row < n && index[row] == target;
        const unsigned votes = warp_ballot(match);
        if (lane == 0) counts[warp] = count_bits(votes);
        block_sync();
        int before = found;
        for (int w = 0; w < kWarps; w++) {
          if (w < warp) before += counts[w];
          found += counts[w];
        }
        if (match) list[before + count_bits(votes & ((1u << lane) - 1))] = int32_t(row - piece);
        block_sync();
      }
      for (int k = 0; k < found; k++) {
        const int64_t row = piece + list[k];
#pragma unroll
        for (int j = 0; j < kPerThread; j++) {
          const int64_t col = col0 + j * int(kListThreads) + threadIdx.x;
          if (col < cols) sum[j] += value(row, col);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kPerThread; j++) {
      const int64_t col = col0 + j * int(kListThreads) + threadIdx.x;
      if (col < cols) put(col, sum[j]);
    }
  }
}

}  // namespace lathe::cuda
