// The few functions and numbers of cuBLASLt's C interface that we use, declared here so that no header of NVIDIA's is needed
// to build. native/tests/cublaslt_abi.cpp compares them with that header where one is installed.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lathe::cuda::lt {

constexpr int kSuccess = 0;                                        // cublasStatus_t
constexpr int kF32 = 0, kBf16 = 14;                                // cudaDataType_t
constexpr int kComputeF32 = 68;                                    // cublasComputeType_t
constexpr int kOpN = 0, kOpT = 1;                                  // cublasOperation_t
constexpr int kDescTransA = 3, kDescTransB = 4, kDescEpilogue = 7, kDescBiasPointer = 8;  // cublasLtMatmulDescAttributes_t
constexpr int kPreferWorkspace = 1, kPreferReductions = 3;         // cublasLtMatmulPreferenceAttributes_t
constexpr uint32_t kEpilogueDefault = 1, kEpilogueBias = 4;        // cublasLtEpilogue_t
constexpr uint32_t kReductionComputeType = 2;                      // cublasLtReductionScheme_t; no split at all is always allowed
struct Algorithm { uint64_t data[8]; };                            // cublasLtMatmulAlgo_t
struct Heuristic {                                                 // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
using Handle = void*;
using Descriptor = void*;
using Layout = void*;
using Preference = void*;
struct Functions {
  int (*cublasLtCreate)(Handle*);
  int (*cublasLtDestroy)(Handle);
  int (*cublasLtMatmulDescCreate)(Descriptor*, int compute, int scale_type);
  int (*cublasLtMatmulDescDestroy)(Descriptor);
  int (*cublasLtMatmulDescSetAttribute)(Descriptor, int attribute, const void* value, size_t bytes);
  int (*cublasLtMatrixLayoutCreate)(Layout*, int type, uint64_t rows, uint64_t cols, int64_t ld);
  int (*cublasLtMatrixLayoutDestroy)(Layout);
  int (*cublasLtMatmulPreferenceCreate)(Preference*);
  int (*cublasLtMatmulPreferenceDestroy)(Preference);
  int (*cublasLtMatmulPreferenceSetAttribute)(Preference, int attribute, const void* value, size_t bytes);
  int (*cublasLtMatmulAlgoGetHeuristic)(Handle, Descriptor, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Heuristic*, int* found);
  int (*cublasLtMatmul)(Handle, Descriptor, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout, void* d,
                        Layout, const Algorithm*, void* workspace, size_t workspace_bytes, void* stream);
};

}  // namespace lathe::cuda::lt
