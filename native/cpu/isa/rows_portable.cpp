// Row primitives compiled for: portable. The code is rows.inc; the build gives this file its instruction set by its suffix.
#define LATHE_ROWS_TABLE rows_table_portable
#include "rows.inc"
