// Row primitives compiled for: avx512. The code is rows.inc; the build gives this file its instruction set by its suffix.
#if defined(__x86_64__)
#define LATHE_ROWS_TABLE rows_table_avx512
#include "rows.inc"
#endif
