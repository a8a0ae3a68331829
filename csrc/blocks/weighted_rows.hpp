// Rows of blocks of 32 whose columns have an importance: the weight of every element, and the walk over groups of
// sixteen blocks, one block per lane. Knows no block type.
// Source: quantize_row_q4_0_impl and its kin in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/columns.hpp"
#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr int kRowsTogether = kLanes;

// Lane r: the mean of the squares of row r, added in the order of its elements; zeros before and after them change no
// sum. Where rows lie a power of two apart, the same columns of all sixteen fall into one set of the first-level cache,
// which holds eight lines or so: half of the rows come a few lines behind the others.
FASTCONV_INLINE F32 mean_squares(const float* x, int n_rows, int64_t n_cols) {
  constexpr int64_t kBehind = 64;
  const float* rows[kRowsTogether];
  for (int r = 0; r < kRowsTogether; ++r) rows[r] = x + (r < n_rows ? r : n_rows - 1) * n_cols;
  F32 sum = splat(0.0f);
  const auto add = [&](int64_t at, bool ahead, bool behind) __attribute__((always_inline)) {
    F32 v[kRowsTogether];
    for (int r = 0; r < kRowsTogether; ++r) {
      if (r < kRowsTogether / 2)
        v[r] = ahead ? load(rows[r] + at) : splat(0.0f);
      else
        v[r] = behind ? load(rows[r] + at - kBehind) : splat(0.0f);
    }
    transpose(v);
    for (const F32& a : v) sum = sum + a * a;
  };
  for (int64_t at = 0; at < n_cols + kBehind; at += kLanes) {
    if (kBehind <= at && at < n_cols)
      add(at, true, true);
    else
      add(at, at < n_cols, kBehind <= at);
  }
  return sum / splat(static_cast<float>(n_cols));
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
};

// Sixteen blocks, lane b: block b.
struct WeightedBlocks {
  F32 x[kBlock], importance[kBlock];
  F32 mean;  // of the squares of the block's row

  FASTCONV_INLINE F32 weight(int i) const { return importance[i] * sqrt(mean + x[i] * x[i]); }

  // The next sixteen.
  FASTCONV_INLINE void take(BlockCursor& cursor) {
    const float *elements[kGroup], *columns[kGroup];
    alignas(64) float means[kGroup];
    for (int b = 0; b < kGroup; ++b, cursor.advance()) {
      elements[b] = cursor.x;
      columns[b] = cursor.columns;
      means[b] = *cursor.mean;
    }
    put(elements, x);
    put(columns, importance);
    mean = load(means);
  }

  // Sixteen that follow each other in a row.
  FASTCONV_INLINE void take_columns(const float* from) { put_all(from, importance); }
  FASTCONV_INLINE void take_elements(const float* from, float row_mean) {
    put_all(from, x);
    mean = splat(row_mean);
  }

 private:
  FASTCONV_INLINE static void put(const float* const (&blocks)[kGroup], F32* out) {
    for (int at = 0; at < kBlock; at += kLanes) load_columns(blocks, at, out + at);
  }
  FASTCONV_INLINE static void put_all(const float* from, F32* out) {
    const float* blocks[kGroup];
    for (int b = 0; b < kGroup; ++b) blocks[b] = from + b * kBlock;
    put(blocks, out);
  }
};

// T::encode_groups searches T::kGroups groups at once and writes their blocks, or the first of them at the end. It is
// not inlined: two loops call it, and two copies of the search would leave both short of registers. Where rows are
// whole groups, those that stand below each other come one after the other, for they share their importance; else
// groups go across the ends of rows.
template <class T>
FASTCONV_INLINE void encode_weighted_rows(const float* x, void* dst, int64_t n_rows, int64_t n_cols,
                                          const float* importance) {
  constexpr int kMost = T::kGroups * kGroup;
  auto* y = static_cast<typename T::Block*>(dst);
  WeightedBlocks groups[T::kGroups];
  for (; n_rows > 0; n_rows -= kRowsTogether) {
    const int batch = static_cast<int>(n_rows < kRowsTogether ? n_rows : kRowsTogether);
    alignas(64) float means[kRowsTogether];
    store(means, mean_squares(x, batch, n_cols));
    const int64_t n_blocks = batch * n_cols / kBlock;
    if (n_cols % (kMost * kBlock) == 0) {
      for (int64_t column = 0; column < n_cols; column += kMost * kBlock) {
        for (int g = 0; g < T::kGroups; ++g) groups[g].take_columns(importance + column + g * kGroup * kBlock);
        for (int r = 0; r < batch; ++r) {
          const float* from = x + r * n_cols + column;
          for (int g = 0; g < T::kGroups; ++g) groups[g].take_elements(from + g * kGroup * kBlock, means[r]);
          T::encode_groups(groups, from, kMost, y + (from - x) / kBlock);
        }
      }
    } else {
      BlockCursor cursor = {x, importance, means, importance, importance + n_cols, n_blocks};
      for (int64_t at = 0; at < n_blocks; at += kMost) {
        for (auto& group : groups) group.take(cursor);
        T::encode_groups(groups, x + at * kBlock, static_cast<int>(n_blocks - at < kMost ? n_blocks - at : kMost),
                         y + at);
      }
    }
    x += n_blocks * kBlock;
    y += n_blocks;
  }
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
