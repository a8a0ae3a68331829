// The importance of the columns of a tensor's rows, drawn from where it is stored when a row of another matrix begins.
// It must not know what the rows are.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/job.hpp"
#include "engine/source_reader.hpp"

namespace fastconv {

class ImportanceReader {
 public:
  // job: validated, with an importance; must outlive the reader.
  ImportanceReader(const Job& job, const KernelTable& kernels);

  // One thread's row in use.
  struct Row {
    const ImportanceReader* reader = nullptr;
    int64_t matrix = -1;
    std::vector<float> values;
  };

  // The importance of the columns of a row: n_cols values, finite and none negative, valid until the next call with the
  // same `held`. Throws std::invalid_argument where what is stored is otherwise.
  const float* read(int64_t row, Row& held) const;

  // Rows from this one on that share its importance.
  int64_t rows_left(int64_t row) const { return rows_per_matrix_ - row % rows_per_matrix_; }

  // Where the importance of rows [r0, r1) lies in mapped files.
  std::vector<FileRange> file_ranges(int64_t r0, int64_t r1) const;

 private:
  const Job& job_;
  SourceReader sums_;
  int64_t rows_per_matrix_;
};

}  // namespace fastconv
