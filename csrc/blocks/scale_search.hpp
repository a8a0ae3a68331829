// The scale of a few numbers that are to be small integers times it, by weighted least squares: how the scales and mins
// of a super-block's sub-blocks are quantized where importance is heeded. Lanes are independent; knows no block type.
// Source: make_qp_quants in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_search.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <int kN, int kTop>
struct ScaleSearch {
  // The low byte is what ggml keeps in its uint8_t, negative integers included.
  FASTCONV_INLINE static I32 byte(I32 q) { return q & splat(0xFF); }
  FASTCONV_INLINE static I32 rounded(F32 scaled) { return nearest_int(nan_to_zero(scaled)); }
  FASTCONV_INLINE static I32 limited(F32 scaled) { return min(rounded(scaled), splat(kTop)); }

  // The scale of each lane; the integers of number i in levels[i].
  static F32 search(const float (*numbers)[kLanes], const float (*weights)[kLanes], uint8_t (*levels)[kLanes]) {
    F32 x[kN], w[kN];
    I32 q[kN];
    const F32 zero = splat(0.0f);
    F32 most = zero;
    for (int i = 0; i < kN; ++i) {
      x[i] = load(numbers[i]);
      w[i] = load(weights[i]);
      most = max(most, x[i]);
    }
    const Mask nothing = less(most, splat(1e-15f));  // GROUP_MAX_EPS
    F32 inverse = splat(static_cast<float>(kTop)) / most;
    const auto error_of = [&](F32 try_inverse, auto level_of) {
      const F32 scale = splat(1.0f) / try_inverse;
      F32 sum = zero;
      for (int i = 0; i < kN; ++i) {
        const F32 off = x[i] - scale * to_float(level_of(try_inverse * x[i]));
        sum = sum + w[i] * off * off;
      }
      return sum;
    };
    F32 error = error_of(inverse, [](F32 scaled) { return byte(rounded(scaled)); });
#pragma GCC unroll 1
    for (int step = -4; step <= 4; ++step) {
      if (step == 0) continue;
      const F32 try_inverse = splat(0.1f * static_cast<float>(step) + kTop) / most;
      const F32 try_error = error_of(try_inverse, [](F32 scaled) { return limited(scaled); });
      const Mask better = less(try_error, error);
      error = select(better, try_error, error);
      inverse = select(better, try_inverse, inverse);
    }
    F32 sum_lx = zero, sum_l2 = zero;
    for (int i = 0; i < kN; ++i) {
      const I32 level = limited(inverse * x[i]);
      q[i] = byte(level);
      const F32 l = to_float(level);
      sum_lx = sum_lx + w[i] * x[i] * l;
      sum_l2 = sum_l2 + w[i] * l * l;
    }
    // One number at a time to the level that fits the scale of all others, as long as one changes. A lane in which none
    // has changed would go through the next round as through this one.
    for (int round = 0; round < 5; ++round) {
      uint32_t changed = 0;
#pragma GCC unroll 1
      for (int i = 0; i < kN; ++i) {
        const F32 wx = w[i] * x[i], l = to_float(q[i]);
        F32 slx = sum_lx - wx * l, sl2 = sum_l2 - w[i] * l * l;
        const I32 level = limited(x[i] * sl2 / slx);
        Mask better = less(zero, slx) & less(zero, sl2);
        const F32 nl = to_float(level);
        slx = slx + wx * nl;
        sl2 = sl2 + w[i] * nl * nl;
        better = better & less(sum_lx * sum_lx * sl2, slx * slx * sum_l2);
        const I32 taken = select(equal(level, q[i]), splat(0), select(better, splat(1), splat(0)));
        better = less(splat(0), taken);
        q[i] = select(better, byte(level), q[i]);
        sum_lx = select(better, slx, sum_lx);
        sum_l2 = select(better, sl2, sum_l2);
        changed |= lane_bits(better);
      }
      if (changed == 0) break;
    }
    for (int i = 0; i < kN; ++i) store_bytes(levels[i], select(nothing, splat(0), q[i]));
    const F32 scale = select(less(zero, sum_l2), sum_lx / sum_l2, zero);
    return select(nothing, zero, scale);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
