// The search for the scale of sub-blocks, x = scale * level with levels from -top to top - 1: the best of 19 tries by
// weighted least squares. Knows no block type, and nothing of where the weights come from.
// Source: make_qx_quants with rmse_type 1 in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// One lane is one sub-block of kN elements, so that every sum adds its terms in ggml's order.
template <int kN, int kTop>
struct SignedSearch {
  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS
  static constexpr int kSteps = 9;        // tries on either side of the first
  static constexpr int kTogether = 3;     // tries that share the loads of an element

  struct Found {
    F32 scale;
    F32 inverse;  // of the try that won: its levels are those of inverse * x
    Mask zero;    // no element above kTiny: all levels -top
  };

  // One element of each sub-block, and what it adds to the sums over weight * x * level and weight * level * level.
  //
  // The first try scales by top / |first| (first: the first element of the largest magnitude), the others by
  // (top + step / 10) / |first| with |step| <= 9. No |x| exceeds |first|, so inverse * |x| is within 0.9 of that of the
  // first try, give or take roundings of 2^-18, and below top + 1. It moves by less than 1, so its nearest integer,
  // ties to even, moves by at most 1, and in the direction of the step, for a product of floats is monotone: on each
  // side of the first try a level is one of two, and a comparison with a threshold says which. The four terms are
  // rounded as ggml rounds them, and each sum adds its own in ggml's order, so the sums, and all that follows from
  // them, are ggml's to the bit, overflow and underflow included.
  //
  // Signs play no part, for no weight is negative: every level has the sign of -x * first, so all terms of a sum have
  // one sign, that of -first for lx, and rounding is symmetric. Only the bound differs: top for the sign of first,
  // top - 1 for the other. And a sum of zeros is +0, whatever their signs.
  // NaN, infinite sums and weights make the scale of the first try infinite or NaN, which no other try can beat.
  struct Other {
    F32 threshold;  // of inverse * |x|, strictly beyond which the level is the other one
    F32 lx, l2;
  };
  struct Element {
    F32 magnitude;
    F32 lx, l2;  // with the level of the first try
    Other below, above;
  };

  // The sums of kTogether tries above or below the first: a register at a time, so that all sums stay in registers.
  template <bool kAbove>
  FASTCONV_INLINE static void add_up(const Element* elements, const F32* inverse, F32* lx, F32* l2) {
    for (int r = 0; r < kRegs; ++r) {
      reg::F sum_lx[kTogether], sum_l2[kTogether];
      for (int k = 0; k < kTogether; ++k) sum_lx[k] = sum_l2[k] = reg::splat(0.0f);
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) {
        const Element& element = elements[i];
        const Other& other = kAbove ? element.above : element.below;
#pragma GCC unroll 3
        for (int k = 0; k < kTogether; ++k) {
          const reg::F scaled = reg::mul(inverse[k].r[r], element.magnitude.r[r]), threshold = other.threshold.r[r];
          const reg::M beyond = kAbove ? reg::less(threshold, scaled) : reg::less(scaled, threshold);
          sum_lx[k] = reg::add(sum_lx[k], reg::select(beyond, other.lx.r[r], element.lx.r[r]));
          sum_l2[k] = reg::add(sum_l2[k], reg::select(beyond, other.l2.r[r], element.l2.r[r]));
        }
      }
      for (int k = 0; k < kTogether; ++k) {
        lx[k].r[r] = sum_lx[k];
        l2[k].r[r] = sum_l2[k];
      }
    }
  }

  // x[i]: element i of each sub-block; weight(i): how much it counts.
  template <class Weight>
  FASTCONV_INLINE static Found search(const F32* x, Weight weight) {
    Element elements[kN];
    const F32 zero = splat(0.0f), one = splat(1.0f), half = splat(0.5f), top = splat(static_cast<float>(kTop));
    F32 amax = zero, first = zero;
    for (int i = 0; i < kN; ++i) {
      elements[i].magnitude = abs(x[i]);
      amax = max(elements[i].magnitude, amax);
    }
#pragma GCC unroll 1
    for (int i = kN - 1; i >= 0; --i) first = select(equal(elements[i].magnitude, amax), x[i], first);
    const auto inverse_of = [&](int step) { return splat(kTop + 0.1f * static_cast<float>(step)) / amax; };

    const F32 inverse = inverse_of(0);
    F32 sum_lx = zero, sum_l2 = zero;
    for (int i = 0; i < kN; ++i) {
      Element& element = elements[i];
      const F32 magnitude = element.magnitude, w = weight(i), wm = w * magnitude;
      const F32 limit = select(less(x[i] * first, zero), top - one, top);
      const F32 level = min(round_even(inverse * magnitude), limit);
      element.lx = wm * level;
      element.l2 = w * level * level;
      sum_lx = sum_lx + element.lx;
      sum_l2 = sum_l2 + element.l2;
      // A product on the half rounds to the even level: the threshold of an odd one is one float nearer.
      const I32 odd = truncate(level) & splat(1);
      const F32 lower = level - one, upper = min(level + one, limit);
      element.below = {from_bits(bits(level - half) + odd), wm * lower, w * lower * lower};
      element.above = {from_bits(bits(level + half) - odd), wm * upper, w * upper * upper};
    }
    Found found;
    found.zero = less(amax, splat(kTiny));
    found.inverse = inverse;
    found.scale = select(equal(sum_l2, zero), zero, sum_lx / sum_l2);
    F32 best = found.scale * sum_lx;
    F32 won_lx = select(equal(sum_l2, zero), zero, sum_lx);
    const auto consider = [&](const F32* inverse, const F32* lx, const F32* l2) {
      for (int k = 0; k < kTogether; ++k) {
        const Mask better = less(zero, l2[k]) & less(best * l2[k], lx[k] * lx[k]);
        const F32 scale = lx[k] / l2[k];
        found.scale = select(better, scale, found.scale);
        found.inverse = select(better, inverse[k], found.inverse);
        best = select(better, scale * lx[k], best);
        won_lx = select(better, lx[k], won_lx);
      }
    };
    F32 inverses[kTogether], lx[kTogether], l2[kTogether];
#pragma GCC unroll 3
    for (int step = -kSteps; step < 0; step += kTogether) {
      for (int k = 0; k < kTogether; ++k) inverses[k] = inverse_of(step + k);
      add_up<false>(elements, inverses, lx, l2);
      consider(inverses, lx, l2);
    }
#pragma GCC unroll 3
    for (int step = 1; step <= kSteps; step += kTogether) {
      for (int k = 0; k < kTogether; ++k) inverses[k] = inverse_of(step + k);
      add_up<true>(elements, inverses, lx, l2);
      consider(inverses, lx, l2);
    }
    const Mask positive = less(zero, first);
    found.inverse = select(positive, negate(found.inverse), found.inverse);
    // A quotient may underflow to a zero with a sign; that of a sum of zeros is +0.
    found.scale = select(positive & less(zero, won_lx), negate(found.scale), found.scale);
    found.scale = select(found.zero, zero, found.scale);
    // One NaN for all, that of x86: its sign would show in the bytes, and instruction sets give different ones.
    found.scale = select(equal(found.scale, found.scale), found.scale, splat(-__builtin_nanf("")));
    return found;
  }

  // The level of inverse * x, from 0 to 2 top - 1. As nearest_int of ggml and its bounds, which are integers and so may
  // come first; NaN gives 2 top - 1.
  FASTCONV_INLINE static I32 levels(F32 scaled) {
    const F32 top = splat(static_cast<float>(kTop));
    return truncate(round_even(max(min(scaled, top - splat(1.0f)), negate(top))) + top);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
