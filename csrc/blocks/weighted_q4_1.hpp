// Q4_1 and Q5_1 where columns have an importance: d and m are those of the best of 38 tries.
// Source: quantize_row_q4_1_impl and quantize_row_q5_1_impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_search.hpp"
#include "blocks/q4_1.hpp"
#include "blocks/q5_1.hpp"
#include "blocks/weighted_rows.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <class T, int kLevels>
struct WeightedScaleMin {
  using Tries = WeightedTries<kBlock, kLevels>;
  using Block = typename T::Block;
  using Search = AffineSearch<Tries>;
  static constexpr int kGroups = Search::kGroups;

  FASTCONV_INLINE static I32 levels(const float* x, F32 m, F32 inverse) {
    return truncate(round_even(min(max(inverse * (load(x) - m), splat(0.0f)), splat(Tries::kTop))));
  }

  __attribute__((noinline)) static void encode_groups(const WeightedBlocks* groups, const float* x, int n_blocks,
                                                      Block* y) {
    typename Search::Columns columns[kGroups];
    typename Search::Found found[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      for (int i = 0; i < kBlock; ++i) {
        columns[g].x[i] = one_nan(groups[g].x[i]);
        columns[g].weight[i] = groups[g].weight(i);
      }
    }
    Search::search(columns, found);
    for (int g = 0; g < kGroups; ++g) {
      F16Field ds[kGroup], ms[kGroup];
      alignas(64) float inverses[kGroup], mins[kGroup];
      store(ds, one_nan(found[g].scale));
      store(ms, negate(found[g].min));
      // An infinite inverse gives the first levels 0 and those of a later try the largest, as nearest_int has it.
      const Mask overflown = equal(found[g].inverse, splat(__builtin_inff())) & equal(found[g].tries_won, splat(0.0f));
      store(inverses, select(overflown, splat(0.0f), found[g].inverse));
      store(mins, found[g].level_min);
      for (int b = 0; b < kGroup && g * kGroup + b < n_blocks; ++b, ++y, x += kBlock) {
        const F32 m = splat(mins[b]), inverse = splat(inverses[b]);
        y->d = ds[b];
        y->m = ms[b];
        T::put_levels(*y, levels(x, m, inverse), levels(x + 16, m, inverse));
      }
    }
  }

  static void encode(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_weighted_rows<WeightedScaleMin>(x, dst, n_rows, n_cols, importance);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
