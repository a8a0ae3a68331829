// One range of equal blocks of work, split among threads that are made for it: for arrays in memory, where the
// streaming engine is not wanted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace fastconv {

// Calls work(first, count) on parts of [0, n), in up to `threads` threads. work must not throw.
template <class Work>
void split(int64_t n, int threads, const Work& work) {
  constexpr int64_t kLeast = 256;  // fewer blocks than this are not worth a thread
  const int64_t n_parts = std::clamp<int64_t>(n / kLeast, 1, std::max(threads, 1));
  std::vector<std::thread> others;
  for (int64_t part = 1; part < n_parts; ++part)
    others.emplace_back([=, &work] { work(n * part / n_parts, n * (part + 1) / n_parts - n * part / n_parts); });
  work(0, n / n_parts);
  for (std::thread& other : others) other.join();
}

}  // namespace fastconv
