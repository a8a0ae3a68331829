// rows += scale * b a: the low-rank update of a tile of rows, in the one order that all instruction sets share.
// Per element, in f32: sum = b[0] a[0]; sum += b[r] a[r] for r = 1 ... rank - 1; row += scale * sum. Nothing is fused.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct Update {
  float* rows;
  int64_t row_stride;
  const float* b;
  const float* a;
  int64_t a_stride;
  int64_t rank;
  float scale;
};

// kRows x (16 * kVectors) elements with all sums in registers: each a is loaded once for kRows products.
template <int kRows, int kVectors>
FASTCONV_INLINE void update_tile(const Update& u, int64_t row, int64_t col) {
  F32 sums[kRows][kVectors];
  const float* b = u.b + row * u.rank;
  const float* a = u.a + col;
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const F32 factor = splat(b[i * u.rank]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sums[i][v] = factor * load(a + v * kLanes);
  }
  for (int64_t r = 1; r < u.rank; ++r) {
    a += u.a_stride;
    F32 columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = load(a + v * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const F32 factor = splat(b[i * u.rank + r]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[i][v] = sums[i][v] + factor * columns[v];
    }
  }
  const F32 scale = splat(u.scale);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    float* out = u.rows + (row + i) * u.row_stride + col;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) store(out + v * kLanes, load(out + v * kLanes) + scale * sums[i][v]);
  }
}

// All rows of one run of columns, kVectors vectors wide.
template <int kVectors>
FASTCONV_INLINE void update_columns(const Update& u, int64_t n_rows, int64_t col) {
  int64_t row = 0;
  for (; row + kUpdateRows <= n_rows; row += kUpdateRows) update_tile<kUpdateRows, kVectors>(u, row, col);
  for (; row < n_rows; ++row) update_tile<1, kVectors>(u, row, col);
}

inline void lora_add(float* rows, int64_t row_stride, int64_t n_rows, int64_t n_cols, const float* b, const float* a,
                     int64_t a_stride, int64_t rank, float scale) {
  if (rank <= 0) return;
  // A panel of a is copied together first: rows of a that lie a power of two apart would share a few lines of the
  // first-level cache and drive one another out. Few rows do not repay the copy.
  constexpr int64_t kPanel = 4 * kLanes, kMaxRank = 64;
  alignas(64) float panel[kMaxRank * kPanel];
  const bool copies = rank <= kMaxRank && n_rows >= kUpdateCopyRows;
  const Update all{rows, row_stride, b, a, a_stride, rank, scale};
  int64_t col = 0;
  for (; col + kPanel <= n_cols; col += kPanel) {
    Update u{rows + col, row_stride, b, a + col, a_stride, rank, scale};
    if (copies) {
      for (int64_t r = 0; r < rank; ++r)
        for (int64_t j = 0; j < kPanel; j += kLanes) store(panel + r * kPanel + j, load(u.a + r * a_stride + j));
      u.a = panel;
      u.a_stride = kPanel;
    }
    for (int64_t j = 0; j < kPanel; j += kUpdateVectors * kLanes) update_columns<kUpdateVectors>(u, n_rows, j);
  }
  for (; col + kLanes <= n_cols; col += kLanes) update_columns<1>(all, n_rows, col);
  for (; col < n_cols; ++col)
    for (int64_t i = 0; i < n_rows; ++i) {
      float sum = b[i * rank] * a[col];
      for (int64_t r = 1; r < rank; ++r) sum += b[i * rank + r] * a[r * a_stride + col];
      rows[i * row_stride + col] += scale * sum;
    }
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
