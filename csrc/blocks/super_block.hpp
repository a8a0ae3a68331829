// Super-blocks of 256 elements: the walks over them, and what the encoders of IQ2 and IQ1 do for one as a whole.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr int kSuperBlock = 256;
constexpr uint16_t kF16NaN = 0x7E00;

// T::decode_block gives the elements of one.
template <class T>
FASTCONV_INLINE void decode_super_blocks(const void* src, float* y, int64_t n) {
  const auto* block = static_cast<const typename T::Block*>(src);
  for (int64_t i = 0; i < n / kSuperBlock; ++i) T::decode_block(block[i], y + i * kSuperBlock);
}

FASTCONV_INLINE float square_sum(const float* x) {
  float sum = 0;
  for (int i = 0; i < kSuperBlock; ++i) sum += x[i] * x[i];
  return sum;
}

// Of a super-block whose squares add up to `sum`.
FASTCONV_INLINE bool all_finite(const float* x, float sum) {
  if (sum < __builtin_inff()) return true;
  uint32_t finite = 0xFFFF;
  for (int i = 0; i < kSuperBlock; i += kLanes) finite &= lane_bits(less(abs(load(x + i)), splat(__builtin_inff())));
  return finite == 0xFFFF;
}

// T::encode_block(x, square_sum(x), importance, points of T::neighbours(), y) writes one over zeros. importance:
// nullptr for none. ggml aborts on NaN and infinity; here the super-scale, which T::put_scale writes, becomes NaN.
template <class T>
FASTCONV_INLINE void encode_super_blocks(const float* x, void* dst, int64_t n_rows, int64_t n_cols,
                                         const float* importance) {
  const auto& grid = T::neighbours();
  auto* y = static_cast<typename T::Block*>(dst);
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int64_t at = 0; at < n_cols; at += kSuperBlock, x += kSuperBlock, ++y) {
      __builtin_memset(y, 0, sizeof *y);
      const float sum = square_sum(x);
      if (all_finite(x, sum))
        T::encode_block(x, sum, importance == nullptr ? nullptr : importance + at, grid, *y);
      else
        T::put_scale(kF16NaN, *y);
    }
  }
}

// One NaN for all: instruction sets make NaN of different signs.
FASTCONV_INLINE uint16_t f16_bits(float x) {
  if (x != x) return kF16NaN;
  uint16_t out[kLanes];
  store_f16(out, splat(x));
  return out[0];
}

// What is stored for sixteen scales, 0 ... most, of which 2 * stored + 1 is the multiple of d = 1 / inverse.
FASTCONV_INLINE I32 stored_scales(const float* scales, float inverse, int most) {
  const I32 level = nearest_int(splat(0.5f) * (splat(inverse) * load(scales) - splat(1.0f)));
  return max(min(level, splat(most)), splat(0));
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
