// A team of threads that take numbered work from the first to the last, and what became of it: done, failed, cancelled.
// It must not know what the work is.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fastconv {

class ThreadTeam {
 public:
  ThreadTeam() = default;
  // Cancels what is not done.
  ~ThreadTeam() { cancel(); }
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  // Starts n_threads, or as many as can be had, that call body(). Call once. Throws std::bad_alloc.
  void start(size_t n_items, size_t n_threads, const std::function<void()>& body);

  // For body(): calls work(item) for every item that no other thread takes, in order, until one fails or all is
  // cancelled; if not, at_end() when none is left.
  void share(const std::function<void(size_t item)>& work, const std::function<void()>& at_end = nullptr);

  // True once every thread has ended, false after `seconds`. Throws what failed; std::runtime_error after a cancel.
  bool wait(double seconds);

  // Joins the threads. Work under way is to end soon once cancelled().
  void cancel();
  const std::atomic<bool>& cancelled() const { return cancelled_; }

 private:
  void fail(size_t item, std::exception_ptr error);

  size_t n_items_ = 0;
  std::atomic<size_t> next_item_{0};
  std::atomic<bool> stopped_{false}, cancelled_{false};

  std::mutex mutex_;
  std::condition_variable ended_;
  size_t n_working_ = 0;
  // Of several errors the one of the earliest item, so that the message does not depend on timing: items begin in
  // order, and those begun before the failing one run to their end.
  size_t failed_item_ = 0;
  std::exception_ptr error_;
  std::vector<std::thread> threads_;
};

}  // namespace fastconv
