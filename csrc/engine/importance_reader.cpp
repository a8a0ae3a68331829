#include "engine/importance_reader.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace fastconv {

ImportanceReader::ImportanceReader(const Job& job, const KernelTable& kernels)
    : job_(job),
      sums_(job.importance[0].sums, false, kernels),
      rows_per_matrix_(std::max<int64_t>(job.source.n_rows / sums_.n_rows(), 1)) {}

const float* ImportanceReader::read(int64_t row, Row& held) const {
  const int64_t matrix = row / rows_per_matrix_;
  if (held.reader == this && held.matrix == matrix) return held.values.data();
  held.reader = nullptr;
  held.values.resize(static_cast<size_t>(sums_.n_cols()));
  const float count = job_.importance[0].counts[static_cast<size_t>(matrix)];
  if (count > 0) {
    sums_.read({matrix, matrix + 1, 0, sums_.n_cols()}, held.values.data());
    for (float& value : held.values) {
      value /= count;
      // NaN compares false.
      if (!(value >= 0 && value <= std::numeric_limits<float>::max()))
        throw std::invalid_argument("the importance of " + job_.name + " is not finite or negative");
    }
  } else {
    std::fill(held.values.begin(), held.values.end(), 1.0f);
  }
  held.reader = this;
  held.matrix = matrix;
  return held.values.data();
}

std::vector<FileRange> ImportanceReader::file_ranges(int64_t r0, int64_t r1) const {
  if (r0 == r1 || sums_.n_cols() == 0) return {};
  return sums_.file_ranges({r0 / rows_per_matrix_, (r1 - 1) / rows_per_matrix_ + 1, 0, sums_.n_cols()});
}

}  // namespace fastconv
