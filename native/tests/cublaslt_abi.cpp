// Compares our own declarations of cuBLASLt (native/cuda/cublaslt.h) with NVIDIA's header, where one is installed, at
// compile time. Without one it compiles to a program that says so.
#include <cstdio>

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define LATHE_HAS_HEADER 1
#endif

#include "cuda/cublaslt_abi.h"

#if defined(LATHE_HAS_HEADER)
using namespace lathe::cuda;
static_assert(int(CUBLAS_STATUS_SUCCESS) == lt::kSuccess);
static_assert(int(CUDA_R_32F) == lt::kF32 && int(CUDA_R_16BF) == lt::kBf16);
static_assert(int(CUBLAS_COMPUTE_32F) == lt::kComputeF32);
static_assert(int(CUBLAS_OP_N) == lt::kOpN && int(CUBLAS_OP_T) == lt::kOpT);
static_assert(int(CUBLASLT_MATMUL_DESC_TRANSA) == lt::kDescTransA && int(CUBLASLT_MATMUL_DESC_TRANSB) == lt::kDescTransB);
static_assert(int(CUBLASLT_MATMUL_DESC_EPILOGUE) == lt::kDescEpilogue && int(CUBLASLT_MATMUL_DESC_BIAS_POINTER) == lt::kDescBiasPointer);
static_assert(int(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) == lt::kPreferWorkspace);
static_assert(int(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) == lt::kPreferReductions);
static_assert(uint32_t(CUBLASLT_EPILOGUE_DEFAULT) == lt::kEpilogueDefault && uint32_t(CUBLASLT_EPILOGUE_BIAS) == lt::kEpilogueBias);
static_assert(uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == lt::kReductionComputeType);
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(lt::Algorithm));
static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == sizeof(lt::Heuristic));
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) == offsetof(lt::Heuristic, workspace));
static_assert(offsetof(cublasLtMatmulHeuristicResult_t, state) == offsetof(lt::Heuristic, state));
#endif

int main() {
#if defined(LATHE_HAS_HEADER)
  std::puts("cuBLASLt: our declarations agree with the header");
#else
  std::puts("cuBLASLt: no header here, nothing to compare with");
#endif
}
