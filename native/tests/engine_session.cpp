// Engine tests without Node, meant to be run under the sanitizers as well:
//   LATHE_NATIVE_TESTS=1 LATHE_SANITIZE=thread node scripts/build-addon.js --out DIR && DIR/tests/engine_session
//
// Programs are built as structs where only the validator is of interest, and as bytes where the session is.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "engine/session.h"
#include "engine/validate.h"
#include "lathe/kernel.h"
#include "lathe/program.h"

namespace {

using namespace lathe;

int g_failures = 0;
int g_checks = 0;

#define EXPECT(condition)                                                          \
  do {                                                                             \
    g_checks++;                                                                    \
    if (!(condition)) {                                                            \
      g_failures++;                                                                \
      std::printf("%s:%d: expected %s\n", __FILE__, __LINE__, #condition);         \
    }                                                                              \
  } while (0)

#define EXPECT_OK(expression)                                                      \
  do {                                                                             \
    const Status s_ = (expression);                                                \
    g_checks++;                                                                    \
    if (!s_.ok()) {                                                                \
      g_failures++;                                                                \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, s_.code(), s_.message().c_str()); \
    }                                                                              \
  } while (0)

// A kernel of our own: out = in + 1, and waits while the test says so.
std::atomic<bool> g_hold{false};
std::atomic<int> g_entered{0};

Status prepare_step(NodeView& node, const DeviceSpec&, KernelPlan* plan) {
  if (node.inputs.size() != 1 || node.outputs.size() != 1) return node.fail("expected one input and one output");
  *plan->emplace<int64_t>() = node.inputs[0].numel();
  plan->allow_alias(0, 0);
  return ok_status();
}

Status run_step(const KernelPlan& plan, const Buffers& buffers, Stream&) {
  g_entered++;
  while (g_hold.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (int64_t i = 0; i < plan.get<int64_t>(); i++) buffers.out<float>(0)[i] = buffers.in<float>(0)[i] + 1;
  return ok_status();
}

Status run_failing(const KernelPlan&, const Buffers&, Stream&) { return device_error("on purpose"); }

const KernelRegistration step(DeviceSpec::Kind::Cpu, {"test_step", prepare_step, run_step});
const KernelRegistration failing(DeviceSpec::Kind::Cpu, {"test_fail", prepare_step, run_failing});

// Little-endian bytes of a program: state w [n] and `steps` nodes of `op` on it in place; output y = w.
class Bytes {
 public:
  template <class T>
  Bytes& number(T value) {
    const auto* p = reinterpret_cast<const uint8_t*>(&value);
    data_.insert(data_.end(), p, p + sizeof value);
    return *this;
  }
  Bytes& text(const std::string& s) {
    number(static_cast<uint32_t>(s.size()));
    data_.insert(data_.end(), s.begin(), s.end());
    return *this;
  }
  Bytes& vector_type(int64_t n) { return number<uint8_t>(0).number<uint8_t>(1).number(n); }
  std::vector<uint8_t> finish() {
    number(crc32(data_.data(), data_.size()));
    return data_;
  }
  Bytes() { data_.assign({'L', 'T', 'H', 'P'}); }

 private:
  std::vector<uint8_t> data_;
};

std::vector<uint8_t> stepping_program(int64_t n, uint32_t steps, const std::string& op = "test_step") {
  Bytes b;
  b.number<uint32_t>(kProgramVersion).text("stepping").number<uint64_t>(0).number<uint64_t>(0);
  b.number<uint32_t>(1).text("w").vector_type(n);
  b.number<uint32_t>(1).number<uint8_t>(1).vector_type(n).number<uint64_t>(0);
  b.number<uint32_t>(0);                                // inputs
  b.number<uint32_t>(1).text("y").number<uint32_t>(0);  // outputs
  b.number<uint32_t>(steps);
  for (uint32_t i = 0; i < steps; i++) {
    b.text(op).text("at." + std::to_string(i)).number<uint32_t>(1).number<uint32_t>(0).number<uint32_t>(1).number<uint32_t>(0);
    b.number<uint64_t>(0).number<uint32_t>(0);
  }
  return b.number<uint64_t>(0).finish();
}

struct Fixture {
  std::shared_ptr<Session> session;
  std::shared_ptr<LoadedProgram> program;
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();

  explicit Fixture(int64_t n = 64, uint32_t steps = 3, const std::string& op = "test_step") {
    DeviceSpec device;
    device.threads = 2;
    EXPECT_OK(Session::create(device, &session));
    TensorType type;
    type.rank = 1;
    type.shape[0] = n;
    EXPECT_OK(session->define_state({{"w", type}}));
    const auto bytes = stepping_program(n, steps, op);
    EXPECT_OK(session->load_program(bytes.data(), bytes.size(), "", &program));
  }

  std::future<Status> run(std::vector<float>* y) {
    auto promise = std::make_shared<std::promise<Status>>();
    RunRequest request;
    request.program = program;
    request.outputs = {reinterpret_cast<uint8_t*>(y->data())};
    request.gate = gate;
    EXPECT_OK(session->run(std::move(request), [promise](const Status& status) { promise->set_value(status); }));
    return promise->get_future();
  }

  void close() {
    std::promise<void> closed;
    session->close([&](const Status&) { closed.set_value(); });
    closed.get_future().wait();
  }
};

void wait_for_entry(int before) {
  while (g_entered.load() == before) std::this_thread::yield();
}

void test_order() {
  Fixture f;
  std::vector<std::vector<float>> results(50, std::vector<float>(64));
  std::vector<std::future<Status>> pending;
  for (auto& y : results) pending.push_back(f.run(&y));
  for (size_t i = 0; i < pending.size(); i++) {
    EXPECT_OK(pending[i].get());
    EXPECT(results[i][63] == 3.0f * static_cast<float>(i + 1));
  }
  f.close();
}

void test_close_drains_and_frees() {
  const uint64_t before = memory_in_use();
  std::vector<float> y(64);
  {
    Fixture f;
    EXPECT(memory_in_use() > before);
    auto pending = f.run(&y);
    f.session->close({});
    EXPECT_OK(pending.get());
    f.close();  // again: waits for the end
    EXPECT(!f.session->define_state({}).ok());
  }
  EXPECT(memory_in_use() == before);
}

// Whoever leaves closes the gate, then abandons: nothing is written to its memory afterwards, the thread ends.
void test_abandon() {
  const uint64_t before = memory_in_use();
  const int entered = g_entered.load();
  std::future<Status> pending;
  {
    Fixture f(64, 1000);
    std::vector<float> y(64, -1);
    g_hold = true;
    pending = f.run(&y);
    wait_for_entry(entered);
    {
      std::lock_guard<std::mutex> lock(f.gate->mutex);
      f.gate->closed = true;
    }
    f.session->abandon();
    EXPECT(y[0] == -1);
  }
  g_hold = false;
  EXPECT(std::string(pending.get().code()) == "ERR_DEVICE");
  EXPECT(g_entered.load() < entered + 1000);
  for (int i = 0; i < 5000 && memory_in_use() != before; i++) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT(memory_in_use() == before);
}

// Loading, releasing, defining and asking while a run is under way.
void test_host_thread_stays_busy() {
  Fixture f(64, 200);
  std::vector<float> y(64);
  f.session->set_profiling(true);
  for (int round = 0; round < 20; round++) {
    auto pending = f.run(&y);
    const auto bytes = stepping_program(64, 5);
    std::shared_ptr<LoadedProgram> other;
    EXPECT_OK(f.session->load_program(bytes.data(), bytes.size(), "other", &other));
    TensorType type;
    type.rank = 1;
    type.shape[0] = 1 << 16;
    EXPECT_OK(f.session->define_state({{"extra", type}}));
    f.session->stats();
    f.session->profile();
    EXPECT_OK(f.session->release_program(other->id));
    EXPECT_OK(f.session->drop_state({"extra"}));
    EXPECT_OK(pending.get());
  }
  EXPECT(y[0] == 20 * 200);
  EXPECT(f.session->profile().size() == 200);
  f.close();
}

void test_failing_kernel() {
  Fixture f(8, 2, "test_fail");
  std::vector<float> y(8);
  const Status status = f.run(&y).get();
  EXPECT(std::string(status.code()) == "ERR_DEVICE");
  EXPECT(status.message() == "program 'stepping', node 0 test_fail (at.0): on purpose");
  EXPECT(f.session->stats().pending == 0);
  f.close();
}

void test_memory_limit() {
  Fixture f;
  TensorType type;
  type.dtype = DType::U8;
  type.rank = 1;
  type.shape[0] = 1 << 20;
  setenv("LATHE_MEMORY_LIMIT", "1000000", 1);
  const Status refused = f.session->define_state({{"big", type}});
  unsetenv("LATHE_MEMORY_LIMIT");
  EXPECT(std::string(refused.code()) == "ERR_PLAN_MEMORY");
  EXPECT_OK(f.session->define_state({{"big", type}}));
  f.close();
}

void test_crc() {
  const char* text = "123456789";  // the check value of the catalogue of CRC algorithms
  EXPECT(crc32(reinterpret_cast<const uint8_t*>(text), 9) == 0xcbf43926u);
}

void test_attributes() {
  Attributes attributes;
  Attributes::Value half;
  half.number = 0.5;
  attributes.set("half", half);
  attributes.set("other", half);
  int64_t integer = 0;
  double number = 0;
  EXPECT(!attributes.integer("half", &integer).ok());
  EXPECT_OK(attributes.number("half", &number));
  EXPECT(number == 0.5);
  std::string text;
  EXPECT(!attributes.string("half", &text).ok());
  EXPECT(!attributes.number("absent", &number).ok());
  EXPECT(attributes.unread() == std::vector<std::string>{"other"});
}

}  // namespace

int main() {
  test_crc();
  test_attributes();
  test_order();
  test_close_drains_and_frees();
  test_abandon();
  test_host_thread_stays_busy();
  test_failing_kernel();
  test_memory_limit();
  std::printf("%d checks, %d failures\n", g_checks, g_failures);
  return g_failures == 0 ? 0 : 1;
}
