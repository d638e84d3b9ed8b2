/*
 * The pool of pool.h: claim word, spinning, sleeping, shutdown.
 */
#include "pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace lathe::cpu {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr uint64_t kLeftMask = 0xffffffffu;
constexpr int64_t kMaxChunks = 0x7fffffff;

// The pool whose chunk this thread executes, and its worker index there.
thread_local const void* t_pool = nullptr;
thread_local int t_worker = 0;

// Marks this thread as a worker of `pool` for as long as it lives.
class Inside {
 public:
  Inside(const void* pool, int worker) : pool_(t_pool), worker_(t_worker) {
    t_pool = pool;
    t_worker = worker;
  }
  ~Inside() {
    t_pool = pool_;
    t_worker = worker_;
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  const void* pool_;
  int worker_;
};

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or until the time is up; true when ready. The clock is read rarely, and the thread
// yields between rounds so that an oversubscribed machine makes progress.
template <class Ready>
bool spin_until(Ready&& ready) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 128; ++i) {
      if (ready()) return true;
      relax();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

}  // namespace

struct Pool::State {
  alignas(64) std::atomic<uint64_t> word{0};  // generation << 32 | chunks left
  alignas(64) std::atomic<int64_t> done{0};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};

  // Written by the caller before it publishes `word`; read only by holders of a claim.
  Body body = nullptr;
  void* context = nullptr;
  int64_t chunks = 0;

  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable finished;
  std::mutex running;  // held by the thread inside run()
  std::vector<std::thread> workers;

  void drain(int worker);
  void serve(int worker);
};

// Executes chunks until none is left to claim.
void Pool::State::drain(int worker) {
  uint64_t seen = word.load(std::memory_order_acquire);
  while ((seen & kLeftMask) != 0) {
    if (!word.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const int64_t total = chunks;
    body(context, total - static_cast<int64_t>(seen & kLeftMask), worker);
    if (done.fetch_add(1, std::memory_order_seq_cst) + 1 == total && caller_sleeps.load(std::memory_order_seq_cst)) {
      std::lock_guard<std::mutex> lock(mutex);
      finished.notify_one();
    }
    seen = word.load(std::memory_order_acquire);
  }
}

void Pool::State::serve(int worker) {
  const Inside inside(this, worker);
  for (;;) {
    const auto has_work = [this] {
      return (word.load(std::memory_order_seq_cst) & kLeftMask) != 0 || stop.load(std::memory_order_acquire);
    };
    if (!spin_until(has_work)) {
      std::unique_lock<std::mutex> lock(mutex);
      sleepers.fetch_add(1, std::memory_order_seq_cst);
      wake.wait(lock, has_work);
      sleepers.fetch_sub(1, std::memory_order_seq_cst);
    }
    if (stop.load(std::memory_order_acquire)) return;
    drain(worker);
  }
}

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), state_(new State) {
  state_->workers.reserve(static_cast<size_t>(threads_ - 1));
  for (int i = 1; i < threads_; ++i) {
    State* state = state_;
    // A host that refuses more threads gets a smaller pool, not a crash.
    try {
      state_->workers.emplace_back([state, i] { state->serve(i); });
    } catch (const std::system_error&) {
      threads_ = i;
      break;
    }
  }
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop.store(true, std::memory_order_seq_cst);
    state_->wake.notify_all();
  }
  for (std::thread& worker : state_->workers) worker.join();
  delete state_;
}

void Pool::run_erased(int64_t chunks, Body body, void* context) {
  if (chunks <= 0) return;
  const bool nested = t_pool == state_;
  const int worker = nested ? t_worker : 0;
  const Inside inside(state_, worker);
  const bool parallel = threads_ > 1 && chunks > 1 && chunks <= kMaxChunks && !nested && state_->running.try_lock();
  if (!parallel) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk, worker);
    return;
  }
  State& s = *state_;
  s.body = body;
  s.context = context;
  s.chunks = chunks;
  s.done.store(0, std::memory_order_relaxed);
  const uint64_t generation = (s.word.load(std::memory_order_relaxed) >> 32) + 1;
  s.word.store(generation << 32 | static_cast<uint64_t>(chunks), std::memory_order_seq_cst);
  if (s.sleepers.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(s.mutex);
    s.wake.notify_all();
  }
  s.drain(0);
  const auto all_done = [&s, chunks] { return s.done.load(std::memory_order_seq_cst) == chunks; };
  if (!spin_until(all_done)) {
    std::unique_lock<std::mutex> lock(s.mutex);
    s.caller_sleeps.store(true, std::memory_order_seq_cst);
    s.finished.wait(lock, all_done);
    s.caller_sleeps.store(false, std::memory_order_seq_cst);
  }
  s.running.unlock();
}

}  // namespace lathe::cpu
