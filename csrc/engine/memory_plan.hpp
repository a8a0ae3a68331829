// How many threads run and how large their buffers are, so that the scratch memory of a run stays within a bound.
// Scratch is what the engine allocates; pages of mapped inputs are the system's to take back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/prepared_job.hpp"

namespace fastconv {

struct MemoryPlan {
  size_t n_threads;     // that convert
  size_t n_writers;     // that wait for the disk, at most; 0: nobody writes but who converts
  size_t n_buffers;     // of the writer
  int64_t full_bytes;   // from which on a buffer is written
  int64_t piece_bytes;  // the most that is added to a buffer at a time
  int64_t bytes;        // at most, all of it
};

// direct: whether outputs are written past the page cache. max_bytes 0: no bound. Where the bound cannot be kept, the
// plan that needs least, which exceeds it.
MemoryPlan plan_memory(const std::vector<std::unique_ptr<PreparedJob>>& jobs, size_t n_threads, bool direct,
                       int64_t max_bytes);

// The least that a run of these jobs gets along with, in bytes. Throws std::invalid_argument.
int64_t least_memory(const std::vector<Job>& jobs, size_t n_files, const KernelTable& kernels);

}  // namespace fastconv
