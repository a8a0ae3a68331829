// Pages of a mapped file can be gone when they are touched: the file shrank, or the disk does not give them. The system
// then raises SIGBUS. While a FaultGuard lives, such a page reads as zeros instead and its range is marked as lost.
// It must not know what is mapped, nor what becomes of a loss.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastconv {

// A mapping that faults are looked up in. Make it after mmap, end it before munmap.
class GuardedRange {
 public:
  GuardedRange(void* data, size_t size);
  ~GuardedRange();
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;

  // Whether a page was missing. Then what was read after that, from any page, may be zeros.
  bool lost() const { return lost_.load(std::memory_order_acquire); }

 private:
  friend struct GuardedRanges;
  uintptr_t begin_, end_;  // end_: of the last page
  std::atomic<bool> lost_{false};
  std::atomic<GuardedRange*> next_{nullptr};
};

// Handles SIGBUS as long as it, or any other of its kind, lives. What is not of a guarded range goes to the handler
// that was there before.
class FaultGuard {
 public:
  FaultGuard();
  ~FaultGuard();
  FaultGuard(const FaultGuard&) = delete;
  FaultGuard& operator=(const FaultGuard&) = delete;
};

}  // namespace fastconv
