// Row primitives: the arithmetic of every memory-bound kernel, one table per instruction set.
//
// A row is `n` contiguous elements. A primitive reads its rows once, computes in fp32 and rounds once on the way
// out; kernels cut tensors into rows and hand them to the pool. The table is picked once per process from cpuid;
// LATHE_ISA=avx512bf16|avx512|avx2|portable asks for a lower one (so that each can be tested on one machine).
//
// Invariants
// - Rows of dtype f32 / bf16 / f16 are `void*`, and the member is an array indexed by the DType code (F32 0, BF16 1,
//   F16 2). Fixed fp32 rows are `float*`.
// - Outputs may be the very same row as an input (same start), never a shifted one.
// - The value of an element depends on its row and its place in the row only; reductions have a fixed order. So a
//   result does not depend on threads or on where the row lies. Tables of different ISAs may differ in last bits.
// - n may be anything >= 0; nothing past n is read or written; no alignment is needed.
// - bf16 rounding is nearest-even by integers (denormals kept, NaN stays a quiet NaN).
//
// Accuracy against libm in f64 over the whole range (rows_test.cpp measures them): exp, sigmoid, tanh <= 2.5e-7
// relative; gelu <= 4.0e-7 relative, also in its far negative tail (of all floats -1.0152133f is worst, 3.96e-7);
// gelu_tanh 4e-7 relative plus 1e-7 absolute.
//
// This header is plain C-like on purpose: it is included by files compiled for wider ISAs, where an inline function
// of the standard library would leave a weak symbol that the linker might pick for everybody.
#pragma once
#include <stdint.h>

namespace lathe::cpu {

enum Activation : int { kGelu = 0, kGeluTanh = 1, kRelu = 2, kSilu = 3, kTanh = 4, kSigmoid = 5, kExp = 6 };
constexpr int kActivations = 7;

// What one AdamW step needs, computed once per run in double and rounded to fp32.
struct AdamwScalars {
  float grad_scale;
  float decay;             // 1 - lr * weight_decay
  float beta1, beta2;
  float one_minus_beta1, one_minus_beta2;
  float root_correction2;  // sqrt(1 - beta2^t)
  float step_size;         // lr / (1 - beta1^t)
  float eps;
};

// Rows that are summed in fp32 before they join a column's sum.
constexpr int64_t kRowBlock = 64;

struct RowOps {
  const char* isa;

  // ---- conversion and arithmetic, y of the row's dtype unless said
  void (*to_f32[3])(const void* x, float* y, int64_t n);
  void (*from_f32[3])(const float* x, void* y, int64_t n);
  void (*add[2])(const void* a, const void* b, void* y, int64_t n);
  void (*mul[2])(const void* a, const void* b, void* y, int64_t n);
  void (*scale[2][2])(const void* x, float s, void* y, int64_t n);  // [dtype of x][dtype of y]
  // y += s * x
  void (*axpy[2])(float s, const void* x, float* y, int64_t n);

  // ---- sums down n columns of `rows` rows, the next row `stride` elements further: blocks of kRowBlock rows, each from 0
  // in row order, then the blocks in order
  // y = sum x
  void (*sum_columns[2])(const void* x, int64_t stride, int64_t rows, float* y, int64_t n);
  // A norm's dw = sum dy * ((x - mean) * rstd), db = sum dy; mean may be null (0), dw or db too (not wanted).
  void (*norm_columns[2])(const void* dy, const void* x, int64_t stride, const float* mean, const float* rstd,
                          int64_t rows, float* dw, float* db, int64_t n);

  // ---- reductions to one fp32 number
  float (*dot[2])(const void* a, const void* b, int64_t n);
  float (*sum[2])(const void* x, int64_t n);
  float (*sum_squares[2])(const void* x, int64_t n);
  float (*max)(const float* x, int64_t n);          // -inf for n = 0; NaN is ignored
  float (*abs_max[2])(const void* x, int64_t n);    // 0 for n = 0; NaN is ignored

  // ---- exponentials over fp32 rows
  // y = exp(scale * x - shift), returns its sum. y may be null (the sum only) or x. x = -inf gives 0.
  float (*exp_sum)(const float* x, float scale, float shift, float* y, int64_t n);
  // y = cap * tanh(x / cap)
  void (*softcap)(const float* x, float cap, float* y, int64_t n);
  // dx = dy * (1 - (y / cap)^2), y = the softcapped row
  void (*softcap_grad)(const float* dy, const float* y, float cap, float* dx, int64_t n);

  // ---- activations, [kind][dtype]
  void (*activation[kActivations][2])(const void* x, void* y, int64_t n);
  void (*activation_grad[kActivations][2])(const void* dy, const void* x, void* dx, int64_t n);
  // y = act(gate) * up; kinds kGelu, kGeluTanh, kSilu (others are null)
  void (*glu[kActivations][2])(const void* gate, const void* up, void* y, int64_t n);
  void (*glu_grad[kActivations][2])(const void* dy, const void* gate, const void* up, void* dgate, void* dup,
                                    int64_t n);

  // ---- norms, [dtype of x, y, dy, dx, addend][dtype of the weights]; `offset` is added to w (gemma: 1)
  // Returns rstd.
  float (*rms_norm[2][2])(const void* x, const void* w, float offset, float eps, void* y, int64_t n);
  // addend may be null; dx may be addend or dy.
  void (*rms_norm_grad[2][2])(const void* dy, const void* x, const void* w, float offset, float rstd,
                              const void* addend, void* dx, int64_t n);
  void (*layer_norm[2][2])(const void* x, const void* w, const void* b, float eps, void* y, float* mean, float* rstd,
                           int64_t n);
  void (*layer_norm_grad[2][2])(const void* dy, const void* x, const void* w, float mean, float rstd,
                                const void* addend, void* dx, int64_t n);

  // ---- rope: one token's row of `heads` heads; c, s hold `half` numbers; columns past 2*half of a head are copied.
  // sign +1 rotates, -1 rotates back.
  void (*rope[2])(const void* x, const float* c, const float* s, float sign, int64_t heads, int64_t head_dim,
                  int64_t half, void* y);

  // ---- 4-bit blocks of 64, first element in the high nibble; n elements of consecutive blocks, starting at a block
  // codes by the rule of bitsandbytes: x * (1 / max(absmax, 1e-38)), strict > on fp32 midpoints; fp4 = 0 means nf4.
  void (*quantize_4bit[2])(const void* x, int fp4, uint8_t* packed, float* absmax, int64_t n);
  // y = table[code] * absmax, one rounding
  void (*dequantize_4bit[2])(const uint8_t* packed, const float* absmax, int fp4, void* y, int64_t n);
  // ---- 8-bit dynamic maps, one block (any n): code = nearest entry of the map to x * inverse, ties to the even code
  void (*quantize_dynamic)(const float* x, float inverse, int is_signed, uint8_t* code, int64_t n);

  // ---- random: `blocks` Philox4x32-10 blocks from counter `first`, 4 words each
  void (*philox)(const uint32_t key[2], uint64_t first, uint32_t c2, uint32_t c3, uint32_t* words, int64_t blocks);
  // y = words < threshold ? x * s : 0; a threshold of 2^32 keeps all
  void (*keep[2])(const void* x, const uint32_t* words, uint64_t threshold, float s, void* y, int64_t n);

  // ---- optimizers, [dtype of p]; outputs are separate rows so that they may alias or not
  void (*adamw[2])(const AdamwScalars* a, const void* p, const float* g, const float* m, const float* v, void* p_out,
                   float* m_out, float* v_out, int64_t n);
  // One block, n <= 256. absmax in and out.
  void (*adamw_8bit[2])(const AdamwScalars* a, const void* p, const float* g, const uint8_t* code1,
                        const uint8_t* code2, float absmax1, float absmax2, void* p_out, uint8_t* code1_out,
                        uint8_t* code2_out, float* absmax1_out, float* absmax2_out, int64_t n);
};

// The table of this process.
const RowOps& rows();
// A table by name, nullptr when this build or this CPU has none: for tests. Names: portable, avx2, avx512.
const RowOps* rows_for(const char* isa);

// 4-bit and 8-bit code books (quant_tables.cpp).
extern const float kNf4Table[16];
extern const float kFp4Table[16];
extern const float kDynamicSigned[256];    // zero is entry 127
extern const float kDynamicUnsigned[256];  // zero is entry 0
// 255 bounds as a search tree: entry i has children 2 i and 2 i + 1 (for "above"), entry 0 is unused. Descending eight
// levels from 1 gives 256 + code, code = number of bounds b with x > b.
struct CodeBounds { float tree[256]; };
extern const CodeBounds kDynamicSignedBounds;
extern const CodeBounds kDynamicUnsignedBounds;

}  // namespace lathe::cpu
