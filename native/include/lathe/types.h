// Element types, shapes and device descriptions shared by the engine and every backend.
// Plain data only: no napi, no CUDA, no allocation. Codes equal src/graph/dtype.ts.
#pragma once
#include <cstdint>
#include <cstddef>

namespace lathe {

enum class DType : uint8_t { F32 = 0, BF16 = 1, F16 = 2, I32 = 3, U8 = 4 };
constexpr int kDTypeCount = 5;

constexpr int64_t dtype_bytes(DType d) {
  return d == DType::F32 || d == DType::I32 ? 4 : d == DType::U8 ? 1 : 2;
}

constexpr int kMaxRank = 4;

struct TensorType {
  DType dtype = DType::F32;
  int rank = 0;
  int64_t shape[kMaxRank] = {0, 0, 0, 0};

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return numel() * dtype_bytes(dtype); }
  // Rows and columns of the matrix view that flattens all but the last axis.
  int64_t cols() const { return rank == 0 ? 1 : shape[rank - 1]; }
  int64_t rows() const { return cols() == 0 ? 0 : numel() / cols(); }
};

struct DeviceSpec {
  enum class Kind : uint8_t { Cpu = 0, Cuda = 1 } kind = Kind::Cpu;
  int index = 0;
  int threads = 1;
};

}  // namespace lathe
