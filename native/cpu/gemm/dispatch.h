/*
 * The instruction set in use, and the GEMM kernels that go with it.
 */
#pragma once

#include "kernel_table.h"

namespace lathe::cpu {

enum class Isa : int { kPortable = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

/* Decided once from cpuid and LATHE_ISA. */
Isa active_isa();
const char* isa_name(Isa isa);

/* For tests: switches variant; false when this CPU lacks it. Not while a gemm runs. */
bool force_isa(Isa isa);

const KernelTable& gemm_kernels(bool bf16_compute);

}  // namespace lathe::cpu
