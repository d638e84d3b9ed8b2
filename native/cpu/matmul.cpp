// The matmul op on gemm.h: reads the attribute lists into operands once, fills in pointers at run.
//
// scratch(matmul) = gemm_scratch_bytes(M, N, sum of the terms' K, number of terms, device.threads), the closed formula
// in gemm/gemm.h.
#include <vector>

#include "common.h"
#include "gemm/gemm.h"

namespace lathe::cpu {
namespace {

// How many inputs b takes by its `quant` code, and what they hold: 0 dense, 1 nf4, 2 nf4 nested, 3 fp4, 4 fp4 nested.
constexpr size_t kParts[5] = {1, 2, 4, 2, 4};

struct Term {
  GemmTerm operands;
  int a = 0, b = 0, quant = 0;
};
struct Matmul {
  std::vector<Term> terms;
  GemmCall call;
  int bias = -1, addend = -1;
};

Status read_list(NodeView& node, const char* key, std::vector<double>* out) {
  LATHE_TRY(node.attributes.numbers(key, out));
  for (double v : *out)
    LATHE_EXPECT(node, v >= 0 && v < 0x1p40 && v == double(int64_t(v)), std::string(key) + " must hold whole numbers");
  return ok_status();
}

Status read_dense(NodeView& node, const TensorType& t, int64_t rows, int64_t cols, const char* what, MatOperand* out) {
  LATHE_EXPECT(node, t.dtype <= DType::F16 && t.numel() == rows * cols && t.cols() == cols,
               std::string(what) + " must be a float matrix [" + std::to_string(rows) + ", " + std::to_string(cols) +
                   "], got " + describe(t));
  out->dtype = t.dtype;
  out->rows = rows;
  out->cols = out->ld = cols;
  return ok_status();
}

Status read_codes(NodeView& node, size_t first, int quant, int64_t rows, int64_t cols, MatOperand* out) {
  bool nested = quant % 2 == 0;
  int64_t n = 0;
  LATHE_EXPECT(node, !__builtin_mul_overflow(rows, cols, &n), "rows and cols of a quantised matrix are out of range");
  int64_t blocks = (n + 63) / 64;
  LATHE_TRY(expect_vector(node, node.inputs[first], DType::U8, (n + 1) / 2, "packed"));
  LATHE_TRY(expect_vector(node, node.inputs[first + 1], nested ? DType::U8 : DType::F32, blocks, "absmax"));
  if (nested) {
    LATHE_TRY(expect_vector(node, node.inputs[first + 2], DType::F32, (blocks + 255) / 256, "nested_absmax"));
    LATHE_TRY(expect_vector(node, node.inputs[first + 3], DType::F32, 1, "nested_offset"));
  }
  out->rows = rows;
  out->cols = out->ld = cols;
  out->format = quant <= 2 ? MatFormat::kNf4 : MatFormat::kFp4;
  return ok_status();
}

Status prepare_terms(NodeView& node, Matmul* m, size_t* next) {
  std::vector<double> trans_a, trans_b, quant, rows, cols;
  LATHE_TRY(read_list(node, "trans_a", &trans_a));
  LATHE_TRY(read_list(node, "trans_b", &trans_b));
  LATHE_TRY(read_list(node, "quant", &quant));
  LATHE_TRY(read_list(node, "rows", &rows));
  LATHE_TRY(read_list(node, "cols", &cols));
  size_t count = quant.size();
  LATHE_EXPECT(node, count >= 1 && count <= size_t(kGemmMaxTerms),
               "expected 1 to " + std::to_string(kGemmMaxTerms) + " terms, got " + std::to_string(count));
  LATHE_EXPECT(node, trans_a.size() == count && trans_b.size() == count && rows.size() == count && cols.size() == count,
               "trans_a, trans_b, quant, rows and cols must have one number per term");
  for (size_t i = 0; i < count; i++) {
    LATHE_EXPECT(node, quant[i] <= 4, "quant must be 0 to 4");
    Term t;
    t.quant = int(quant[i]);
    t.a = int(*next);
    t.b = t.a + 1;
    *next += 1 + kParts[t.quant];
    LATHE_EXPECT(node, node.inputs.size() >= *next, "too few inputs for the terms");
    auto& a = node.inputs[size_t(t.a)];
    LATHE_EXPECT(node, a.rank == 2, "a must be a matrix, got " + describe(a));
    LATHE_TRY(read_dense(node, a, a.shape[0], a.shape[1], "a", &t.operands.a));
    t.operands.a.transposed = trans_a[i] != 0;
    auto r = int64_t(rows[i]), c = int64_t(cols[i]);
    if (t.quant)
      LATHE_TRY(read_codes(node, size_t(t.b), t.quant, r, c, &t.operands.b));
    else
      LATHE_TRY(read_dense(node, node.inputs[size_t(t.b)], r, c, "b", &t.operands.b));
    t.operands.b.transposed = trans_b[i] != 0;
    m->terms.push_back(t);
  }
  return ok_status();
}

Status prepare_matmul(NodeView& node, const DeviceSpec& device, KernelPlan* plan) {
  auto* m = plan->emplace<Matmul>();
  bool bias, addend;
  double alpha;
  std::string compute;
  LATHE_TRY(flag(node, "bias", &bias));
  LATHE_TRY(flag(node, "addend", &addend));
  LATHE_TRY(node.attributes.number("alpha", &alpha));
  LATHE_TRY(node.attributes.string("compute", &compute));
  LATHE_EXPECT(node, compute == "f32" || compute == "bf16", "compute must be f32 or bf16, got " + compute);
  size_t next = 0;
  LATHE_TRY(prepare_terms(node, m, &next));
  if (bias) m->bias = int(next++);
  if (addend) m->addend = int(next++);
  LATHE_TRY(expect_arity(node, next, 1));

  auto& y = node.outputs[0];
  LATHE_TRY(expect_float(node, y, "output"));
  LATHE_EXPECT(node, y.rank == 2, "output must be a matrix, got " + describe(y));
  auto& call = m->call;
  call.m = y.shape[0];
  call.n = call.ldc = call.addend_ld = y.shape[1];
  call.alpha = float(alpha);
  call.c_dtype = call.addend_dtype = y.dtype;
  call.bf16_compute = compute == "bf16";
  int64_t total_k = 0;
  for (auto& t : m->terms) {
    auto &a = t.operands.a, &b = t.operands.b;
    int64_t rows = a.transposed ? a.cols : a.rows, k = a.transposed ? a.rows : a.cols;
    int64_t kb = b.transposed ? b.cols : b.rows, cols = b.transposed ? b.rows : b.cols;
    LATHE_EXPECT(node, rows == call.m && cols == call.n && k == kb,
                 "a term multiplies [" + std::to_string(rows) + ", " + std::to_string(k) + "] by [" + std::to_string(kb) +
                     ", " + std::to_string(cols) + "] into " + describe(y));
    total_k += k;
  }
  if (bias) {
    auto& type = node.inputs[size_t(m->bias)];
    LATHE_TRY(expect_float(node, type, "bias"));
    LATHE_TRY(expect_vector(node, type, type.dtype, call.n, "bias"));
    call.bias_dtype = type.dtype;
  }
  if (addend) {
    LATHE_TRY(expect_same(node, y, node.inputs[size_t(m->addend)], "addend"));
    plan->allow_alias(0, m->addend);
  }
  return expect_scratch(node, gemm_scratch_bytes(call.m, call.n, total_k, int(m->terms.size()), device.threads));
}

Status run_matmul(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& m = plan.get<Matmul>();
  GemmTerm terms[kGemmMaxTerms];
  for (size_t i = 0; i < m.terms.size(); i++) {
    auto& t = m.terms[i];
    terms[i] = t.operands;
    terms[i].a.data = b.inputs[t.a];
    terms[i].b.data = b.inputs[t.b];
    if (!t.quant) continue;
    if (t.quant % 2) {
      terms[i].b.absmax = b.in<float>(t.b + 1);
    } else {
      terms[i].b.absmax_q = b.in<uint8_t>(t.b + 1);
      terms[i].b.nested_absmax = b.in<float>(t.b + 2);
      terms[i].b.nested_offset = b.in<float>(t.b + 3)[0];
    }
  }
  GemmCall call = m.call;
  call.terms = terms;
  call.term_count = int(m.terms.size());
  if (m.bias >= 0) call.bias = b.inputs[m.bias];
  if (m.addend >= 0) call.addend = b.inputs[m.addend];
  call.c = b.outputs[0];
  gemm(call, *stream.pool, b.scratch);
  return ok_status();
}

}  // namespace

LATHE_CPU_KERNEL(matmul, prepare_matmul, run_matmul);

}  // namespace lathe::cpu
