/*
 * Attention on AVX-512 BF16: VDPBF16PS products of bf16 tensors, fp32 sums.
 */
#include "variant.h"

namespace lathe::cpu::attention {

const Tiles* avx512bf16_tiles(bool bf16_tensors) { return bf16_tensors ? &kTable<bf16> : nullptr; }

}  // namespace lathe::cpu::attention
