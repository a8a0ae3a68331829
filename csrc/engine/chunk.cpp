#include "engine/chunk.hpp"

#include <algorithm>

namespace fastconv {
namespace {

// Stored bytes that a thread takes on at a time, their pages given back together.
constexpr int64_t kWindowBytes = 4 << 20;
// A tile of a transposed tensor touches all its pages, so there should be few such tiles.
constexpr int64_t kColumnarTileBytes = 4 << 20;

int64_t largest_block() {
  int64_t largest = 1;
  for (size_t i = 0; i < kTypeCount; ++i)
    largest = std::max<int64_t>(largest, type_info(static_cast<Type>(i)).block_size);
  return largest;
}

}  // namespace

Division divide(const SourceReader& reader, bool whole_rows, int64_t tile_bytes) {
  static const int64_t kBlock = largest_block();
  const int64_t n_rows = std::max<int64_t>(reader.n_rows(), 1), n_cols = std::max<int64_t>(reader.n_cols(), 1);
  if (reader.columnar()) tile_bytes = std::max(tile_bytes, kColumnarTileBytes);
  const int64_t tile_elements = tile_bytes / static_cast<int64_t>(sizeof(float));

  Division division;
  if (n_cols <= tile_elements || whole_rows) {
    const int64_t n = tile_elements / n_cols, together = n > kRowsTogether ? n - n % kRowsTogether : n;
    division.tile = {std::clamp<int64_t>(together, 1, n_rows), n_cols};
  } else {
    division.tile = {1, std::max(tile_elements / kBlock * kBlock, kBlock)};
  }

  const int64_t chunk_rows = std::clamp<int64_t>(kWindowBytes / reader.row_bytes(), 1, n_rows);
  if (reader.columnar() || (division.tile.n_cols == n_cols && chunk_rows <= division.tile.n_rows))
    division.chunk = division.tile;
  else if (division.tile.n_cols == n_cols)
    division.chunk = {chunk_rows - chunk_rows % division.tile.n_rows, n_cols};
  else if (chunk_rows > 1 || reader.row_bytes() <= kWindowBytes)
    division.chunk = {chunk_rows, n_cols};
  else {
    const int64_t cols = static_cast<int64_t>(static_cast<double>(n_cols) * kWindowBytes / reader.row_bytes());
    division.chunk = {1, std::max(cols / division.tile.n_cols, int64_t{1}) * division.tile.n_cols};
  }
  return division;
}

void append_chunks(size_t job, const SourceReader& reader, const TileShape& shape, std::vector<Chunk>& chunks) {
  for_each_tile(reader.whole(), shape, [&](const Tile& span) {
    chunks.push_back({job, span});
    return true;
  });
}

}  // namespace fastconv
