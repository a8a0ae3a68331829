// The division of jobs into chunks, what a thread takes on at a time, and of chunks into tiles, what fits its cache.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/source_reader.hpp"

namespace fastconv {

struct Chunk {
  size_t job;
  Tile span;
};

struct TileShape {
  int64_t n_rows, n_cols;  // n_rows is 1 where n_cols is less than a whole row
};

// What is merged is merged by so many rows at a time; one that is left over takes nearly as long.
constexpr int64_t kRowsTogether = 4;

// How a matrix is divided: into whole rows or parts of one row, so that the elements of a part follow one another in
// the output. tile_bytes: of the decoded f32 tile; parts of rows are multiples of the largest block, unless whole_rows
// forbids to part them.
struct Division {
  TileShape chunk, tile;
};
Division divide(const SourceReader& reader, bool whole_rows, int64_t tile_bytes);

// The chunks of a matrix, in row order, then column order.
void append_chunks(size_t job, const SourceReader& reader, const TileShape& shape, std::vector<Chunk>& chunks);

// Calls visit(tile) for the tiles of a span in the same order, until it returns false.
template <typename Visit>
void for_each_tile(const Tile& span, const TileShape& shape, Visit visit) {
  for (int64_t r = span.r0; r < span.r1; r += shape.n_rows)
    for (int64_t c = span.c0; c < span.c1; c += shape.n_cols)
      if (!visit(Tile{r, std::min(r + shape.n_rows, span.r1), c, std::min(c + shape.n_cols, span.c1)})) return;
}

// The tile after `tile`, empty after the last.
inline Tile next_tile(const Tile& span, const TileShape& shape, const Tile& tile) {
  if (tile.c1 < span.c1) return {tile.r0, tile.r1, tile.c1, std::min(tile.c1 + shape.n_cols, span.c1)};
  return {tile.r1, std::min(tile.r1 + shape.n_rows, span.r1), span.c0, std::min(span.c0 + shape.n_cols, span.c1)};
}

}  // namespace fastconv
