// 4-bit quantisation as bitsandbytes defines it, and GGUF's block formats.
//
// quantize_4bit, quantize_absmax, dequantize_4bit: blocks of 64 along the row-major order, first element in the high
// nibble; scales optionally quantised again in blocks of 256 with the signed dynamic map around their mean (Dettmers et
// al., QLoRA, 2305.14314). A scale is map * nested, rounded, plus offset, rounded; a value is table * scale, one
// rounding: no contraction into fma. The same decisions as native/cpu/quant.cpp. Dequantising undoes the nesting in the
// same pass; a thread turns 8 bytes into 16 values, so reads and writes are both wide.
//
// scratch(each) = 0
#include "cuda/code_tables.cuh"
#include "cuda/common.cuh"
#include "cuda/ggml.cuh"

namespace lathe::cuda {
namespace {

constexpr int64_t kBlock = 64, kNested = 256;
constexpr unsigned kThreads = 256;

struct Codes {
  int64_t n = 0;
  DType type = DType::F32;
  bool fp4 = false, nested = false;
};

// ---- quantise: a block of 64 values is half a warp's work, 4 per thread

template <class T, bool kFp4>
__global__ void __launch_bounds__(kThreads) quantize_kernel(const T* x, uint8_t* packed, float* absmax, int64_t n) {
  const int64_t start = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 4;
  float v[4], top = 0;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    v[j] = start + j < n ? load(x[start + j]) : 0.0f;
    top = fabsf(v[j]) > top ? fabsf(v[j]) : top;
  }
  for (int mask = 8; mask > 0; mask /= 2) {
    const float other = warp_shuffle_xor(top, mask);
    top = other > top ? other : top;
  }
  if (start >= n) return;
  // The floor makes an all-zero block code 7 (nf4) or 0 (fp4): both are 0.
  const float inverse = div_rn(1.0f, top > 1e-38f ? top : 1e-38f);
  int c[4];
#pragma unroll
  for (int j = 0; j < 4; j++) c[j] = code_4bit<kFp4>(mul_rn(v[j], inverse));
  packed[start / 2] = uint8_t(c[0] << 4 | c[1]);
  if (start + 2 < n) packed[start / 2 + 1] = uint8_t(c[2] << 4 | c[3]);
  if (start % kBlock == 0) absmax[start / kBlock] = top;
}

// ---- the scales of the scales. The mean is f64: per thread strided, then a fixed tree.

__global__ void __launch_bounds__(1024) mean_kernel(const float* absmax, int64_t n, float* offset) {
  LATHE_SHARED(double, sums, 32);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += 1024) sum += double(absmax[i]);
  sum = block_reduce(sum, sums, Sum{});
  if (threadIdx.x == 0) *offset = n ? float(sum / double(n)) : 0.0f;
}
__global__ void __launch_bounds__(kThreads) nested_kernel(const float* absmax, const float* offset, uint8_t* codes, float* nested, int64_t n) {
  LATHE_SHARED(float, map, 256);
  LATHE_SHARED(float, sums, 32);
  map[threadIdx.x] = kDynamicSigned[threadIdx.x];
  const int64_t i = int64_t(blockIdx.x) * kNested + threadIdx.x;
  const float centred = i < n ? sub_rn(absmax[i], *offset) : 0.0f;
  const float top = block_reduce(fabsf(centred), sums, Max{});  // its barriers also publish the map
  if (threadIdx.x == 0) nested[blockIdx.x] = top;
  const float inverse = div_rn(1.0f, top > 1e-38f ? top : 1e-38f);
  if (i < n) codes[i] = uint8_t(nearest_code(map, mul_rn(centred, inverse)));
}

// ---- dequantise

template <class T>
struct alignas(16) Pack { T at[16 / sizeof(T)]; };

template <class T, bool kFp4, bool kNestedScales>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(const uint8_t* packed, const void* absmax, const float* nested, const float* offset, T* y, int64_t n) {
  LATHE_SHARED(float, map, 256);
  LATHE_SHARED(float, table, 16);
  if (kNestedScales) map[threadIdx.x] = kDynamicSigned[threadIdx.x];
  if (threadIdx.x < 16) table[threadIdx.x] = kFp4 ? kFp4Table[threadIdx.x] : kNf4Table[threadIdx.x];
  block_sync();
  const int64_t start = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 16;
  if (start >= n) return;
  const int64_t block = start / kBlock;
  float scale;
  if (kNestedScales) {
    const float code = map[static_cast<const uint8_t*>(absmax)[block]];
    scale = add_rn(mul_rn(code, nested[block / kNested]), *offset);
  } else {
    scale = static_cast<const float*>(absmax)[block];
  }
  if (start + 16 <= n) {
    struct alignas(8) Eight { uint8_t at[8]; };
    const Eight bytes = *reinterpret_cast<const Eight*>(packed + start / 2);
    constexpr int kPerPack = int(16 / sizeof(T));
#pragma unroll
    for (int p = 0; p < 16 / kPerPack; p++) {
      Pack<T> out;
#pragma unroll
      for (int j = 0; j < kPerPack; j++) {
        const int e = p * kPerPack + j, byte = bytes.at[e / 2];
        store(&out.at[j], mul_rn(table[e % 2 ? byte & 15 : byte >> 4], scale));
      }
      *reinterpret_cast<Pack<T>*>(y + start + p * kPerPack) = out;
    }
    return;
  }
  for (int64_t e = start; e < n; e++) {
    const int byte = packed[e / 2];
    store(y + e, mul_rn(table[e % 2 ? byte & 15 : byte >> 4], scale));
  }
}

Status read_type(NodeView& node, bool* fp4) {
  std::string type;
  LATHE_TRY(node.attributes.string("type", &type));
  LATHE_EXPECT(node, type == "nf4" || type == "fp4", "type must be nf4 or fp4, got " + type);
  *fp4 = type == "fp4";
  return ok_status();
}
Status prepare_quantize(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 2));
  auto& x = node.inputs[0];
  auto* c = plan->emplace<Codes>();
  LATHE_TRY(read_type(node, &c->fp4));
  LATHE_EXPECT(node, x.dtype <= DType::F16, "x must be f32, bf16 or f16, got " + describe(x));
  c->n = x.numel();
  c->type = x.dtype;
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::U8, (c->n + 1) / 2, "packed"));
  return expect_vector(node, node.outputs[1], DType::F32, ceil_div(c->n, kBlock), "absmax");
}
Status run_quantize(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Codes>();
  if (c.n == 0) return ok_status();
  return with_any_float(c.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, c.fp4 ? quantize_kernel<T, true> : quantize_kernel<T, false>, Grid(ceil_div(c.n, 4 * kThreads)), kThreads, 0,
                  b.in<T>(0), b.out<uint8_t>(0), b.out<float>(1), c.n);
  });
}

Status prepare_quantize_absmax(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 3));
  auto* c = plan->emplace<Codes>();
  c->n = node.inputs[0].numel();
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, c->n, "absmax"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::U8, c->n, "codes"));
  LATHE_TRY(expect_vector(node, node.outputs[1], DType::F32, ceil_div(c->n, kNested), "nested_absmax"));
  return expect_vector(node, node.outputs[2], DType::F32, 1, "offset");
}
Status run_quantize_absmax(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Codes>();
  LATHE_TRY(launch(stream, mean_kernel, Grid(1), 1024, 0, b.in<float>(0), c.n, b.out<float>(2)));
  if (c.n == 0) return ok_status();
  return launch(stream, nested_kernel, Grid(ceil_div(c.n, kNested)), kThreads, 0, b.in<float>(0), b.out<float>(2), b.out<uint8_t>(0), b.out<float>(1), c.n);
}

Status read_matrix(NodeView& node, int64_t* n) {
  int64_t rows, cols;
  LATHE_TRY(node.attributes.integer("rows", &rows));
  LATHE_TRY(node.attributes.integer("cols", &cols));
  auto& y = node.outputs[0];
  LATHE_TRY(expect_float(node, y, "output"));
  LATHE_EXPECT(node, y.rank == 2 && y.shape[0] == rows && y.shape[1] == cols,
               "output must be [" + std::to_string(rows) + ", " + std::to_string(cols) + "], got " + describe(y));
  *n = rows * cols;
  return ok_status();
}
Status prepare_dequantize(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  auto* c = plan->emplace<Codes>();
  LATHE_TRY(read_type(node, &c->fp4));
  LATHE_TRY(flag(node, "nested", &c->nested));
  LATHE_TRY(expect_arity(node, c->nested ? 4 : 2, 1));
  LATHE_TRY(read_matrix(node, &c->n));
  c->type = node.outputs[0].dtype;
  const int64_t blocks = ceil_div(c->n, kBlock);
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::U8, (c->n + 1) / 2, "packed"));
  LATHE_TRY(expect_vector(node, node.inputs[1], c->nested ? DType::U8 : DType::F32, blocks, "absmax"));
  if (!c->nested) return ok_status();
  LATHE_TRY(expect_vector(node, node.inputs[2], DType::F32, ceil_div(blocks, kNested), "nested_absmax"));
  return expect_vector(node, node.inputs[3], DType::F32, 1, "offset");
}
Status run_dequantize(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Codes>();
  if (c.n == 0) return ok_status();
  const float* nested = c.nested ? b.in<float>(2) : nullptr;
  const float* offset = c.nested ? b.in<float>(3) : nullptr;
  return with_float(c.type, [&](auto t) {
    using T = decltype(t);
    auto* kernel = c.fp4 ? (c.nested ? dequantize_kernel<T, true, true> : dequantize_kernel<T, true, false>)
                         : (c.nested ? dequantize_kernel<T, false, true> : dequantize_kernel<T, false, false>);
    return launch(stream, kernel, Grid(ceil_div(c.n, 16 * kThreads)), kThreads, 0, b.in<uint8_t>(0), b.inputs[1], nested, offset, b.out<T>(0), c.n);
  });
}

// ---- GGUF: a thread decodes one value

template <class T>
__global__ void __launch_bounds__(kThreads) ggml_kernel(const uint8_t* bytes, int format, int elements, int block_bytes, T* y, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) store(y + i, ggml_value(format, bytes + i / elements * block_bytes, int(i % elements)));
}
struct Ggml {
  int format = 0;
  int64_t n = 0;
  DType type = DType::F32;
};
Status prepare_ggml(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  auto* g = plan->emplace<Ggml>();
  std::string type, known;
  LATHE_TRY(node.attributes.string("type", &type));
  g->format = -1;
  for (int i = 0; i < kGgmlFormats; i++) {
    known += (i ? ", " : "") + std::string(kGgmlShapes[i].name);
    if (type == kGgmlShapes[i].name) g->format = i;
  }
  LATHE_EXPECT(node, g->format >= 0, "GGUF type " + type + " is not supported; supported are " + known);
  LATHE_TRY(read_matrix(node, &g->n));
  const GgmlShape& shape = kGgmlShapes[g->format];
  const int64_t cols = node.outputs[0].shape[1];
  LATHE_EXPECT(node, cols % shape.elements == 0,
               type + " needs rows of a multiple of " + std::to_string(shape.elements) + " elements, got " + std::to_string(cols));
  g->type = node.outputs[0].dtype;
  return expect_vector(node, node.inputs[0], DType::U8, g->n / shape.elements * shape.bytes, "bytes");
}
Status run_ggml(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& g = plan.get<Ggml>();
  if (g.n == 0) return ok_status();
  const GgmlShape& shape = kGgmlShapes[g.format];
  return with_float(g.type, [&](auto t) {
    using T = decltype(t);
    return launch(stream, ggml_kernel<T>, Grid(ceil_div(g.n, kThreads)), kThreads, 0, b.in<uint8_t>(0), g.format, shape.elements, shape.bytes, b.out<T>(0), g.n);
  });
}

}  // namespace

LATHE_CUDA_KERNEL(quantize_4bit, prepare_quantize, run_quantize);
LATHE_CUDA_KERNEL(quantize_absmax, prepare_quantize_absmax, run_quantize_absmax);
LATHE_CUDA_KERNEL(dequantize_4bit, prepare_dequantize, run_dequantize);
LATHE_CUDA_KERNEL(dequantize_ggml, prepare_ggml, run_ggml);

}  // namespace lathe::cuda
