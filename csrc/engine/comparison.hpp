// A comparison under way: threads that take chunks of a file's tensors, in the order given, and hold each against what
// the same job would write.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "engine/comparer.hpp"
#include "engine/input_files.hpp"
#include "engine/page_keeper.hpp"
#include "engine/thread_team.hpp"
#include "io/fault_guard.hpp"

namespace fastconv {

// A job with one output, and the tensor of a file that is to be that output. Without `stored` the job's source is the
// file's own tensor, which is only looked through. Where the file's type cannot be encoded the output is f32.
struct Comparand {
  Job job;
  std::optional<Source> stored;
};

class Comparison {
 public:
  // Starts at once; the destructor cancels what is not done. Throws std::bad_alloc, std::invalid_argument; the latter
  // also for a tensor of a file whose rows do not lie one after the other.
  Comparison(std::vector<Comparand> tensors, int n_threads, const KernelTable& kernels);

  // True once all is compared, false after `seconds`. Throws InputChanged; std::runtime_error after a cancel.
  bool wait(double seconds);
  // Stops within a tile and joins the threads.
  void cancel() { team_.cancel(); }
  // Stored bytes of the jobs' sources that were consumed.
  int64_t bytes_done() const { return bytes_done_.load(std::memory_order_relaxed); }
  // Per tensor, summed in the order of its chunks. Call once wait() returned true.
  std::vector<ComparisonStats> stats() const;

 private:
  void compare_chunk(size_t chunk, Comparer& comparer);
  std::optional<FileRange> stored_range(const Chunk& chunk) const;

  const FaultGuard guard_;
  const KernelTable& kernels_;
  const std::vector<Comparand> tensors_;
  InputFiles inputs_;
  std::vector<std::unique_ptr<PreparedJob>> prepared_;
  std::vector<std::unique_ptr<SourceReader>> stored_;
  std::vector<ComparedTensor> compared_;
  std::vector<Chunk> chunks_;
  std::vector<ComparisonStats> found_;  // per chunk
  std::unique_ptr<PageKeeper> pages_;

  std::atomic<int64_t> bytes_done_{0};
  ThreadTeam team_;  // the last: it ends before what it works with
};

}  // namespace fastconv
