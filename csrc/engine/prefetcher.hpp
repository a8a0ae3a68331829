// Brings the next tile's stored bytes into the cache while the present tile is being encoded: the processor's own
// prefetching stops at every page's end, and a tile is only a few pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/source_reader.hpp"

namespace fastconv {

class Prefetcher {
 public:
  // From now on advance() walks through these bytes.
  void aim(std::vector<MemoryRange>& ranges) {
    ranges_.swap(ranges);
    next_range_ = 0;
    at_ = 0;
  }

  void advance(int64_t n_bytes) {
    while (n_bytes > 0 && next_range_ < ranges_.size()) {
      const MemoryRange& range = ranges_[next_range_];
      const int64_t end = std::min(range.size, at_ + n_bytes);
      for (int64_t i = at_; i < end; i += kLineBytes) __builtin_prefetch(range.data + i, 0, 2);
      n_bytes -= end - at_;
      at_ = end;
      if (end == range.size) ++next_range_, at_ = 0;
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  std::vector<MemoryRange> ranges_;
  size_t next_range_ = 0;
  int64_t at_ = 0;
};

}  // namespace fastconv
