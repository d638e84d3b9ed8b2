/*
 * A fork-join pool whose threads claim chunks from one atomic word.
 *
 * The idea: on a shared host a core can be taken away in the middle of a step, so nothing is split
 * statically. The caller and the workers claim chunk after chunk; whoever is slow simply claims fewer.
 * Idle threads spin for about 50 us, because the next op is usually that close, and then sleep.
 *
 * Invariants
 *  - One word holds (generation, chunks left). A claim is a compare-and-swap on it, so a worker that
 *    wakes up late can never claim from a job that has ended: the job's fields are only read after a
 *    successful claim, and run() does not return before every claimed chunk is done.
 *  - run() never allocates and never throws. A nested run, or one while another thread is inside run(),
 *    executes inline on its own thread.
 *  - Worker 0 is the caller. Inside a nested run the worker index is that of the thread.
 */
#pragma once

#include <cstdint>
#include <type_traits>

namespace lathe::cpu {

class Pool {
 public:
  /* `threads` counts the caller: threads - 1 are started. Values below 1 mean 1. */
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  /* Calls fn(chunk, worker) once for every chunk in [0, chunks), in no promised order. */
  template <class F>
  void run(int64_t chunks, F&& fn) {
    using Fn = std::remove_reference_t<F>;
    run_erased(
        chunks, [](void* context, int64_t chunk, int worker) { (*static_cast<Fn*>(context))(chunk, worker); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using Body = void (*)(void* context, int64_t chunk, int worker);
  struct State;

  void run_erased(int64_t chunks, Body body, void* context);

  int threads_;
  State* state_;
};

}  // namespace lathe::cpu
