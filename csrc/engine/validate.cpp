#include "engine/validate.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "io/storage.hpp"

namespace fastconv {
namespace {

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Both for values that are not negative.
int64_t checked_mul(int64_t a, int64_t b) {
  if (a != 0 && b > kMax / a) reject("a piece reaches past 2^63 elements");
  return a * b;
}

int64_t checked_add(int64_t a, int64_t b) {
  if (b > kMax - a) reject("a piece reaches past 2^63 elements");
  return a + b;
}

std::string shape(const Source& source) {
  return std::to_string(source.n_rows) + " x " + std::to_string(source.n_cols);
}

void validate_delta(const Source& base, const Delta& delta) {
  for (const Source* factor : {&delta.b, &delta.a}) {
    validate(*factor);
    require_values(*factor);
  }
  if (delta.b.n_rows != base.n_rows || delta.a.n_cols != base.n_cols || delta.b.n_cols != delta.a.n_rows)
    reject("a delta of B " + shape(delta.b) + " and A " + shape(delta.a) + " does not fit " + shape(base));
  if (delta.magnitude.size() > 1) reject("a delta has more than one magnitude");
  for (const Source& magnitude : delta.magnitude) {
    validate(magnitude);
    require_values(magnitude);
    if (magnitude.n_rows != base.n_rows || magnitude.n_cols != 1)
      reject("a magnitude of " + shape(magnitude) + " does not fit " + shape(base));
  }
}

void validate_importance(const Source& base, const Importance& importance) {
  const Source& sums = importance.sums;
  validate(sums);
  require_values(sums);
  if (sums.n_cols != base.n_cols || sums.n_rows < 1 || base.n_rows % sums.n_rows)
    reject("an importance of " + shape(sums) + " does not fit " + shape(base));
  if (static_cast<int64_t>(importance.counts.size()) != sums.n_rows)
    reject("an importance of " + shape(sums) + " has " + std::to_string(importance.counts.size()) + " counts");
  for (const float count : importance.counts)
    if (!(count >= 0 && count <= std::numeric_limits<float>::max())) reject("an importance has an impossible count");
}

// Whether the bytes may go over as they are.
bool is_stored_as(const Job& job, Type type) {
  const auto& pieces = job.source.pieces;
  return job.deltas.empty() && std::all_of(pieces.begin(), pieces.end(), [type](const Piece& piece) {
           return piece.type == type && (piece.col_stride == 1 || piece.n_cols <= 1);
         });
}

}  // namespace

void validate(const Piece& piece) {
  const TypeInfo& info = type_info(piece.type);
  const std::string type(info.name);
  if (!piece.storage) reject("a piece has no storage");
  for (int64_t value :
       {piece.offset, piece.row_stride, piece.col_stride, piece.row, piece.n_rows, piece.col, piece.n_cols})
    if (value < 0) reject("a piece has a negative offset, stride or extent");
  checked_add(piece.row, piece.n_rows);
  checked_add(piece.col, piece.n_cols);
  if (piece.n_rows == 0 || piece.n_cols == 0) return;

  if (info.block_size > 1) {
    if (piece.col_stride != 1 || piece.n_cols % info.block_size || piece.col % info.block_size ||
        (piece.n_rows > 1 && piece.row_stride % info.block_size))
      reject("a piece does not divide into " + type + " blocks");
  }
  if (is_planar(piece.type) && piece.n_rows > 1 && piece.row_stride != piece.n_cols)
    reject("a piece of " + type + " does not hold whole rows");
  const int64_t last_row = checked_mul(piece.n_rows - 1, piece.row_stride);
  const int64_t end = checked_add(checked_add(last_row, checked_mul(piece.n_cols - 1, piece.col_stride)), 1);
  const int64_t end_bytes = checked_add(piece.offset, checked_mul(end / info.block_size, info.block_bytes));
  if (end_bytes > piece.storage->size())
    reject("a piece ends at byte " + std::to_string(end_bytes) + " of a storage of " +
           std::to_string(piece.storage->size()));
}

void validate(const Source& source) {
  if (source.n_rows < 0 || source.n_cols < 0) reject("a source has a negative extent");
  // Sizes in elements and bytes are computed freely from here on.
  if (checked_mul(checked_mul(source.n_rows, source.n_cols), 8) > kMax / 16) reject("a source is too large");

  int64_t n_stored = 0;
  std::vector<int64_t> edges;
  for (const Piece& piece : source.pieces) {
    validate(piece);
    n_stored = std::max(n_stored, piece.row + piece.n_rows);
    edges.push_back(piece.row);
    edges.push_back(piece.row + piece.n_rows);
  }
  std::vector<const Piece*> pieces;
  for (const Piece& piece : source.pieces)
    if (piece.n_rows > 0 && piece.n_cols > 0) pieces.push_back(&piece);
  std::sort(pieces.begin(), pieces.end(), [](const Piece* x, const Piece* y) { return x->col < y->col; });
  edges.push_back(0);
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  // Between two edges all rows are covered alike.
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    int64_t covered = 0;
    for (const Piece* piece : pieces) {
      if (piece->row > edges[i] || piece->row + piece->n_rows <= edges[i]) continue;
      const bool fits = piece->col == covered && covered <= source.n_cols;
      covered = fits ? covered + piece->n_cols : kMax;
      if (!fits) break;
    }
    if (covered != source.n_cols)
      reject("the pieces do not cover the " + std::to_string(source.n_cols) + " columns of stored row " +
             std::to_string(edges[i]) + " exactly once");
  }

  if (source.rows.empty()) {
    if (source.n_rows != n_stored && source.n_rows * source.n_cols != 0)
      reject("the pieces hold " + std::to_string(n_stored) + " rows of " + std::to_string(source.n_rows));
    return;
  }
  if (static_cast<int64_t>(source.rows.size()) != source.n_rows)
    reject("a row index of " + std::to_string(source.rows.size()) + " entries for " + std::to_string(source.n_rows) +
           " rows");
  for (int64_t row : source.rows)
    if (row < 0 || row >= n_stored)
      reject("row index " + std::to_string(row) + " outside the " + std::to_string(n_stored) + " stored rows");
}

void require_values(const Source& source) {
  for (const Piece& piece : source.pieces)
    if (!type_info(piece.type).decodes) reject(std::string(type_info(piece.type).name) + " cannot be decoded");
}

void validate(const Job& job, size_t n_files) {
  validate(job.source);
  for (const Delta& delta : job.deltas) validate_delta(job.source, delta);
  if (job.importance.size() > 1) reject("a job has more than one importance");
  for (const Importance& importance : job.importance) validate_importance(job.source, importance);
  if (job.outputs.empty()) reject("a job has no output");
  for (const Output& output : job.outputs) {
    const TypeInfo& info = type_info(output.type);
    if (!is_stored_as(job, output.type)) {
      if (info.max_abs == 0) reject(std::string(info.name) + " cannot be encoded");
      if (info.needs_importance && job.importance.empty()) reject(std::string(info.name) + " needs an importance");
      require_values(job.source);
    }
    if (output.file < 0 || static_cast<size_t>(output.file) >= n_files) reject("an output names a file out of range");
    if (job.source.n_cols % info.block_size)
      reject("rows of " + std::to_string(job.source.n_cols) + " do not divide into " + std::string(info.name) +
             " blocks of " + std::to_string(info.block_size));
    const int64_t bytes = job.source.n_rows * (job.source.n_cols / info.block_size) * info.block_bytes;
    if (output.offset < 0 || output.offset > kMax - bytes) reject("an output's offset is out of range");
  }
}

}  // namespace fastconv
