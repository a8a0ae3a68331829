// What the decoders of IQ2 and IQ1 share: sixteen elements, two points of a grid, at a time.
#pragma once

#include "blocks/iq2_grids.hpp"
#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr uint64_t kEachByte = 0x0101010101010101;

// Levels 0, 1, 2 of IQ2 stand for 8, 25, 43, negated where `signs` has 0xFF; as int8, no byte carries into the next.
FASTCONV_INLINE uint64_t iq2_values(uint64_t levels, uint64_t signs) {
  const uint64_t values = 17 * levels + (levels >> 1 & kEachByte) + 8 * kEachByte;
  return (values ^ signs) + (signs & kEachByte);
}

FASTCONV_INLINE void store_scaled(float* y, float scale, uint64_t first, uint64_t second) {
  const uint64_t values[2] = {first, second};
  store(y, splat(scale) * to_float(load_i8(reinterpret_cast<const int8_t*>(values))));
}

FASTCONV_INLINE float iq2_scale(float d, int scale) { return d * (0.5f + static_cast<float>(scale)) * 0.25f; }

// Levels 0, 1, 2 of IQ1 stand for -1, 0, 1, shifted by 1/8 or, where `down`, by -1/8. Here in eighths, plus 9.
FASTCONV_INLINE uint64_t iq1_eighths(uint64_t levels, bool down) { return 8 * levels + (down ? 0 : 2 * kEachByte); }

FASTCONV_INLINE void store_eighths(float* y, float scale, uint64_t first, uint64_t second) {
  const uint64_t values[2] = {first, second};
  const F32 eighths = to_float(load_u8(reinterpret_cast<const uint8_t*>(values)) - splat(9));
  store(y, splat(scale) * (eighths * splat(0.125f)));
}

FASTCONV_INLINE float iq1_scale(float d, int scale) { return d * static_cast<float>(2 * scale + 1); }

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
