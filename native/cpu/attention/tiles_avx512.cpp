/*
 * Attention on AVX-512, fp32 arithmetic.
 */
#include "variant.h"

namespace lathe::cpu::attention {

const Tiles* avx512_tiles(bool bf16_tensors) { return bf16_tensors ? &kTable<bf16> : &kTable<float>; }

}  // namespace lathe::cpu::attention
