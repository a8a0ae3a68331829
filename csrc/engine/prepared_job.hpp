// A job made ready to run: validated, its readers built, its division and its ways of writing settled.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "engine/chunk.hpp"
#include "engine/importance_reader.hpp"
#include "engine/job.hpp"
#include "engine/merger.hpp"
#include "engine/source_reader.hpp"

namespace fastconv {

// What a job takes in memory while it is at work, at most.
struct ScratchBytes {
  int64_t of_thread;  // of each thread
  int64_t shared;     // by all of them
  int64_t piece;      // added to an output at a time
};

struct PreparedJob {
  // job must outlive this. tile_bytes 0: the default. Throws std::invalid_argument.
  PreparedJob(const Job& job, size_t index, size_t n_files, int64_t tile_bytes, const KernelTable& kernels);

  // Where an element of `source` stands in an output, in bytes from the file's start.
  int64_t offset_of(const Output& output, int64_t row, int64_t col) const {
    return output.offset + row_bytes(output.type, row * source.n_cols() + col);
  }

  ScratchBytes scratch_bytes() const;

  const Job& job;
  size_t index;                                  // among the run's jobs
  SourceReader source;                           // may be folded to one row: places are told by n_cols of the job
  std::unique_ptr<Merger> merger;                // nullptr without deltas
  std::unique_ptr<ImportanceReader> importance;  // nullptr where it changes nothing
  Division division;
  // Per output: already stored in its type, so the bytes go over as they are.
  std::vector<bool> copies;
  // Per output: what turns the stored elements into its own without decoding them, or nullptr.
  std::vector<RecodeFn> recodes;
  bool needs_rows;        // some output is encoded from what is decoded and merged
  bool decodes;           // the source's type has values to look at; if not, every output is a copy
  int64_t element_bytes;  // stored, rounded up
  double max_abs;         // the least of the outputs'
  std::atomic<int64_t> rounded_blocks{0};
  std::atomic<int64_t> chunks_left{0};
  std::optional<DeltaStats> stats;
};

}  // namespace fastconv
