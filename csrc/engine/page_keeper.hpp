// Keeps the mapped input's pages at hand and no longer: reads ahead of the run when the cache is cold, gives a chunk's
// pages back when it is done. It must not know what is done with them.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/chunk.hpp"
#include "engine/chunk_ledger.hpp"
#include "engine/prepared_job.hpp"

namespace fastconv {

class PageKeeper {
 public:
  // All must outlive this. chunks: in the order in which they will begin. ledger: chunks that it claims may need no
  // reading; nullptr: none.
  PageKeeper(const std::vector<std::unique_ptr<PreparedJob>>& jobs, const std::vector<Chunk>& chunks,
             const ChunkLedger* ledger = nullptr);

  // Call before and after the work on a chunk. begin() throws InputChanged.
  void begin(size_t chunk);
  void finish(size_t chunk);

 private:
  std::vector<FileRange> ranges(size_t chunk) const;
  void look_ahead(size_t chunk);
  // The pages of chunks [begin, end).
  void release(size_t begin, size_t end) const;

  const std::vector<std::unique_ptr<PreparedJob>>& jobs_;
  const std::vector<Chunk>& chunks_;
  const ChunkLedger* const ledger_;

  std::mutex ahead_mutex_;
  size_t ahead_ = 0;  // chunks whose pages are cached or asked for

  // Chunks end out of order and neighbours share pages, so a chunk that gives its pages back may see the edges mapped
  // again by its neighbours. Once all chunks before one are done too, it gives them back for good. The last ones are
  // left to the end of the mapping.
  std::mutex done_mutex_;
  std::vector<bool> done_;
  size_t all_done_ = 0, released_ = 0;
};

}  // namespace fastconv
