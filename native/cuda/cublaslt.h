// cuBLASLt, opened at run time where it is found: dense bf16 and fp32 products at the vendor's speed. Absent means absent:
// then our own kernels do the work.
//
// Search: LATHE_CUBLASLT (a path, or `off`), the sonames of CUDA 13 and 12, CUDA_HOME and /usr/local/cuda, the folders
// where PyTorch's wheels put it. Our own declarations (cublaslt_abi.h).
//
// Same bits every time: one algorithm per shape, the first that the library's heuristic names, kept for the session; no
// reduction in the output type or in place.
#pragma once
#include <string>

#include "cuda/cublaslt_abi.h"
#include "cuda/gemm.cuh"
#include "lathe/status.h"

namespace lathe::cuda {

// The library as one session uses it. Null when there is none.
struct CublasLt;
CublasLt* cublaslt_of(Queue* queue);
// Where it was found, or why not; for `lathe doctor`.
std::string cublaslt_report();
// Computes `call` if the library can: one term, bf16 or fp32 operands. `done` says whether it did. `workspace` holds
// kGemmWorkspace bytes.
Status cublaslt_multiply(CublasLt& lt, Stream& stream, const GemmCall& call, bool bf16_compute, void* workspace, bool* done);

}  // namespace lathe::cuda
