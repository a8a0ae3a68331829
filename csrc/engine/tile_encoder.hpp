// Encodes a tile's decoded elements as one output has them, in a conversion and in a comparison alike. It must not know
// where they come from, nor where the bytes go.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/prepared_job.hpp"

namespace fastconv {

class TileEncoder {
 public:
  explicit TileEncoder(const KernelTable& kernels) : kernels_(kernels) {}

  // In steps of some blocks or rows: room(n) tells where the next n elements go, done() follows once they are there.
  // rows: the tile, merged, within what the type holds. Throws std::invalid_argument for an importance that is none.
  template <typename Room, typename Done>
  void encode(const PreparedJob& job, const Tile& tile, size_t output, const float* rows, Room room, Done done) {
    const TypeKernels& kernels = kernels_.of(job.job.outputs[output].type);
    if (job.encodings[output].weighs) return encode_weighted(job, tile, kernels.encode_weighted, rows, room, done);
    const int64_t n = tile.elements(), step = std::max(kElements, kernels.encode_at_once);
    for (int64_t i = 0; i < n; i += step) {
      const int64_t slice = std::min(step, n - i);
      kernels.encode(rows + i, room(slice), slice);
      done();
    }
  }

 private:
  // Whole rows, those of one matrix at a time.
  template <typename Room, typename Done>
  void encode_weighted(const PreparedJob& job, const Tile& tile, EncodeWeightedFn encode, const float* rows, Room room,
                       Done done) {
    const int64_t n_cols = job.source.n_cols(), most_rows = std::max(kElements / n_cols, kWeightedRows);
    for (int64_t row = tile.r0; row < tile.r1;) {
      const int64_t n_rows = std::min({most_rows, tile.r1 - row, job.importance->rows_left(row)});
      const float* importance = job.importance->read(row, importance_);
      encode(rows + (row - tile.r0) * n_cols, room(n_rows * n_cols), n_rows, n_cols, importance);
      done();
      row += n_rows;
    }
  }

  // Elements encoded at a time, a multiple of every block. Between two such steps as much of the next tile is
  // prefetched: few enough lines to be fetched meanwhile. More only for encoders that gain more from it than waiting
  // for lines costs.
  static constexpr int64_t kElements = 1024;
  // Rows of importance encoded at a time, at least: sums over whole rows advance side by side.
  static constexpr int64_t kWeightedRows = 16;

  const KernelTable& kernels_;
  ImportanceReader::Row importance_;
};

}  // namespace fastconv
