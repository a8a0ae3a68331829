#include "engine/thread_team.hpp"

#include <chrono>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace fastconv {

void ThreadTeam::start(size_t n_items, size_t n_threads, const std::function<void()>& body) {
  n_items_ = n_items;
  n_working_ = n_threads;
  const auto run = [this, body] {
    body();
    const std::lock_guard lock(mutex_);
    if (--n_working_ == 0) ended_.notify_all();
  };
  try {
    threads_.reserve(n_threads);
    while (threads_.size() < n_threads) threads_.emplace_back(run);
  } catch (const std::system_error&) {
    // A machine that gives no more threads is slower, not out of order.
    if (threads_.empty()) throw std::bad_alloc();
    const std::lock_guard lock(mutex_);
    n_working_ -= n_threads - threads_.size();
  } catch (...) {
    cancelled_ = stopped_ = true;
    throw;
  }
}

void ThreadTeam::share(const std::function<void(size_t item)>& work, const std::function<void()>& at_end) {
  while (!stopped_.load(std::memory_order_relaxed)) {
    const size_t item = next_item_.fetch_add(1, std::memory_order_relaxed);
    if (item >= n_items_) break;
    try {
      work(item);
    } catch (...) {
      fail(item, std::current_exception());
    }
  }
  try {
    if (!stopped_ && at_end) at_end();
  } catch (...) {
    fail(n_items_, std::current_exception());
  }
}

void ThreadTeam::fail(size_t item, std::exception_ptr error) {
  stopped_ = true;
  const std::lock_guard lock(mutex_);
  if (error_ && failed_item_ <= item) return;
  failed_item_ = item;
  error_ = std::move(error);
}

bool ThreadTeam::wait(double seconds) {
  std::unique_lock lock(mutex_);
  const bool ended = ended_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return n_working_ == 0; });
  if (!ended) return false;
  if (error_) std::rethrow_exception(error_);
  if (cancelled_) throw std::runtime_error("the work was cancelled");
  return true;
}

void ThreadTeam::cancel() {
  {
    const std::lock_guard lock(mutex_);
    if (n_working_ > 0) cancelled_ = stopped_ = true;
  }
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

}  // namespace fastconv
