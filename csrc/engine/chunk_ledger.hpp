// Which chunks' bytes are in the output files, by their checksums: what a run leaves for one that resumes it, and what
// that one makes of it. It must not know where such records are kept meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/prepared_job.hpp"
#include "io/output_file.hpp"

namespace fastconv {

struct FinishedChunk {
  int64_t chunk;                       // counted in the order of the run
  uint64_t checksum;                   // XXH64 of the XXH64s of its bytes in every output
  double delta_squares, base_squares;  // sums over its rows, 0 without deltas
  int64_t rounded_blocks;
};

class ChunkLedger {
 public:
  // files must outlive this. claimed: of an earlier run with the same jobs; of several of one chunk the last counts,
  // and those of no chunk are dropped.
  ChunkLedger(const std::vector<OutputFile>& files, const std::vector<FinishedChunk>& claimed, size_t n_chunks);

  bool claims(size_t chunk) const { return !claims_.empty() && claims_[chunk] != nullptr; }
  // The claim, if the files hold the bytes that it is of; nullptr otherwise, for what cannot be read as well.
  const FinishedChunk* find(size_t chunk, const PreparedJob& job, const Tile& span) const;

  // A chunk that is done once the writer has written as many buffers as had been put.
  void add(const FinishedChunk& finished, uint64_t buffers_put);
  // Those of which all bytes have been written, each once.
  std::vector<FinishedChunk> take(uint64_t buffers_written);

 private:
  struct Entry {
    FinishedChunk finished;
    uint64_t buffers_put;
  };

  const std::vector<OutputFile>& files_;
  std::vector<FinishedChunk> claimed_;
  std::vector<const FinishedChunk*> claims_;  // by chunk
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace fastconv
