/*
 * Attention without any assumption about the CPU (SSE2, NEON): the compiler's vector extensions.
 */
#include "variant.h"

namespace lathe::cpu::attention {

const Tiles* portable_tiles(bool bf16_tensors) { return bf16_tensors ? &kTable<bf16> : &kTable<float>; }

}  // namespace lathe::cpu::attention
