// Keeps the mapped input's pages at hand and no longer: reads ahead of the run when the cache is cold, enters a chunk's
// pages together, gives them back once everything up to them is done. It must not know what is done with them.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "engine/chunk.hpp"
#include "engine/prepared_job.hpp"

namespace fastconv {

// An input file is no longer what it was when it was mapped.
struct InputChanged : std::runtime_error {
  explicit InputChanged(const MappedFile::Identity& identity)
      : std::runtime_error("an input file changed"), device(identity.device), inode(identity.inode) {}
  uint64_t device, inode;
};

class PageKeeper {
 public:
  // Both must outlive this. chunks: in the order in which they will begin.
  PageKeeper(const std::vector<std::unique_ptr<PreparedJob>>& jobs, const std::vector<Chunk>& chunks);

  // Call before and after the work on a chunk. begin() throws InputChanged.
  void begin(size_t chunk);
  void finish(size_t chunk);

 private:
  std::vector<FileRange> ranges(size_t chunk) const;
  void look_ahead(size_t chunk);

  const std::vector<std::unique_ptr<PreparedJob>>& jobs_;
  const std::vector<Chunk>& chunks_;

  std::mutex ahead_mutex_;
  size_t ahead_ = 0;  // chunks whose pages are cached or asked for

  // Chunks end out of order, and neighbours share pages. So pages are given back up to the first chunk not yet done.
  std::mutex done_mutex_;
  std::vector<bool> done_;
  size_t all_done_ = 0;
};

}  // namespace fastconv
