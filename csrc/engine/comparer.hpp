// One thread's way of holding a chunk of a file against its source: decode, merge and encode as a conversion does, then
// compare bytes and values. It must not know of other threads, nor what is good enough.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/prepared_job.hpp"
#include "engine/tile_encoder.hpp"

namespace fastconv {

// What was found in a part of a tensor. Sums are of squares; x: the merged source, y: the file's values, decoded.
struct ComparisonStats {
  int64_t elements = 0;
  int64_t blocks = 0;            // whose bytes were compared; types without blocks: groups of 32 elements
  int64_t differing_blocks = 0;  // whose bytes are not those that the source encodes to
  int64_t far_blocks = 0;        // of these, whose error is out of proportion to the encoder's own
  int64_t rounded_blocks = 0;    // of these, which are what the source encodes to with its values rounded otherwise
  int64_t base_blocks = 0;       // of these, which are what the source without its deltas encodes to
  int64_t first_differing = -1;  // their first elements
  int64_t first_far = -1;
  int64_t not_finite = 0;  // values of the file that are NaN or infinite
  int64_t first_not_finite = -1;
  int64_t source_not_finite = 0;
  double max_error = 0;
  int64_t max_error_at = -1;
  double source = 0, stored = 0, error = 0;
  double own_error = 0;   // of the source's own encoding
  double base_error = 0;  // of y against the source without its deltas
  double delta = 0;       // of what the deltas add

  // `next` is the part that follows.
  void add(const ComparisonStats& next);
};

// A tensor of a file. stored: nullptr where the file's tensor is the job's source and is only looked through.
struct ComparedTensor {
  const PreparedJob* job;
  const SourceReader* stored;  // folded to one row
  Type type;                   // of stored
  bool encodes;                // the job's output is of that type: bytes can be compared
};

class Comparer {
 public:
  explicit Comparer(const KernelTable& kernels) : kernels_(kernels), encoder_(kernels) {}

  // Stops between two tiles once `cancelled`.
  ComparisonStats compare(const ComparedTensor& tensor, const Tile& chunk, const std::atomic<bool>& cancelled);

 private:
  void read(const PreparedJob& job, const Tile& tile);
  void encode(const PreparedJob& job, const Tile& tile, const float* rows, std::byte* dst);
  void look_through(const Tile& tile, int64_t at, ComparisonStats& found);
  void compare_tile(const ComparedTensor& tensor, const Tile& tile, int64_t at, ComparisonStats& found);
  void compare_blocks(const ComparedTensor& tensor, const Tile& tile, const std::byte* in_file, int64_t at,
                      ComparisonStats& found);
  bool is_rounding(Type type, const float* source, const std::byte* in_file, int64_t n, float largest);
  int64_t drop_not_finite(float* values, int64_t n, int64_t& first) const;

  const KernelTable& kernels_;
  std::vector<float> source_, base_, stored_, own_, difference_, near_;
  std::vector<std::byte> encoded_, base_encoded_, halves_, tried_;
  Merger::Scratch scratch_;
  TileEncoder encoder_;
};

}  // namespace fastconv
