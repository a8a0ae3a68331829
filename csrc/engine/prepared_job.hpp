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

// How the elements of an output come about: carried over, or else encoded from what is decoded and merged.
struct Encoding {
  bool copies;      // already stored in its type, so the bytes go over as they are
  RecodeFn recode;  // what turns the stored elements into its own without decoding them, or nullptr
  bool weighs;      // its encoder heeds the importance
  bool carries_over() const { return copies || recode != nullptr; }
};

struct PreparedJob {
  // job must outlive this. tile_bytes 0: the default. Throws std::invalid_argument.
  PreparedJob(const Job& job, size_t index, size_t n_files, int64_t tile_bytes, const KernelTable& kernels);

  // Where an element of `source` stands in an output, in bytes from the file's start.
  int64_t offset_of(const Output& output, int64_t row, int64_t col) const {
    return output.offset + row_bytes(output.type, row * source.n_cols() + col);
  }

  // The tile as an output has it, one that carries over, to dst. A copy tells of no largest element.
  Recoded carry_over(const Tile& tile, size_t output, std::byte* dst) const {
    const RecodeFn recode = encodings[output].recode;
    if (recode != nullptr) return source.recode(tile, recode, job.outputs[output].type, dst);
    source.copy(tile, dst);
    return {0, 0};
  }

  ScratchBytes scratch_bytes() const;

  const Job& job;
  size_t index;                                  // among the run's jobs
  SourceReader source;                           // may be folded to one row: places are told by n_cols of the job
  std::unique_ptr<Merger> merger;                // nullptr without deltas
  std::unique_ptr<ImportanceReader> importance;  // nullptr where it changes nothing
  Division division;
  std::vector<Encoding> encodings;  // per output
  bool needs_rows;                  // some output does not carry over
  bool decodes;                     // the source's type has values to look at; if not, every output is a copy
  int64_t element_bytes;            // stored, rounded up
  double max_abs;                   // the least of the outputs'
  std::atomic<int64_t> rounded_blocks{0};
  std::atomic<int64_t> chunks_left{0};
  std::optional<DeltaStats> stats;
};

}  // namespace fastconv
