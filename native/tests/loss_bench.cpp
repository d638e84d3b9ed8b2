/*
 * Times linear_cross_entropy_grad (loss, dx and, where said, dw) on the heads of small models.
 *   loss_bench [threads] [repeats] [chunk]     with 1 thread: processor time, not wall time
 */
#include <algorithm>
#include <cmath>
#include <ctime>

#include "kernel_runner.h"

using namespace lathe;
using namespace lathe::test;

namespace {

double now_ms(int threads) {
  timespec t;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

struct Shape {
  const char* name;
  int64_t tokens, width, vocabulary;
  bool dw;
};

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2, repeats = argc > 2 ? std::atoi(argv[2]) : 3;
  const int64_t chunk = argc > 3 ? std::atoi(argv[3]) : 256;
  cpu::Pool pool(threads);
  const Shape shapes[] = {{"1024 x 576 x 49152, frozen head", 1024, 576, 49152, false},
                          {"1024 x 768 x 50257, trained head", 1024, 768, 50257, true}};
  for (DType dtype : {DType::BF16, DType::F32})
    for (const Shape& s : shapes) {
      Random random(1);
      Value x = Value::floats(dtype, {s.tokens, s.width}, random.normals(s.tokens * s.width));
      Value w = Value::floats(dtype, {s.vocabulary, s.width}, random.normals(s.vocabulary * s.width, 0.03f));
      std::vector<int32_t> wanted;
      for (int64_t i = 0; i < s.tokens; i++) wanted.push_back(static_cast<int32_t>(random.next() % s.vocabulary));
      Value labels = Value::ints(wanted);
      Value dnll = Value::floats(DType::F32, {s.tokens}, std::vector<float>(s.tokens, 1e-3f));
      Value nll(DType::F32, {s.tokens}), correct = nll, entropy = nll, dx = x, dw(DType::F32, {s.vocabulary, s.width});
      Attributes a;
      set_number(a, "logit_scale", 1), set_number(a, "softcap", 0), set_number(a, "chunk", chunk);
      set_number(a, "addend", 0), set_number(a, "trained", 1);
      Op op("linear_cross_entropy_grad", a, {&x, &w, &labels, &dnll},
            {&nll, &correct, nullptr, &dx, s.dw ? &dw : nullptr},
            {nll.type(), nll.type(), nll.type(), dx.type(), dw.type()}, threads);
      op.run(pool);
      std::vector<double> ms;
      for (int i = 0; i < repeats; i++) {
        const double start = now_ms(threads);
        op.run(pool);
        ms.push_back(now_ms(threads) - start);
      }
      std::sort(ms.begin(), ms.end());
      const double flops = (s.dw ? 6.0 : 4.0) * s.tokens * s.width * s.vocabulary;
      std::printf("%s %s, chunk %lld: %.1f ms (median %.1f), %.1f GF/s, scratch %.1f MB\n", s.name,
                  dtype == DType::BF16 ? "bf16" : "f32 ", static_cast<long long>(chunk), ms[0], ms[ms.size() / 2],
                  flops / ms[0] * 1e-6, op.scratch_bytes * 1e-6);
    }
}
