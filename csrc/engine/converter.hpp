// One thread's way of turning a chunk into output bytes: decode, merge, check, encode, write.
// It must not know of other threads or of what comes next.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "core/xxhash64.hpp"
#include "engine/prefetcher.hpp"
#include "engine/prepared_job.hpp"
#include "engine/tile_encoder.hpp"
#include "engine/writer.hpp"

namespace fastconv {

// A value that an output type cannot hold, by its place in the job's matrix.
struct NonFiniteValue : std::exception {
  NonFiniteValue(size_t job, int64_t row, int64_t col, float value, Type type)
      : job(job), row(row), col(col), value(value), type(type) {}
  const char* what() const noexcept override { return "a value that the output type cannot hold"; }

  size_t job;
  int64_t row, col;
  float value;
  Type type;
};

class Converter {
 public:
  // sums: convert() tells checksums.
  Converter(Writer& writer, NonFinite policy, const KernelTable& kernels, bool sums)
      : writer_(writer), policy_(policy), kernels_(kernels), sums_(sums), encoder_(kernels) {}

  // checksum: as in FinishedChunk, 0 unless asked for.
  struct Converted {
    uint64_t checksum;
    int64_t rounded_blocks;
  };
  // Stops between two tiles once `cancelled`. Throws NonFiniteValue, std::system_error.
  Converted convert(const PreparedJob& job, const Tile& chunk, const std::atomic<bool>& cancelled);

 private:
  // Whether every element of a tile fits all outputs, or need not. If not, the tile is in rows_.
  enum class Fits { yes, no, unknown };

  // What is unknown becomes known in encode() at the latest.
  Fits look_at(const PreparedJob& job, const Tile& tile);
  Fits read(const PreparedJob& job, const Tile& tile);
  bool holds(const float* x, int64_t n, double max_abs) const;
  [[noreturn]] void report(const PreparedJob& job, const Tile& tile) const;
  void encode(const PreparedJob& job, const Tile& tile, size_t output, Fits& fits);
  void carry_over(const PreparedJob& job, const Tile& tile, size_t output, Fits& fits);
  void encode_clamped(const PreparedJob& job, const Tile& tile, Type type, std::byte* dst);
  void clamp(const float* src, float* dst, int64_t n, double max_abs) const;
  void map_ahead(const PreparedJob& job, const Tile& chunk, const Tile& tile) const;
  void prefetch_after(const PreparedJob& job, const Tile& chunk, const Tile& tile);
  void flush_if_full(size_t output);
  void put(size_t output, std::unique_ptr<WriteBuffer> next);

  Writer& writer_;
  const NonFinite policy_;
  const KernelTable& kernels_;
  const bool sums_;
  std::vector<float> rows_, clamped_;
  std::vector<std::unique_ptr<WriteBuffer>> pending_;  // per output
  std::vector<Xxh64> checksums_;                       // per output, of what was put
  int64_t rounded_blocks_ = 0;
  Merger::Scratch scratch_;
  TileEncoder encoder_;
  Prefetcher prefetcher_;
  std::vector<MemoryRange> ranges_;
};

}  // namespace fastconv
