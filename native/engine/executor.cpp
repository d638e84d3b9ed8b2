// The engine thread's loop.
#include "engine/executor.h"

#include <pthread.h>

#include <system_error>
#include <thread>
#include <utility>

namespace lathe {

Status Executor::start(Task epilogue, std::shared_ptr<Executor>* out) {
  std::shared_ptr<Executor> executor(new Executor);
  executor->epilogue_ = std::move(epilogue);
  try {
    std::thread([executor] { executor->serve(); }).detach();
  } catch (const std::system_error& error) {
    return device_error(std::string("the engine's thread cannot be started: ") + error.what());
  }
  *out = std::move(executor);
  return ok_status();
}

bool Executor::submit(Task task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closing_) return false;
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
  return true;
}

void Executor::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
}

void Executor::serve() {
#ifdef __linux__
  pthread_setname_np(pthread_self(), "lathe-engine");
#endif
  for (;;) {
    Task task;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) break;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
  if (epilogue_) std::exchange(epilogue_, nullptr)();
}

}  // namespace lathe
