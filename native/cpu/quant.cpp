// 4-bit quantisation as bitsandbytes defines it, and GGUF's block formats.
//
// quantize_4bit, quantize_absmax, dequantize_4bit: blocks of 64 along the row-major order, first element in the high
// nibble; scales optionally quantised again in blocks of 256 with the signed dynamic map around their mean (Dettmers et
// al., QLoRA, 2305.14314). A scale is map * nested, rounded, plus offset, rounded; a value is table * scale, one
// rounding. The mean is summed in f64 in order. A piece of work is 256 blocks: exactly one nested block.
//
// Decisions where implementations differ: absmax 0 is kept as 0 and codes 0.0 (nf4 7, fp4 0, dynamic 127); an odd
// tail's low nibble is the code of 0.0, as bitsandbytes pads; ties of the dynamic map take the even code.
//
// scratch(each) = 0
#include <vector>

#include "common.h"
#include "ggml_blocks.h"

namespace lathe::cpu {
namespace {

constexpr int64_t kBlock = 64, kNested = 256, kPiece = kBlock * kNested;
int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

struct Codes {
  int64_t n = 0;
  DType type = DType::F32;
  bool fp4 = false, nested = false;
};
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
  return expect_vector(node, node.outputs[1], DType::F32, blocks_of(c->n, kBlock), "absmax");
}
Status run_quantize(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Codes>();
  auto& table = rows();
  parallel_range(stream, c.n, kPiece, [&](int64_t begin, int64_t end) {
    uint8_t* packed = b.out<uint8_t>(0) + begin / 2;
    float* absmax = b.out<float>(1) + begin / kBlock;
    const void* x = at(b.inputs[0], begin, c.type);
    if (c.type != DType::F16) return table.quantize_4bit[int(c.type)](x, c.fp4, packed, absmax, end - begin);
    float wide[kBlock];
    for (int64_t i = 0; i < end - begin; i += kBlock) {
      int64_t n = std::min(kBlock, end - begin - i);
      table.to_f32[int(c.type)](at(x, i, c.type), wide, n);
      table.quantize_4bit[0](wide, c.fp4, packed + i / 2, absmax + i / kBlock, n);
    }
  });
  return ok_status();
}

Status prepare_quantize_absmax(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 3));
  auto* c = plan->emplace<Codes>();
  c->n = node.inputs[0].numel();
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::F32, c->n, "absmax"));
  LATHE_TRY(expect_vector(node, node.outputs[0], DType::U8, c->n, "codes"));
  LATHE_TRY(expect_vector(node, node.outputs[1], DType::F32, blocks_of(c->n, kNested), "nested_absmax"));
  return expect_vector(node, node.outputs[2], DType::F32, 1, "offset");
}
Status run_quantize_absmax(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Codes>();
  auto& table = rows();
  const float* absmax = b.in<float>(0);
  double sum = 0;
  for (int64_t i = 0; i < c.n; i++) sum += absmax[i];
  float offset = c.n ? float(sum / double(c.n)) : 0.0f;
  b.out<float>(2)[0] = offset;
  parallel_range(stream, blocks_of(c.n, kNested), 64, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) {
      int64_t start = block * kNested, n = std::min(kNested, c.n - start);
      float centred[kNested];
      for (int64_t i = 0; i < n; i++) centred[i] = absmax[start + i] - offset;
      float top = table.abs_max[0](centred, n);
      b.out<float>(1)[block] = top;
      table.quantize_dynamic(centred, 1.0f / std::max(top, 1e-38f), 1, b.out<uint8_t>(0) + start, n);
    }
  });
  return ok_status();
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
  int64_t blocks = blocks_of(c->n, kBlock);
  LATHE_TRY(expect_vector(node, node.inputs[0], DType::U8, (c->n + 1) / 2, "packed"));
  LATHE_TRY(expect_vector(node, node.inputs[1], c->nested ? DType::U8 : DType::F32, blocks, "absmax"));
  if (!c->nested) return ok_status();
  LATHE_TRY(expect_vector(node, node.inputs[2], DType::F32, blocks_of(blocks, kNested), "nested_absmax"));
  return expect_vector(node, node.inputs[3], DType::F32, 1, "offset");
}
Status run_dequantize(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& c = plan.get<Codes>();
  auto row = rows().dequantize_4bit[int(c.type)];
  parallel_range(stream, c.n, kPiece, [&](int64_t begin, int64_t end) {
    float scales[kNested];
    const float* absmax = scales;
    if (c.nested) {
      const uint8_t* codes = b.in<uint8_t>(1) + begin / kBlock;
      float nested = b.in<float>(2)[begin / kPiece], offset = b.in<float>(3)[0];
      for (int64_t i = 0; i < blocks_of(end - begin, kBlock); i++) scales[i] = kDynamicSigned[codes[i]] * nested + offset;
    } else {
      absmax = b.in<float>(1) + begin / kBlock;
    }
    row(b.in<uint8_t>(0) + begin / 2, absmax, c.fp4, at(b.outputs[0], begin, c.type), end - begin);
  });
  return ok_status();
}

// ---- GGUF

struct Ggml {
  const GgmlFormat* format = nullptr;
  int64_t blocks = 0;
  DType type = DType::F32;
};
Status prepare_ggml(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  LATHE_TRY(expect_arity(node, 1, 1));
  auto* g = plan->emplace<Ggml>();
  std::string type;
  LATHE_TRY(node.attributes.string("type", &type));
  g->format = ggml_format(type.c_str());
  LATHE_EXPECT(node, g->format, "GGUF type " + type + " is not supported; supported are " + ggml_format_names());
  int64_t n;
  LATHE_TRY(read_matrix(node, &n));
  int64_t cols = node.outputs[0].shape[1];
  LATHE_EXPECT(node, cols % g->format->elements == 0,
               type + " needs rows of a multiple of " + std::to_string(g->format->elements) + " elements, got " +
                   std::to_string(cols));
  g->blocks = n / g->format->elements;
  g->type = node.outputs[0].dtype;
  return expect_vector(node, node.inputs[0], DType::U8, g->blocks * g->format->bytes, "bytes");
}
Status run_ggml(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& g = plan.get<Ggml>();
  auto round = rows().from_f32[int(g.type)];
  int64_t per_block = g.format->elements;
  parallel_range(stream, g.blocks, std::max<int64_t>(1, kGrain / per_block), [&](int64_t begin, int64_t end) {
    float values[kGgmlMaxElements];
    for (int64_t i = begin; i < end; i++) {
      g.format->decode(b.in<uint8_t>(0) + i * g.format->bytes, values);
      round(values, at(b.outputs[0], i * per_block, g.type), per_block);
    }
  });
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(quantize_4bit, prepare_quantize, run_quantize);
LATHE_CPU_KERNEL(quantize_absmax, prepare_quantize_absmax, run_quantize_absmax);
LATHE_CPU_KERNEL(dequantize_4bit, prepare_dequantize, run_dequantize);
LATHE_CPU_KERNEL(dequantize_ggml, prepare_ggml, run_ggml);

}  // namespace lathe::cpu
