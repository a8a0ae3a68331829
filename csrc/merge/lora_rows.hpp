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

template <int kRows>
FASTCONV_INLINE void update_rows(const Update& u, int64_t row, int64_t n_cols) {
  int64_t col = 0;
  for (; col + kUpdateVectors * kLanes <= n_cols; col += kUpdateVectors * kLanes)
    update_tile<kRows, kUpdateVectors>(u, row, col);
  for (; col + kLanes <= n_cols; col += kLanes) update_tile<kRows, 1>(u, row, col);
  for (; col < n_cols; ++col)
    for (int64_t i = row; i < row + kRows; ++i) {
      const float* b = u.b + i * u.rank;
      float sum = b[0] * u.a[col];
      for (int64_t r = 1; r < u.rank; ++r) sum += b[r] * u.a[r * u.a_stride + col];
      u.rows[i * u.row_stride + col] += u.scale * sum;
    }
}

inline void lora_add(float* rows, int64_t row_stride, int64_t n_rows, int64_t n_cols, const float* b, const float* a,
                     int64_t a_stride, int64_t rank, float scale) {
  if (rank <= 0) return;
  const Update u{rows, row_stride, b, a, a_stride, rank, scale};
  int64_t row = 0;
  for (; row + kUpdateRows <= n_rows; row += kUpdateRows) update_rows<kUpdateRows>(u, row, n_cols);
  for (; row < n_rows; ++row) update_rows<1>(u, row, n_cols);
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
