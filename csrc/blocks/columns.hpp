// Sixteen runs of elements side by side, one per lane, so that each is summed in its own order. Knows no block type.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// out[i] lane b: element `at` + i of runs[b].
FASTCONV_INLINE void load_columns(const float* const (&runs)[kLanes], int at, F32* out) {
  F32 m[kLanes];
  for (int b = 0; b < kLanes; ++b) m[b] = load(runs[b] + at);
  transpose(m);
  for (int i = 0; i < kLanes; ++i) out[i] = m[i];
}

// Lane b: the squares of run b, added one after the other. `n` runs of n_elements, a multiple of 16, from x on; lanes
// past the last repeat it.
inline F32 sums_of_squares(const float* x, int64_t n, int n_elements) {
  const float* runs[kLanes];
  for (int b = 0; b < kLanes; ++b) runs[b] = x + (b < n ? b : n - 1) * n_elements;
  F32 sum = splat(0.0f);
  for (int at = 0; at < n_elements; at += kLanes) {
    F32 v[kLanes];
    load_columns(runs, at, v);
    for (const F32& a : v) sum = sum + a * a;
  }
  return sum;
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
