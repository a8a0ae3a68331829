// Q4_0 and Q5_0 where columns have an importance: the scale is the best of 19 tries, d with the sign that gives the
// first element of the largest magnitude level 0.
// Source: quantize_row_q4_0_impl and quantize_row_q5_0_impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/q4_0.hpp"
#include "blocks/q5_0.hpp"
#include "blocks/signed_search.hpp"
#include "blocks/weighted_rows.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <class T, int kTop>
struct WeightedScale {
  using Block = typename T::Block;
  using Search = SignedSearch<kBlock, kTop>;
  static constexpr int kGroups = 1;

  __attribute__((noinline)) static void encode_groups(const WeightedBlocks* group, const float* x, int n_blocks,
                                                      Block* y) {
    const auto found = Search::search(group->x, [group](int i) { return group->weight(i); });
    F16Field ds[kGroup];
    alignas(64) float inverses[kGroup];
    store(ds, found.scale);
    store(inverses, found.inverse);
    const uint32_t zeros = lane_bits(found.zero);
    for (int b = 0; b < n_blocks; ++b) {
      const F32 inverse = splat(inverses[b]);
      const I32 kept = splat((zeros >> b & 1) != 0 ? 0 : -1);
      y[b].d = ds[b];
      T::put_levels(y[b], Search::levels(load(x + b * kBlock) * inverse) & kept,
                    Search::levels(load(x + b * kBlock + 16) * inverse) & kept);
    }
  }

  static void encode(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_weighted_rows<WeightedScale>(x, dst, n_rows, n_cols, importance);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
