// The least that any converter must do: touch the whole input through mmap and write as many bytes as the output has.
// usage: floor THREADS INPUT OUTPUT OUTPUT_BYTES SYNC(0|1). Threads share input and output by stretches of 1 MiB.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const int n_threads = std::atoi(argv[1]);
  const int input = open(argv[2], O_RDONLY);
  const int output = open(argv[3], O_RDWR | O_CREAT | O_TRUNC, 0644);
  const int64_t output_bytes = std::atoll(argv[4]);
  struct stat status;
  if (input < 0 || output < 0 || fstat(input, &status) != 0) return 1;
  const int64_t input_bytes = status.st_size;
  const auto* data = static_cast<const uint8_t*>(mmap(nullptr, input_bytes, PROT_READ, MAP_SHARED, input, 0));
  if (data == MAP_FAILED) return 1;

  constexpr int64_t kStretch = 1 << 20;
  constexpr int64_t kCacheLine = 64;
  const int64_t n_stretches = (input_bytes + kStretch - 1) / kStretch;
  std::atomic<int64_t> next{0};
  std::atomic<uint64_t> total{0};
  std::atomic<bool> failed{false};
  const auto work = [&] {
    std::vector<uint8_t> written(kStretch, 0x5a);
    uint64_t sum = 0;
    for (int64_t i = next++; i < n_stretches; i = next++) {
      const int64_t stop = std::min(input_bytes, (i + 1) * kStretch);
      for (int64_t at = i * kStretch; at < stop; at += kCacheLine) sum += data[at];
      // Stretch i of n owns the same share of the output.
      int64_t at = output_bytes * i / n_stretches;
      const int64_t end = output_bytes * (i + 1) / n_stretches;
      while (at < end) {
        const ssize_t n = pwrite(output, written.data(), std::min(kStretch, end - at), at);
        if (n <= 0) {
          failed = true;
          return;
        }
        at += n;
      }
    }
    total += sum;
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < n_threads; ++i) threads.emplace_back(work);
  for (auto& thread : threads) thread.join();
  if (std::atoi(argv[5]) != 0 && fsync(output) != 0) return 1;
  std::printf("%llu\n", static_cast<unsigned long long>(total));
  return failed ? 1 : 0;
}
