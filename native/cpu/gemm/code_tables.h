/*
 * Decoding of 4-bit blocks while a GEMM packs them: code values and block scales (the tables are isa/quant_tables.cpp).
 */
#pragma once

#include <cstdint>

#include "../isa/rows.h"
#include "operand.h"

namespace lathe::cpu {

inline const float* code_values(MatFormat format) { return format == MatFormat::kFp4 ? kFp4Table : kNf4Table; }

/* out[i] = scale of block first + i, rounded after the product and after the sum. */
void block_scales(const MatOperand& operand, int64_t first, int64_t count, float* out);

/* out[i] = element col0 + i of stored row `row`, in fp32, for any alignment of codes and blocks. */
void expand_codes(const MatOperand& operand, int64_t row, int64_t col0, int64_t count, float* out);

}  // namespace lathe::cpu
