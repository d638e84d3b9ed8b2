// The matmul op on gemm.cuh: reads the attribute lists into operands once, fills in pointers at run.
//
// scratch(matmul) = gemm_scratch of its terms (gemm.cuh)
#include "cuda/common.cuh"
#include "cuda/gemm.cuh"

namespace lathe::cuda {
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
  bool bf16 = false;
};

Status read_list(NodeView& node, const char* key, std::vector<double>* out) {
  LATHE_TRY(node.attributes.numbers(key, out));
  for (double v : *out) LATHE_EXPECT(node, v >= 0 && v == double(int64_t(v)), std::string(key) + " must hold whole numbers");
  return ok_status();
}
Status read_dense(NodeView& node, const TensorType& t, int64_t rows, int64_t cols, const char* what, GemmOperand* out) {
  LATHE_EXPECT(node, t.dtype <= DType::F16 && t.numel() == rows * cols && t.cols() == cols,
               std::string(what) + " must be a float matrix [" + std::to_string(rows) + ", " + std::to_string(cols) + "], got " + describe(t));
  out->format = int(t.dtype);
  out->ld = cols;
  return ok_status();
}
Status read_codes(NodeView& node, size_t first, int quant, int64_t rows, int64_t cols, GemmOperand* out) {
  const bool nested = quant % 2 == 0;
  const int64_t n = rows * cols, blocks = ceil_div(n, 64);
  LATHE_TRY(expect_vector(node, node.inputs[first], DType::U8, (n + 1) / 2, "packed"));
  LATHE_TRY(expect_vector(node, node.inputs[first + 1], nested ? DType::U8 : DType::F32, blocks, "absmax"));
  if (nested) {
    LATHE_TRY(expect_vector(node, node.inputs[first + 2], DType::F32, ceil_div(blocks, 256), "nested_absmax"));
    LATHE_TRY(expect_vector(node, node.inputs[first + 3], DType::F32, 1, "nested_offset"));
  }
  out->format = quant <= 2 ? kFormatNf4 : kFormatFp4;
  out->ld = cols;
  return ok_status();
}

Status prepare_terms(NodeView& node, Matmul* m, size_t* next, int64_t rows_c, int64_t cols_c) {
  std::vector<double> trans_a, trans_b, quant, rows, cols;
  LATHE_TRY(read_list(node, "trans_a", &trans_a));
  LATHE_TRY(read_list(node, "trans_b", &trans_b));
  LATHE_TRY(read_list(node, "quant", &quant));
  LATHE_TRY(read_list(node, "rows", &rows));
  LATHE_TRY(read_list(node, "cols", &cols));
  const size_t count = quant.size();
  LATHE_EXPECT(node, count >= 1 && count <= size_t(kGemmTerms), "expected 1 to " + std::to_string(kGemmTerms) + " terms, got " + std::to_string(count));
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
    const auto r = int64_t(rows[i]), c = int64_t(cols[i]);
    if (t.quant) LATHE_TRY(read_codes(node, size_t(t.b), t.quant, r, c, &t.operands.b));
    else LATHE_TRY(read_dense(node, node.inputs[size_t(t.b)], r, c, "b", &t.operands.b));
    t.operands.b.transposed = trans_b[i] != 0;
    const int64_t term_rows = trans_a[i] != 0 ? a.shape[1] : a.shape[0], k = trans_a[i] != 0 ? a.shape[0] : a.shape[1];
    const int64_t kb = trans_b[i] != 0 ? c : r, term_cols = trans_b[i] != 0 ? r : c;
    LATHE_EXPECT(node, term_rows == rows_c && term_cols == cols_c && k == kb,
                 "a term multiplies [" + std::to_string(term_rows) + ", " + std::to_string(k) + "] by [" + std::to_string(kb) + ", " +
                     std::to_string(term_cols) + "] into " + describe(node.outputs[0]));
    t.operands.k = k;
    m->terms.push_back(t);
  }
  return ok_status();
}

Status prepare_matmul(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  auto* m = plan->emplace<Matmul>();
  bool bias, addend;
  double alpha;
  std::string compute;
  LATHE_TRY(flag(node, "bias", &bias));
  LATHE_TRY(flag(node, "addend", &addend));
  LATHE_TRY(node.attributes.number("alpha", &alpha));
  LATHE_TRY(node.attributes.string("compute", &compute));
  LATHE_EXPECT(node, compute == "f32" || compute == "bf16", "compute must be f32 or bf16, got " + compute);
  LATHE_EXPECT(node, node.outputs.size() == 1 && node.outputs[0].rank == 2, "expected one matrix as output");
  auto& y = node.outputs[0];
  LATHE_TRY(expect_float(node, y, "output"));
  size_t next = 0;
  LATHE_TRY(prepare_terms(node, m, &next, y.shape[0], y.shape[1]));
  if (bias) m->bias = int(next++);
  if (addend) m->addend = int(next++);
  LATHE_TRY(expect_arity(node, next, 1));
  m->bf16 = compute == "bf16";
  m->call.m = y.shape[0];
  m->call.n = m->call.ldc = y.shape[1];
  m->call.alpha = float(alpha);
  m->call.c_dtype = int(y.dtype);
  m->call.term_count = int(m->terms.size());
  if (bias) {
    auto& type = node.inputs[size_t(m->bias)];
    LATHE_TRY(expect_float(node, type, "bias"));
    LATHE_TRY(expect_vector(node, type, type.dtype, m->call.n, "bias"));
    m->call.bias_dtype = int(type.dtype);
  }
  if (addend) {
    LATHE_TRY(expect_same(node, y, node.inputs[size_t(m->addend)], "addend"));
    plan->allow_alias(0, m->addend);
  }
  for (size_t i = 0; i < m->terms.size(); i++) m->call.terms[i] = m->terms[i].operands;
  return expect_scratch(node, gemm_scratch(m->call, m->bf16).total);
}

Status run_matmul(const KernelPlan& plan, const Buffers& b, Stream& stream) {
  auto& m = plan.get<Matmul>();
  GemmCall call = m.call;
  for (size_t i = 0; i < m.terms.size(); i++) {
    auto& t = m.terms[i];
    GemmTerm& term = call.terms[i];
    term.a.data = b.inputs[t.a];
    term.b.data = b.inputs[t.b];
    if (!t.quant) continue;
    term.b.absmax = b.inputs[t.b + 1];
    if (t.quant % 2 == 0) {
      term.b.nested = b.in<float>(t.b + 2);
      term.b.offset = b.in<float>(t.b + 3);
    }
  }
  if (m.bias >= 0) call.bias = b.inputs[m.bias];
  if (m.addend >= 0) call.addend = b.inputs[m.addend];
  call.c = b.outputs[0];
  return multiply(stream, call, m.bf16, b.scratch);
}

}  // namespace

LATHE_CUDA_KERNEL(matmul, prepare_matmul, run_matmul);

}  // namespace lathe::cuda
