// Picks the table of row primitives once per process: the widest the CPU has, or the one LATHE_ISA names if it has it.
#include "rows.h"

#include <cstdlib>
#include <cstring>

namespace lathe::cpu {

const RowOps* rows_table_portable();
#if defined(__x86_64__)
const RowOps* rows_table_avx2();
const RowOps* rows_table_avx512();
#endif

const RowOps* rows_for(const char* isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(isa, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")
               ? rows_table_avx512()
               : nullptr;
  if (!std::strcmp(isa, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")
               ? rows_table_avx2()
               : nullptr;
#endif
  return std::strcmp(isa, "portable") ? nullptr : rows_table_portable();
}

static const RowOps& choose() {
  const char* const order[] = {"avx512", "avx2", "portable"};
  const char* wish = std::getenv("LATHE_ISA");
  int from = wish && !std::strcmp(wish, "avx2") ? 1 : wish && !std::strcmp(wish, "portable") ? 2 : 0;
  for (int i = from; i < 3; i++)
    if (const RowOps* table = rows_for(order[i])) return *table;
  return *rows_table_portable();
}

const RowOps& rows() {
  static const RowOps& table = choose();
  return table;
}

}  // namespace lathe::cpu
