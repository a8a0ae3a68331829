// The first rows of 4-bit blocks, of llama.cpp's files until 11 March (q4_0) and 17 March 2023 (q4_1): all minima of a
// row in f32 (q4_1 alone), then all scales in f32, then sixteen bytes of levels a block, in pairs. x = (q - 8) * d, or
// q * d + m. Decoded only, a whole row at a time. Source: ggml.c of those days; llama.cpp pull request 193.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <bool kHasMin>
struct PlanarRow {
  // n: the elements of the row.
  static void decode(const void* src, float* y, int64_t n) {
    const int64_t n_blocks = n / kBlock;
    const auto* ms = static_cast<const F32Field*>(src);
    const F32Field* ds = kHasMin ? ms + n_blocks : ms;
    const auto* qs = reinterpret_cast<const uint8_t*>(ds + n_blocks);
    for (int64_t i = 0; i < n_blocks; ++i, qs += 16, y += kBlock) {
      const F32 d = splat(ds[i].value());
      I32 q0, q1;
      PairOrder::unpack(qs, q0, q1);
      if constexpr (kHasMin) {
        const F32 m = splat(ms[i].value());
        store(y, to_float(q0) * d + m);
        store(y + 16, to_float(q1) * d + m);
      } else {
        store(y, to_float(q0 - splat(8)) * d);
        store(y + 16, to_float(q1 - splat(8)) * d);
      }
    }
  }
};

using Q4_0_planar = PlanarRow<false>;
using Q4_1_planar = PlanarRow<true>;

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
