// What the attention kernels share: the shape of a call, which keys a query sees, scores and their slopes, documents.
#pragma once
#include "cuda/common.cuh"

namespace lathe::cuda {

struct AttentionShape {
  int64_t tokens = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0, documents = 0;
  float scale = 0, softcap = 0;
  int causal = 0;
  __host__ __device__ int64_t q_ld() const { return heads * head_dim; }
  __host__ __device__ int64_t kv_ld() const { return kv_heads * head_dim; }
  __host__ __device__ int64_t group() const { return heads / kv_heads; }
  // Keys [lo, hi) that query i of a document of `length` rows sees; queries [lo, hi) that see key j.
  __host__ __device__ int64_t key_lo(int64_t i) const { return window > 0 && i - window + 1 > 0 ? i - window + 1 : 0; }
  __host__ __device__ int64_t key_hi(int64_t i, int64_t length) const {
    const int64_t h = causal ? i + 1 : window > 0 ? i + window : length;
    return h < length ? h : length;
  }
  __host__ __device__ int64_t query_lo(int64_t j) const { return causal ? j : window > 0 && j - window + 1 > 0 ? j - window + 1 : 0; }
  __host__ __device__ int64_t query_hi(int64_t j, int64_t length) const { return window > 0 && j + window < length ? j + window : length; }
  __device__ float score(float dot) const {
    const float s = dot * scale;
    return softcap > 0 ? softcap * tanhf(s / softcap) : s;
  }
  // Of the score by the scaled dot product, from the score.
  __device__ float slope(float s) const {
    const float t = s / softcap;
    return softcap > 0 ? (1 - t) * (1 + t) : 1.0f;
  }
};

// LSE of rows outside every document: the largest finite float, so that a check for non-finite values passes.
constexpr float kNoDocument = 3.402823466e38f;

struct Document { int64_t begin = 0, length = 0; };  // length 0: none

// The document that owns row t. Offsets are clamped to [0, T], so that no content makes a kernel leave its buffers.
__device__ __forceinline__ int64_t document_bound(const int32_t* cu, int64_t i, int64_t tokens) {
  const int64_t v = cu[i];
  return v < 0 ? 0 : v > tokens ? tokens : v;
}
__device__ __forceinline__ Document document_of(const int32_t* cu, int64_t documents, int64_t tokens, int64_t t) {
  int64_t low = 0, high = documents;  // the last i with cu[i] <= t lies in [low, high], if there is one
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (document_bound(cu, middle, tokens) <= t) low = middle;
    else high = middle - 1;
  }
  if (low >= documents) return {};
  const int64_t begin = document_bound(cu, low, tokens), end = document_bound(cu, low + 1, tokens);
  return t >= begin && t < end ? Document{begin, end - begin} : Document{};
}
// The document that tile number `tile` of `size` rows belongs to, and its first row in it; length 0 past the last.
struct Tile {
  Document document;
  int64_t first = 0;
};
__device__ __forceinline__ Tile tile_of(const int32_t* cu, int64_t documents, int64_t tokens, int64_t tile, int64_t size) {
  int64_t end = 0;
  for (int64_t i = 0; i < documents; i++) {
    const int64_t b = document_bound(cu, i, tokens), e = document_bound(cu, i + 1, tokens);
    if (b < end || e <= b) continue;  // overlaps an earlier one, or is empty
    end = e;
    const int64_t tiles = (e - b + size - 1) / size;
    if (tile < tiles) return {{b, e - b}, tile * size};
    tile -= tiles;
  }
  return {};
}

// Tensor-core kernels (attention_mma.cu), for bf16 and head_dim <= 256.
Status attention_mma_forward(Stream& stream, const AttentionShape& s, const Buffers& b);
Status attention_mma_backward(Stream& stream, const AttentionShape& s, const Buffers& b);

}  // namespace lathe::cuda
