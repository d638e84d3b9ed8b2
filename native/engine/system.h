// Facts about this machine: instruction sets, cores that we may use, devices.
#pragma once
#include <string>
#include <vector>

#include "lathe/status.h"

namespace lathe {

std::string cpu_architecture();               // "x86_64", "aarch64"
std::vector<std::string> cpu_features();      // of the ones that kernels ask about: "avx2", "avx512bf16", ...
std::string cpu_name();                       // as the system calls it; may be empty
// LATHE_THREADS, else the number of cores in the affinity mask. ERR_CONFIG when the variable makes no sense.
Status default_threads(int* out);
constexpr int kMaxThreads = 1024;

}  // namespace lathe
