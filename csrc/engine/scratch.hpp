// Working memory of a thread, kept from one tile to the next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastconv {

// Room for n values, in whatever is there already if it suffices.
template <typename T>
T* grown(std::vector<T>& scratch, int64_t n) {
  scratch.resize(std::max(scratch.size(), static_cast<size_t>(n)));
  return scratch.data();
}

}  // namespace fastconv
