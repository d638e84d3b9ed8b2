/*
 * Chooses the instruction set once, at first use.
 *
 * LATHE_ISA = avx512bf16 | avx512 | avx2 | portable lowers the choice (for tests, and to reproduce another
 * machine's bits); asking for more than the CPU has gives the best that it has.
 */
#include "dispatch.h"

#include <cstdlib>
#include <cstring>

namespace lathe::cpu {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512bf16"};

Isa supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  // A table is null where the build left the variant out.
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (bf16 && avx512bf16_kernels() != nullptr && avx512_kernels(false) != nullptr) return Isa::kAvx512Bf16;
  if (avx512 && avx512_kernels(false) != nullptr) return Isa::kAvx512;
  if (avx2 && avx2_kernels(false) != nullptr) return Isa::kAvx2;
#endif
  return Isa::kPortable;
}

Isa chosen() {
  const Isa best = supported();
  const char* wanted = std::getenv("LATHE_ISA");
  if (wanted == nullptr) return best;
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0 && i < static_cast<int>(best)) return static_cast<Isa>(i);
  }
  return best;
}

Isa& slot() {
  static Isa isa = chosen();
  return isa;
}

}  // namespace

Isa active_isa() { return slot(); }

bool force_isa(Isa isa) {
  if (isa > supported()) return false;
  slot() = isa;
  return true;
}

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

const KernelTable& gemm_kernels(bool bf16_compute) {
  switch (slot()) {
    case Isa::kAvx512Bf16:
      return bf16_compute ? *avx512bf16_kernels() : *avx512_kernels(false);
    case Isa::kAvx512:
      return *avx512_kernels(bf16_compute);
    case Isa::kAvx2:
      return *avx2_kernels(bf16_compute);
    default:
      return *portable_kernels(bf16_compute);
  }
}

}  // namespace lathe::cpu
