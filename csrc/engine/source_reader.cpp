#include "engine/source_reader.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/storage.hpp"

namespace fastconv {
namespace {

// Columns of a strided piece that are packed at a time: their cache lines serve the neighbouring rows as well.
constexpr int64_t kMinPackCols = 16, kMaxPackCols = 256;
// A walk along the columns of a transposed piece touches all its pages; it gives them back at this distance.
constexpr int64_t kReleaseBytes = 4 << 20;

bool is_columnar(const Piece& piece) {
  return piece.n_rows > 1 && piece.n_cols > 1 && piece.col_stride > piece.row_stride;
}

// Byte offset in the storage. For block types col is a multiple of the block.
int64_t element_offset(const Piece& piece, int64_t row, int64_t col) {
  return piece.offset + row_bytes(piece.type, row * piece.row_stride + col * piece.col_stride);
}

const std::byte* element(const Piece& piece, int64_t row, int64_t col) {
  return piece.storage->data() + element_offset(piece, row, col);
}

template <size_t kBytes>
void pack(const std::byte* src, int64_t stride, int64_t n, std::byte* dst) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(dst + i * kBytes, src + i * stride * kBytes, kBytes);
}

void pack(const std::byte* src, int element_bytes, int64_t stride, int64_t n, std::byte* dst) {
  switch (element_bytes) {
    case 1:
      return pack<1>(src, stride, n, dst);
    case 2:
      return pack<2>(src, stride, n, dst);
    case 4:
      return pack<4>(src, stride, n, dst);
    default:
      return pack<8>(src, stride, n, dst);
  }
}

// NaN if either is.
float larger(float a, float b) { return a <= b || std::isnan(b) ? b : a; }

// One piece, whole rows one after the other.
bool is_contiguous(const Source& source) {
  if (source.pieces.size() != 1 || !source.rows.empty() || is_planar(source.pieces[0].type)) return false;
  const Piece& piece = source.pieces[0];
  return (piece.col_stride == 1 || piece.n_cols <= 1) && (piece.row_stride == piece.n_cols || piece.n_rows <= 1);
}

Source fold(Source source) {
  Piece& piece = source.pieces[0];
  const int64_t n = source.n_rows * source.n_cols;
  source.n_rows = piece.n_rows = 1;
  source.n_cols = piece.n_cols = piece.row_stride = n;
  piece.col_stride = 1;
  return source;
}

}  // namespace

SourceReader::SourceReader(const Source& source, bool may_fold, const KernelTable& kernels)
    : source_(may_fold && is_contiguous(source) ? fold(source) : source), kernels_(kernels) {
  std::vector<int64_t> edges = {0};
  std::vector<const Piece*> pieces;
  for (Piece& piece : source_.pieces) {
    if (piece.n_rows == 0 || piece.n_cols == 0) continue;
    // A stride that is never taken must not hide that the piece is contiguous.
    if (piece.n_cols == 1) piece.col_stride = 1;
    pieces.push_back(&piece);
    edges.push_back(piece.row);
    edges.push_back(piece.row + piece.n_rows);
    columnar_ = columnar_ || is_columnar(piece);
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece* x, const Piece* y) { return x->col < y->col; });
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  for (size_t i = 0; i + 1 < edges.size(); ++i) {
    Band band{edges[i], edges[i + 1], {}};
    int64_t bytes = 0;
    for (const Piece* piece : pieces) {
      if (piece->row > band.begin || piece->row + piece->n_rows <= band.begin) continue;
      band.pieces.push_back(piece);
      bytes += fastconv::row_bytes(piece->type, piece->n_cols);
    }
    row_bytes_ = std::max(row_bytes_, bytes);
    bands_.push_back(std::move(band));
  }
}

bool SourceReader::stored_as(Type type) const {
  return std::all_of(source_.pieces.begin(), source_.pieces.end(),
                     [type](const Piece& piece) { return piece.type == type && piece.col_stride == 1; });
}

bool SourceReader::in_blocks(int64_t block_size) const {
  return std::all_of(source_.pieces.begin(), source_.pieces.end(), [block_size](const Piece& piece) {
    return piece.n_rows == 0 || piece.n_cols == 0 || (piece.col % block_size == 0 && piece.n_cols % block_size == 0);
  });
}

const SourceReader::Band& SourceReader::band_of(int64_t stored_row) const {
  return *std::prev(std::upper_bound(bands_.begin(), bands_.end(), stored_row,
                                     [](int64_t row, const Band& band) { return row < band.begin; }));
}

template <typename Visit>
void SourceReader::for_each_rectangle(const Tile& tile, Visit visit) const {
  if (tile.c0 >= tile.c1) return;  // of a source without columns there are no bands
  const std::vector<int64_t>& rows = source_.rows;
  for (int64_t r = tile.r0, n; r < tile.r1; r += n) {
    const int64_t stored = rows.empty() ? r : rows[r];
    const Band& band = band_of(stored);
    if (rows.empty())
      n = std::min(tile.r1 - r, band.end - stored);
    else
      for (n = 1; r + n < tile.r1 && stored + n < band.end && rows[r + n] == stored + n;) ++n;
    for (const Piece* piece : band.pieces) {
      const int64_t begin = std::max(tile.c0, piece->col), end = std::min(tile.c1, piece->col + piece->n_cols);
      if (begin < end)
        visit(*piece, stored - piece->row, n, begin - piece->col, end - begin,
              (r - tile.r0) * tile.n_cols() + begin - tile.c0);
    }
  }
}

void SourceReader::read(const Tile& tile, float* dst) const {
  for_each_rectangle(tile, [&](const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols,
                               int64_t at) { decode(piece, row, n_rows, col, n_cols, dst + at, tile.n_cols()); });
}

float SourceReader::read_max(const Tile& tile, float* dst) const {
  const int64_t n = tile.elements();
  if (const std::byte* stored = contiguous(tile)) {
    const DecodeMaxFn decode_max = kernels_.of(source_.pieces[0].type).decode_max;
    if (decode_max != nullptr) return decode_max(stored, dst, n);
  }
  read(tile, dst);
  return kernels_.max_abs(dst, n);
}

float SourceReader::stored_max(const Tile& tile) const {
  float most = 0;
  for_each_rectangle(tile, [&](const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, int64_t) {
    const StoredMaxFn of_stored = kernels_.of(piece.type).stored_max;
    if (of_stored == nullptr) most = std::nanf("");
    if (n_cols == piece.row_stride) n_cols *= n_rows, n_rows = 1;
    for (int64_t i = 0; i < n_rows && most == most; ++i) {
      most = larger(most, of_stored(element(piece, row + i, col), n_cols));
    }
  });
  return most;
}

void SourceReader::decode(const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, float* dst,
                          int64_t dst_stride) const {
  if (piece.col_stride != 1) return decode_strided(piece, row, n_rows, col, n_cols, dst, dst_stride);
  const DecodeFn decode_row = kernels_.of(piece.type).decode;
  if (n_cols == piece.row_stride && n_cols == dst_stride && !is_planar(piece.type))
    return decode_row(element(piece, row, col), dst, n_rows * n_cols);
  for (int64_t i = 0; i < n_rows; ++i) decode_row(element(piece, row + i, col), dst + i * dst_stride, n_cols);
}

void SourceReader::decode_strided(const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols,
                                  float* dst, int64_t dst_stride) const {
  const int element_bytes = type_info(piece.type).block_bytes;
  const DecodeFn decode_row = kernels_.of(piece.type).decode;
  const bool releases = is_columnar(piece) && piece.storage->file() != nullptr;
  const int64_t pack_cols =
      std::clamp(kReleaseBytes / std::max<int64_t>(piece.col_stride * element_bytes, 1), kMinPackCols, kMaxPackCols);
  std::byte packed[kMaxPackCols * sizeof(double)];
  int64_t released = element_offset(piece, row, col);
  for (int64_t c = 0; c < n_cols; c += pack_cols) {
    const int64_t n = std::min(pack_cols, n_cols - c);
    for (int64_t r = 0; r < n_rows; ++r) {
      pack(element(piece, row + r, col + c), element_bytes, piece.col_stride, n, packed);
      decode_row(packed, dst + r * dst_stride + c, n);
    }
    const int64_t walked = element_offset(piece, row + n_rows - 1, col + c + n - 1) + element_bytes;
    if (releases && (walked - released >= kReleaseBytes || c + n == n_cols)) {
      piece.storage->file()->release(released, walked);
      released = walked;
    }
  }
}

Recoded SourceReader::recode(const Tile& tile, RecodeFn function, Type to, std::byte* dst) const {
  Recoded all{0, 0};
  for_each_rectangle(tile,
                     [&](const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, int64_t at) {
                       const bool one_run = n_cols == piece.row_stride && n_cols == tile.n_cols();
                       const int64_t n_runs = one_run ? 1 : n_rows, size = one_run ? n_rows * n_cols : n_cols;
                       for (int64_t i = 0; i < n_runs; ++i) {
                         std::byte* out = dst + fastconv::row_bytes(to, at + i * tile.n_cols());
                         const Recoded run = function(element(piece, row + i, col), out, size);
                         all.rounded_blocks += run.rounded_blocks;
                         all.largest = larger(all.largest, run.largest);
                       }
                     });
  return all;
}

void SourceReader::copy(const Tile& tile, std::byte* dst) const {
  for_each_rectangle(tile, [&](const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols,
                               int64_t at) {
    const size_t bytes = static_cast<size_t>(fastconv::row_bytes(piece.type, n_cols));
    for (int64_t i = 0; i < n_rows; ++i)
      std::memcpy(dst + fastconv::row_bytes(piece.type, at + i * tile.n_cols()), element(piece, row + i, col), bytes);
  });
}

const std::byte* SourceReader::contiguous(const Tile& tile) const {
  if (source_.n_rows != 1 || !source_.rows.empty() || source_.pieces.size() != 1) return nullptr;
  if (tile.r0 != 0 || tile.r1 != 1) return nullptr;
  const Piece& piece = source_.pieces[0];
  return piece.col_stride == 1 && tile.c1 <= piece.n_cols ? element(piece, 0, tile.c0) : nullptr;
}

void SourceReader::memory_ranges(const Tile& tile, std::vector<MemoryRange>& ranges) const {
  for_each_rectangle(tile, [&](const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, int64_t) {
    if (piece.col_stride != 1) return;
    if (n_cols == piece.row_stride) n_cols *= n_rows, n_rows = 1;
    for (int64_t i = 0; i < n_rows; ++i)
      ranges.push_back({element(piece, row + i, col), fastconv::row_bytes(piece.type, n_cols)});
  });
}

int64_t SourceReader::stored_bytes(const Tile& tile) const {
  int64_t bytes = 0;
  for_each_rectangle(tile, [&](const Piece& piece, int64_t, int64_t n_rows, int64_t, int64_t n_cols, int64_t) {
    bytes += n_rows * fastconv::row_bytes(piece.type, n_cols);
  });
  return bytes;
}

std::vector<FileRange> SourceReader::file_ranges(const Tile& tile) const {
  std::vector<FileRange> ranges;
  for_each_rectangle(tile, [&](const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, int64_t) {
    const MappedFile* file = piece.storage->file();
    if (file == nullptr) return;
    const TypeInfo& info = type_info(piece.type);
    if (is_columnar(piece)) row = col = 0, n_rows = piece.n_rows, n_cols = piece.n_cols;
    const int64_t last = element_offset(piece, row + n_rows - 1, col + n_cols - info.block_size);
    ranges.push_back({file, element_offset(piece, row, col), last + info.block_bytes});
  });
  std::sort(ranges.begin(), ranges.end(), [](const FileRange& x, const FileRange& y) {
    return x.file != y.file ? x.file < y.file : x.begin < y.begin;
  });
  size_t n = 0;
  for (const FileRange& range : ranges) {
    if (n > 0 && ranges[n - 1].file == range.file && range.begin <= ranges[n - 1].end)
      ranges[n - 1].end = std::max(ranges[n - 1].end, range.end);
    else
      ranges[n++] = range;
  }
  ranges.resize(n);
  return ranges;
}

}  // namespace fastconv
