// cpuid, affinity and environment.
#include "engine/system.h"

#include <cstdlib>
#include <fstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace lathe {

std::string cpu_architecture() {
#if defined(__x86_64__)
  return "x86_64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "other";
#endif
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> out;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define LATHE_FEATURE(name) \
  if (__builtin_cpu_supports(name)) out.emplace_back(name)
  LATHE_FEATURE("avx2");
  LATHE_FEATURE("fma");
  LATHE_FEATURE("f16c");
  LATHE_FEATURE("avx512f");
  LATHE_FEATURE("avx512bw");
  LATHE_FEATURE("avx512vl");
  LATHE_FEATURE("avx512dq");
  LATHE_FEATURE("avx512bf16");
#undef LATHE_FEATURE
#endif
  return out;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

Status default_threads(int* out) {
  if (const char* text = std::getenv("LATHE_THREADS"); text && *text) {
    char* end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (*end != '\0' || value < 1 || value > kMaxThreads) {
      return {"ERR_CONFIG", std::string("LATHE_THREADS: expected a number from 1 to 1024, received '") + text + "'"};
    }
    *out = static_cast<int>(value);
    return ok_status();
  }
  int cores = 0;
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
#endif
  if (cores < 1) cores = static_cast<int>(std::thread::hardware_concurrency());
  *out = cores < 1 ? 1 : cores > kMaxThreads ? kMaxThreads : cores;
  return ok_status();
}

}  // namespace lathe
