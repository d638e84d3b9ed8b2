// Executor: one engine thread with a submission queue.
//
// Tasks run in submission order. The thread is detached and owns everything it touches through shared pointers in
// its tasks, so nobody ever joins it: not a garbage collector, not an exiting worker, not process exit.
#pragma once
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "lathe/status.h"

namespace lathe {

class Executor {
 public:
  using Task = std::function<void()>;

  // `epilogue` is the last thing the thread does, after the queue has drained.
  static Status start(Task epilogue, std::shared_ptr<Executor>* out);
  // False when the executor is closing; the task is then dropped.
  bool submit(Task task);
  // No further tasks; what is queued still runs.
  void close();

 private:
  Executor() = default;
  void serve();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Task> queue_;
  bool closing_ = false;
  Task epilogue_;
};

}  // namespace lathe
