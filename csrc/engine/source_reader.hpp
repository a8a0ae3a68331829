// Draws rectangles of a matrix from its pieces: by row index, across joints, through strides; decoded to f32 or as
// stored. It must not know what the rows are for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/job.hpp"
#include "io/mapped_file.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv {

// Rows [r0, r1) and columns [c0, c1) of a matrix.
struct Tile {
  int64_t r0, r1, c0, c1;
  int64_t n_rows() const { return r1 - r0; }
  int64_t n_cols() const { return c1 - c0; }
  int64_t elements() const { return n_rows() * n_cols(); }
};

// Bytes [begin, end) of one mapped file.
struct FileRange {
  const MappedFile* file;
  int64_t begin, end;

  // Into the page cache, unless both of its ends are there.
  void read_ahead() const {
    if (!file->cached(begin) || !file->cached(end - 1)) file->read_ahead(begin, end);
  }
  void release() const { file->release(begin, end); }
};

// Bytes that follow one another in memory.
struct MemoryRange {
  const std::byte* data;
  int64_t size;
};

class SourceReader {
 public:
  // source: validated. Rows that lie one after the other in one piece are held as a single long row (`folded`), which
  // can be divided anywhere.
  SourceReader(const Source& source, bool may_fold, const KernelTable& kernels);
  SourceReader(const SourceReader&) = delete;
  SourceReader& operator=(const SourceReader&) = delete;

  int64_t n_rows() const { return source_.n_rows; }
  int64_t n_cols() const { return source_.n_cols; }
  Tile whole() const { return {0, n_rows(), 0, n_cols()}; }
  // Stored bytes of the widest row, at least 1.
  int64_t row_bytes() const { return row_bytes_; }
  // Whether the elements of a column lie closer together than those of a row, as in a transposed tensor.
  bool columnar() const { return columnar_; }
  // Whether all elements are of this type and those of a row lie one after the other.
  bool stored_as(Type type) const;

  // The tile, whose columns are multiples of the block size, decoded to dst, rows one after the other.
  void read(const Tile& tile, float* dst) const;

  // The same; returns their largest magnitude, NaN if any is NaN.
  float read_max(const Tile& tile, float* dst) const;

  // That magnitude alone, from the elements as stored; NaN too where they must be decoded to be compared. Needs
  // stored_as(their type).
  float stored_max(const Tile& tile) const;

  // Whether every piece that is not empty begins and ends at blocks of so many elements.
  bool in_blocks(int64_t block_size) const;

  // The same elements by a function that takes them as stored, in runs, to elements of another type. Needs
  // stored_as(the function's type) and in_blocks(of the other).
  Recoded recode(const Tile& tile, RecodeFn function, Type to, std::byte* dst) const;

  // The same elements as stored. Needs stored_as(their type).
  void copy(const Tile& tile, std::byte* dst) const;

  // Where those elements lie one after the other in memory, nullptr if they do not.
  const std::byte* contiguous(const Tile& tile) const;

  // Appends where they lie, in the order of reading; nothing of strided pieces.
  void memory_ranges(const Tile& tile, std::vector<MemoryRange>& ranges) const;

  // Stored bytes of those elements.
  int64_t stored_bytes(const Tile& tile) const;

  // Where they lie in mapped files, sorted and merged; all of the piece where it is columnar.
  std::vector<FileRange> file_ranges(const Tile& tile) const;

 private:
  // Stored rows [begin, end), covered by the same pieces, from left to right.
  struct Band {
    int64_t begin, end;
    std::vector<const Piece*> pieces;
  };

  // Calls visit(piece, row in piece, n_rows, col in piece, n_cols, offset in dst in elements) for the rectangles that
  // make up the tile. dst has its columns.
  template <typename Visit>
  void for_each_rectangle(const Tile& tile, Visit visit) const;
  const Band& band_of(int64_t stored_row) const;
  void decode(const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, float* dst,
              int64_t dst_stride) const;
  void decode_strided(const Piece& piece, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols, float* dst,
                      int64_t dst_stride) const;

  Source source_;
  const KernelTable& kernels_;
  std::vector<Band> bands_;
  int64_t row_bytes_ = 1;
  bool columnar_ = false;
};

}  // namespace fastconv
