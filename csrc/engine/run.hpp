// A conversion under way: threads that take chunks in the order in which they lie in the input.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/chunk_ledger.hpp"
#include "engine/converter.hpp"
#include "engine/input_files.hpp"
#include "engine/job.hpp"
#include "engine/page_keeper.hpp"
#include "engine/thread_team.hpp"
#include "engine/writer.hpp"
#include "io/fault_guard.hpp"
#include "io/output_file.hpp"

namespace fastconv {

struct RunOptions {
  int n_threads = 1;
  NonFinite nonfinite = NonFinite::error;
  int64_t tile_bytes = 0;  // 0: the default
  int64_t max_memory = 0;  // bytes of scratch, which is kept if it can be; 0: no bound
  bool direct = true;      // write past the page cache where the file system can
  const KernelTable* kernels = nullptr;
  bool keeps_ledger = false;            // tell of finished chunks
  std::vector<FinishedChunk> finished;  // by an earlier run with the same jobs into the same files
};

class Run {
 public:
  // Starts at once; the destructor cancels what is not done. descriptors: output files, open for writing. Throws
  // std::invalid_argument, std::system_error, std::bad_alloc.
  Run(std::vector<Job> jobs, const std::vector<int>& descriptors, const RunOptions& options);

  // True once every byte is written, false after `seconds`. Throws what stopped the run: NonFiniteValue, InputChanged,
  // std::system_error; std::runtime_error after a cancel.
  bool wait(double seconds);

  // Stops within a tile and joins the threads.
  void cancel();

  // Stored bytes of the jobs' sources, deltas aside, that were consumed.
  int64_t bytes_done() const { return bytes_done_.load(std::memory_order_relaxed); }

  // Chunks in all, and those found finished.
  int64_t n_chunks() const { return static_cast<int64_t>(chunks_.size()); }
  int64_t n_chunks_found() const { return n_chunks_found_.load(std::memory_order_relaxed); }

  // Chunks all of whose bytes went to the files since the last call; they are on the disk after a sync that begins now.
  // At any time, after a cancel and an error too.
  std::vector<FinishedChunk> take_finished();

  // Per job: blocks that were repacked with their scales rounded, summed over its outputs.
  std::vector<int64_t> rounded_blocks() const;

  // Per job, empty without deltas. Call once wait() returned true.
  std::vector<std::optional<DeltaStats>> delta_stats() const;

 private:
  void work();
  void run_chunk(size_t chunk, Converter& converter);
  // Whether it was done already; then takes over what was found out about it.
  bool was_done(size_t chunk);

  const FaultGuard guard_;
  const std::vector<Job> jobs_;
  InputFiles inputs_;
  const RunOptions options_;
  std::vector<OutputFile> files_;
  std::vector<std::unique_ptr<PreparedJob>> prepared_;
  std::vector<Chunk> chunks_;
  std::unique_ptr<ChunkLedger> ledger_;
  std::unique_ptr<PageKeeper> pages_;
  std::unique_ptr<Writer> writer_;

  std::atomic<int64_t> bytes_done_{0}, n_chunks_found_{0};
  std::mutex starting_;  // held until all threads have started
  ThreadTeam team_;      // the last: it ends before what it works with
};

}  // namespace fastconv
