#include "engine/rows.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/input_files.hpp"
#include "engine/scratch.hpp"
#include "engine/source_reader.hpp"
#include "engine/validate.hpp"
#include "io/fault_guard.hpp"

namespace fastconv {
namespace {

// So many that the pages they are on are few: a column of a matrix is on all of its pages.
int64_t rows_at_a_time(const SourceReader& reader, int64_t start, int64_t stop) {
  constexpr int64_t kWindowBytes = 16 << 20;
  if (reader.columnar()) return stop - start;  // gives its pages back as it walks
  int64_t bytes = 1;
  for (const FileRange& range : reader.file_ranges({start, stop, 0, reader.n_cols()})) bytes += range.end - range.begin;
  return std::max<int64_t>((stop - start) / (bytes / kWindowBytes + 1), 1);
}

// Calls take(reader, tile) for rows [start, stop), in order, and gives their pages back.
template <class Take>
void walk_rows(const Source& source, int64_t start, int64_t stop, const KernelTable& kernels, Take take) {
  const FaultGuard guard;
  const SourceReader reader(source, false, kernels);
  const int64_t step = rows_at_a_time(reader, start, stop);
  for (int64_t row = start; row < stop && source.n_cols > 0; row += step) {
    const Tile tile{row, std::min(row + step, stop), 0, source.n_cols};
    take(reader, tile);
    for (const FileRange& range : reader.file_ranges(tile)) range.release();
  }
  InputFiles inputs;
  inputs.add(source);
  inputs.check_lost();
}

}  // namespace

void check_rows(const Source& source, int64_t start, int64_t stop) {
  if (start < 0 || stop < start || stop > source.n_rows)
    throw std::invalid_argument("rows [" + std::to_string(start) + ", " + std::to_string(stop) + ") of " +
                                std::to_string(source.n_rows));
  require_values(source);
}

void read_rows(const Source& source, int64_t start, int64_t stop, float* dst, const KernelTable& kernels) {
  walk_rows(source, start, stop, kernels, [&](const SourceReader& reader, const Tile& tile) {
    reader.read(tile, dst + (tile.r0 - start) * source.n_cols);
  });
}

bool is_zero(const Source& source, int64_t start, int64_t stop, const KernelTable& kernels) {
  bool zero = true;
  std::vector<float> rows;
  walk_rows(source, start, stop, kernels, [&](const SourceReader& reader, const Tile& tile) {
    zero = zero && reader.read_max(tile, grown(rows, tile.elements())) == 0;
  });
  return zero;
}

}  // namespace fastconv
