/*
 * The 4-bit code values, the 8-bit dynamic map of double quantisation, and block scales.
 *
 * Values are bitsandbytes' constants (NF4: Dettmers et al. 2023, QLoRA; dynamic map: Dettmers 2015),
 * stored rather than derived, because deriving them again changes last digits.
 */
#pragma once

#include <cstdint>

#include "operand.h"

namespace lathe::cpu {

extern const float kNf4Values[16];
extern const float kFp4Values[16];

inline const float* code_values(MatFormat format) { return format == MatFormat::kFp4 ? kFp4Values : kNf4Values; }

/* The signed dynamic map, sorted; index 127 is 0. */
extern const float kSignedDynamicMap[256];

/* out[i] = scale of block first + i, rounded after the product and after the sum. */
void block_scales(const MatOperand& operand, int64_t first, int64_t count, float* out);

/* out[i] = element col0 + i of stored row `row`, in fp32, for any alignment of codes and blocks. */
void expand_codes(const MatOperand& operand, int64_t row, int64_t col0, int64_t count, float* out);

}  // namespace lathe::cpu
