// Rows of blocks of 32 whose columns have an importance: the weight of every element, and the walk over groups of
// sixteen blocks, one block per lane. Knows no block type.
// Source: quantize_row_q4_0_impl and its kin in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr int kRowsTogether = 8;

// means[r]: the mean of the squares of row r, added in the order of its elements. Each row is one long chain of
// additions, so several advance side by side.
FASTCONV_INLINE void mean_squares(const float* x, int n_rows, int64_t n_cols, float* means) {
  const float* rows[kRowsTogether];
  float sums[kRowsTogether];
  for (int r = 0; r < kRowsTogether; ++r) {
    rows[r] = x + (r < n_rows ? r : n_rows - 1) * n_cols;
    sums[r] = 0.0f;
  }
  for (int64_t c = 0; c < n_cols; ++c)
#pragma GCC unroll 8
    for (int r = 0; r < kRowsTogether; ++r) sums[r] += rows[r][c] * rows[r][c];
  for (int r = 0; r < kRowsTogether; ++r) means[r] = sums[r] / static_cast<float>(n_cols);
}

// Lane k of out[i]: element i of the k-th of sixteen rows of 32.
template <class Row>
FASTCONV_INLINE void transpose_blocks(Row row, F32* out) {
  for (int half = 0; half < kBlock; half += 16) {
    F32 m[16];
    for (int k = 0; k < kGroup; ++k) m[k] = row(k, half);
    transpose(m);
    for (int i = 0; i < 16; ++i) out[half + i] = m[i];
  }
}

// A block of a batch of rows, and the way to the next one; the last one has no next.
struct BlockCursor {
  const float *x, *columns, *mean;  // mean: of its row
  const float *importance, *importance_end;
  int64_t left;  // this one included

  FASTCONV_INLINE void advance() {
    if (left == 1) return;
    --left;
    x += kBlock;
    columns += kBlock;
    if (columns == importance_end) {
      columns = importance;
      ++mean;
    }
  }

  // The next sixteen, lane b for block b: elements, and weights importance * sqrt(mean square of the row + x * x).
  template <class Group>
  FASTCONV_INLINE void take(Group& group) {
    const float *from[kGroup], *weights[kGroup];
    float means[kGroup];
    for (int b = 0; b < kGroup; ++b, advance()) {
      from[b] = x;
      weights[b] = columns;
      means[b] = *mean;
    }
    transpose_blocks([&](int b, int at) { return load(from[b] + at); }, group.x);
    transpose_blocks(
        [&](int b, int at) {
          const F32 v = load(from[b] + at);
          return load(weights[b] + at) * sqrt(splat(means[b]) + v * v);
        },
        group.weight);
  }
};

// T::encode_groups searches T::kGroups groups at once and writes their blocks, or the first of them at the end. Groups
// go across the ends of rows.
template <class T>
FASTCONV_INLINE void encode_weighted_rows(const float* x, void* dst, int64_t n_rows, int64_t n_cols,
                                          const float* importance) {
  constexpr int kMost = T::kGroups * kGroup;
  auto* y = static_cast<typename T::Block*>(dst);
  for (; n_rows > 0; n_rows -= kRowsTogether) {
    const int batch = static_cast<int>(n_rows < kRowsTogether ? n_rows : kRowsTogether);
    float means[kRowsTogether];
    mean_squares(x, batch, n_cols, means);
    int64_t left = batch * n_cols / kBlock;
    BlockCursor cursor = {x, importance, means, importance, importance + n_cols, left};
    while (left > 0) {
      const int n_blocks = static_cast<int>(left < kMost ? left : kMost);
      typename T::Group groups[T::kGroups];
      for (auto& group : groups) cursor.take(group);
      T::encode_groups(groups, x, n_blocks, y);
      left -= n_blocks;
      x += n_blocks * kBlock;
      y += n_blocks;
    }
  }
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
