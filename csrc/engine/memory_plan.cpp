#include "engine/memory_plan.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "engine/writer.hpp"
#include "io/output_file.hpp"

namespace fastconv {
namespace {

// Long writes keep the disk busy, and what a thread takes on at a time makes one; many threads share the room.
constexpr int64_t kBufferBytes = 5 << 18, kLeastBufferBytes = 64 << 10, kAllBuffersBytes = 32 << 20;
// Writes to the disk under way at a time: enough for the queue of a fast one.
constexpr size_t kWriters = 4;
// Buffers in the queue of each: they ride out a disk that halts for a moment.
constexpr size_t kQueued = 3;
// A thread's stack, and what is small.
constexpr int64_t kThreadBytes = 128 << 10;

struct Needs {
  int64_t thread_bytes = kThreadBytes;
  int64_t piece_bytes = kLeastBufferBytes;
  size_t n_outputs = 1;
  std::vector<int64_t> shared;  // by threads at one job, largest first
};

Needs needs_of(const std::vector<std::unique_ptr<PreparedJob>>& jobs) {
  Needs needs;
  for (const auto& job : jobs) {
    const ScratchBytes scratch = job->scratch_bytes();
    needs.thread_bytes = std::max(needs.thread_bytes, kThreadBytes + scratch.of_thread);
    needs.piece_bytes = std::max(needs.piece_bytes, scratch.piece);
    needs.n_outputs = std::max(needs.n_outputs, job->job.outputs.size());
    if (scratch.shared > 0) needs.shared.push_back(scratch.shared);
  }
  std::sort(needs.shared.begin(), needs.shared.end(), std::greater<>());
  return needs;
}

MemoryPlan plan(const Needs& needs, size_t n_threads, size_t n_writers, int64_t room) {
  // A thread that puts a buffer has taken the next one.
  const size_t n_buffers = n_threads * (needs.n_outputs + 1) + kQueued * n_writers;
  const int64_t n = static_cast<int64_t>(n_buffers);
  // As many jobs are under way as threads, at most.
  const auto last = needs.shared.begin() + static_cast<int64_t>(std::min(n_threads, needs.shared.size()));
  const int64_t others = static_cast<int64_t>(n_threads) * needs.thread_bytes +
                         static_cast<int64_t>(n_writers) * kThreadBytes +
                         std::accumulate(needs.shared.begin(), last, int64_t{0});
  const int64_t beside = needs.piece_bytes + OutputFile::page_bytes();
  int64_t full = kAllBuffersBytes / n;
  if (room > 0) full = std::min(full, (room - others) / n - beside);
  full = std::clamp(full, kLeastBufferBytes, kBufferBytes);
  return {n_threads, n_writers, n_buffers, full, needs.piece_bytes, others + n * (full + beside)};
}

}  // namespace

MemoryPlan plan_memory(const std::vector<std::unique_ptr<PreparedJob>>& jobs, size_t n_threads, bool direct,
                       int64_t max_bytes) {
  const Needs needs = needs_of(jobs);
  const size_t n_writers = direct ? kWriters : 0;
  MemoryPlan best = plan(needs, n_threads, n_writers, max_bytes);
  while (max_bytes > 0 && best.bytes > max_bytes && (best.n_threads > 1 || best.n_writers > 1)) {
    if (best.n_writers > 1)
      best = plan(needs, best.n_threads, best.n_writers - 1, max_bytes);
    else
      best = plan(needs, best.n_threads - 1, n_writers, max_bytes);
  }
  return best;
}

int64_t least_memory(const std::vector<Job>& jobs, size_t n_files, const KernelTable& kernels) {
  std::vector<std::unique_ptr<PreparedJob>> prepared;
  for (size_t i = 0; i < jobs.size(); ++i)
    prepared.push_back(std::make_unique<PreparedJob>(jobs[i], i, n_files, 0, kernels));
  return plan_memory(prepared, 1, true, 1).bytes;
}

}  // namespace fastconv
