// What Python asks of the engine: plain structs, the whole contract between the two. No model names, no formats.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "blocks/type_table.hpp"

namespace fastconv {

class Storage;  // io/storage.hpp: a mapped input file, or bytes in memory that Python keeps alive

// A strided rectangle of a storage and its place in the stored matrix; see python/fastconv/checkpoint/lazy_tensor.py.
struct Piece {
  std::shared_ptr<Storage> storage;
  Type type;
  int64_t offset;      // bytes
  int64_t row_stride;  // elements
  int64_t col_stride;  // elements
  int64_t row, n_rows;
  int64_t col, n_cols;
};

// A matrix of n_rows x n_cols; row r is stored row rows[r], or r if rows is empty.
struct Source {
  int64_t n_rows, n_cols;
  std::vector<Piece> pieces;
  std::vector<int64_t> rows;
};

// A low-rank update: + scale * B A. b: (n_rows, rank), a: (rank, n_cols). With a magnitude (n_rows, 1), DoRA: each row
// is then multiplied by magnitude / norm, the norm being that of the base row with this update alone (Liu et al. 2024,
// arXiv:2402.09353, eq. 5; several in turn as PEFT 0.21 merges them).
struct Delta {
  Source b, a;
  float scale;
  std::vector<Source> magnitude;  // empty or one
};

struct Output {
  int file;  // index into the run's files
  Type type;
  int64_t offset;  // bytes from the file's start to the tensor's first block
};

// How much the columns of a tensor matter when they are rounded: sums / count of each matrix's own row. Where the count
// is 0 nothing is known, and all columns matter alike.
struct Importance {
  Source sums;                // n_matrices x n_cols; the tensor's rows are those of its matrices (experts) in turn
  std::vector<float> counts;  // per matrix
};

// One tensor: decode rows, apply the deltas one after the other, encode into every output.
struct Job {
  std::string name;  // for messages
  Source source;
  std::vector<Delta> deltas;
  std::vector<Output> outputs;
  std::vector<Importance> importance = {};  // empty or one
};

enum class NonFinite : uint8_t { error, keep, clamp };

}  // namespace fastconv
