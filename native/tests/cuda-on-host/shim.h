// The CUDA programming model on the host, for correctness: g++ compiles native/cuda/*.cu with this header included first.
//
// The idea: a block's threads are fibers. A thread runs until it meets the others (a barrier, a shuffle, an mma) and
// then parks; the scheduler resumes everybody once all have come. Warps, and lanes within a warp, run in an order that
// is shuffled by LATHE_SHIM_SEED, so that code which is right only in thread order fails.
//
// What it finds
// - a missing or divergent barrier: wrong values under shuffled orders, a race report, or a deadlock report
// - a read of shared memory that nobody wrote: it is filled with 0xff bytes (NaN) before every block
// - a missing cp.async wait: the copy is deferred to the wait, the target holds 0xff bytes until then
// - races: when the kernels are compiled with -fsanitize=thread, its hooks (shim.cpp has its own) record the last writer
//   and readers of every byte of shared and device memory, with block and barrier epoch
// - indices out of bounds: every allocation is its own heap block, for the address sanitizer
// Its limits: no reordering of a weak memory model, no timing, no register limits.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <utility>

#define LATHE_CUDA_ON_HOST 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace shim {

// The running thread's coordinates; valid inside a kernel.
struct Current {
  dim3 thread, block, block_dim, grid_dim;
  int linear = 0;  // thread within its block
};
extern Current current;

// ---- launches

struct Launch {
  dim3 grid;
  unsigned threads = 0;
  size_t shared_bytes = 0;
  void (*invoke)(void*) = nullptr;
  void* job = nullptr;
  const char* name = "";
};
// False with `problem()` set when the kernel did something it must not.
bool run(const Launch& launch);
const std::string& problem();
void clear_problem();
void report(const std::string& what);

// Recording (CUDA graphs): work is kept instead of done.
bool recording();
void record(std::function<void()> work);
// Recorded work whose kernels did something they must not leaves `problem()` set. LATHE_SHIM_FAIL=n makes the n-th launch
// of the process fail as a device does: silently, until somebody waits; nothing runs after it.
bool failed();

template <class... P, class... A>
bool launch(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared_bytes, A&&... args) {
  if (recording()) {
    record([=] { (void)launch(kernel, grid, threads, shared_bytes, args...); });
    return true;
  }
  std::tuple<void (*)(P...), std::tuple<P...>> job(kernel, std::tuple<P...>(std::forward<A>(args)...));
  Launch l;
  l.grid = grid, l.threads = threads, l.shared_bytes = shared_bytes;
  l.job = &job;
  l.invoke = [](void* raw) {
    auto& j = *static_cast<decltype(job)*>(raw);
    std::apply(std::get<0>(j), std::get<1>(j));
  };
  return run(l);
}

// ---- meeting points; `site` tells one from another

void block_barrier(const void* site);
void warp_barrier(bool orders_memory);
// Deposits this lane's bytes and waits for the warp; slot(lane) is then valid until the next but one meeting.
void deposit(const void* data, size_t bytes);
const void* slot(int lane);
unsigned block_or(unsigned value, const void* site);
inline int lane() { return current.linear & 31; }

// ---- memory

unsigned char* dynamic_shared();
int new_shared_slot();
void* static_shared(int slot, size_t bytes);
void async_copy(void* shared, const void* global, int bytes, int valid_bytes);
void async_commit();
void async_wait(int newest_allowed);

void* allocate(size_t bytes);  // device memory, zeroed
void release(void* data);

}  // namespace shim

#define threadIdx (::shim::current.thread)
#define blockIdx (::shim::current.block)
#define blockDim (::shim::current.block_dim)
#define gridDim (::shim::current.grid_dim)
