// What TQ1_0 and TQ2_0 share: the scale of 256 elements, their levels 0, 1, 2, and the loops over blocks.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr int kTernaryBlock = 256;

// roundf(x * inverse) + 1. Where 1 / d overflows, no product is finite and all levels are 1, the low bits of what x86
// makes of them: ggml's lroundf there gives 0 in its low half, our conversion likewise.
FASTCONV_INLINE I32 ternary_levels(const float* x, F32 inverse) {
  return (round_away(load(x) * inverse) + splat(1)) & splat(3);
}

FASTCONV_INLINE float largest_magnitude(const float* x) {
  F32 largest = splat(0.0f);
  for (int i = 0; i < kTernaryBlock; i += kLanes) largest = max(abs(load(x + i)), largest);
  alignas(64) float lanes[kLanes];
  store(lanes, largest);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i + half] > lanes[i] ? lanes[i + half] : lanes[i];
  return lanes[0];
}

// T::put_levels(x, 1 / d, block) packs the levels.
template <class T>
FASTCONV_INLINE void encode_ternary(const float* x, void* dst, int64_t n) {
  auto* y = static_cast<typename T::Block*>(dst);
  for (int64_t i = 0; i < n / kTernaryBlock; ++i, x += kTernaryBlock) {
    const F32 d = splat(largest_magnitude(x));
    uint16_t halves[kLanes];
    store_f16(halves, d);
    y[i].d = halves[0];
    T::put_levels(x, inverse_or_zero(d), y[i]);
  }
}

template <class T>
FASTCONV_INLINE void decode_ternary(const void* src, float* y, int64_t n) {
  const auto* block = static_cast<const typename T::Block*>(src);
  for (int64_t i = 0; i < n / kTernaryBlock; ++i) T::decode_block(block[i], y + i * kTernaryBlock);
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
