// The search for the scale and the minimum of sub-blocks, x = scale * level + min with min <= 0, by weighted least
// squares over a fixed series of tries. Knows no block type: which tries there are is a Policy.
// Source: make_qkx2_quants and make_qkx3_quants in ggml-quants.c of llama.cpp b11434.
//
// One lane is one sub-block, so that every sum adds its terms in ggml's scalar order and every product is rounded as
// ggml rounds it: what follows is ggml's to the bit, overflow and underflow included.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// A NaN has the payload of what it came from, or the sign that the processor gives: one for all, that of x86.
FASTCONV_INLINE F32 one_nan(F32 a) { return select(equal(a, a), a, splat(-__builtin_nanf(""))); }
FASTCONV_INLINE F32 nan_to_zero(F32 a) { return select(equal(a, a), a, splat(0.0f)); }

// nearest_int(a / step) where that is within 40 of zero, else some integer as far from zero on the same side;
// nearest_int itself beyond 2^21. inverse: 1 / step, for |step| from 2^-24 to 2^22 as products of an f16 and a small
// integer are, or anything else.
//
// Three roundings of at most 2^-24 each part a * inverse from the rounded quotient: less than 2^-16 within 40. Unless
// the product is as near to a half, both round to the same integer, and beyond 40 both stay on one side. All else, NaN
// and infinity included, is divided.
FASTCONV_INLINE I32 nearest_quotient(F32 a, float step, float inverse) {
  const F32 scaled = a * splat(inverse), nearest = round_even(scaled);
  const Mask clear = less(abs(scaled - nearest), splat(0.5f - 0x1p-16f)) & less(abs(scaled), splat(0x1p21f));
  if (__builtin_expect(lane_bits(clear) == (1u << kLanes) - 1, 1)) return truncate(nearest);
  return nearest_int(nan_to_zero(a / splat(step)));
}

// Policy: kN elements a sub-block, kTop (the largest level), kTries that scale by (kStart + k * kStep + kTop) / range,
// kAbsolute (errors count by magnitude instead of square), kGuarded (levels of tries are clamped before they are
// rounded: make_qkx3_quants), kJumps (few enough levels change from try to try that it pays to pass over tries).
template <class Policy>
struct AffineSearch {
  static constexpr int kN = Policy::kN;
  static constexpr float kTop = Policy::kTop;

  // Lane s: sub-block s.
  struct Columns {
    F32 x[kN];
    F32 weight[kN];
    F32 level[kN];  // scratch
  };
  struct Found {
    F32 scale, min;
    F32 weight_sum;
    F32 inverse, level_min;  // the levels of the try that won are those of inverse * (x - level_min)
    F32 tries_won;           // 0: the levels are those of the first fit
  };

  // The state of the search of one register of sub-blocks.
  struct Track {
    const F32* x;
    const F32* weight;
    F32* level;
    int r;
    reg::F weight_sum, x_sum, low, high;
    reg::M flat;
    reg::F scale, min, error, won_inverse, won_min;
    reg::F tries_won;
    reg::F inverse, sum_l, sum_l2, sum_xl;  // of the try in work
    reg::F try_scale, try_min;
    reg::M regular;
    reg::F k, reach;  // where tries are passed over: the lane's try; its largest (x - min) / (level + 1/2)

    FASTCONV_INLINE void begin(const Columns& columns, F32* levels, int which) {
      x = columns.x;
      weight = columns.weight;
      level = levels;
      r = which;
      low = high = x[0].r[r];
      weight_sum = weight[0].r[r];
      x_sum = reg::mul(weight_sum, low);
#pragma GCC unroll 4
      for (int i = 1; i < kN; ++i) {
        const reg::F v = x[i].r[r], w = weight[i].r[r];
        low = reg::min(v, low);
        high = reg::max(v, high);
        weight_sum = reg::add(weight_sum, w);
        x_sum = reg::add(x_sum, reg::mul(w, v));
      }
      min = reg::min(reg::splat(0.0f), low);  // a zero keeps its sign, NaN stays
      flat = reg::equal(high, min);
      error = reg::splat(0.0f);
      tries_won = error;
      won_min = min;
      set_inverse(kTop);
      won_inverse = inverse;
      scale = reg::div(reg::splat(1.0f), inverse);
      try_scale = scale;
      try_min = min;
      k = reach = reg::splat(0.0f);
    }

    FASTCONV_INLINE static bool all(reg::M m) { return reg::lane_bits(m) == (1u << reg::kWidth) - 1; }

    // A flat sub-block has the levels 0 and never finds less than its first error, 0: its range is of no account.
    FASTCONV_INLINE reg::F range() const { return reg::select(flat, reg::splat(1.0f), reg::sub(high, min)); }
    FASTCONV_INLINE void set_inverse(float numerator) { inverse = reg::div(reg::splat(numerator), range()); }

    // No x is above high or below low and rounding is monotone, so every inverse * (x - min) lies between those of low
    // and high, for a positive range. Where the one is above -2^22, so within what nearest_int rounds, and the other
    // below kTop + 1/2, or is clamped to kTop, a level is max(inverse * (x - min), 0) to the nearest integer; and
    // where the one is above -1/2, as it mostly is, the maximum with 0 changes nothing but the sign of a zero, which no
    // sum shows. NaN in x leaves no try that wins, on all ways.
    enum class Way { inside, clamped, irregular };
    template <bool kClampTop>
    FASTCONV_INLINE Way way() const {
      const reg::F range = this->range(), most = reg::mul(inverse, range),
                   least = reg::mul(inverse, reg::sub(low, min));
      const reg::M fine = reg::mask_and(reg::less(reg::splat(0.0f), range),
                                        reg::less(most, reg::splat(kClampTop ? 0x1p22f : kTop + 0.5f)));
      if (__builtin_expect(all(reg::mask_and(fine, reg::less(reg::splat(-0.5f), least))), 1)) return Way::inside;
      return all(reg::mask_and(fine, reg::less(reg::splat(-0x1p22f), least))) ? Way::clamped : Way::irregular;
    }

    // As integers, since they compare on more ports: a negative float stays what it is.
    FASTCONV_INLINE static reg::F at_most_top(reg::F a) {
      return reg::from_bits(reg::min(reg::bits(a), reg::bits(reg::splat(kTop))));
    }
    template <bool kClampTop, bool kClampBottom>
    FASTCONV_INLINE reg::F regular_level(reg::F v) const {
      reg::F scaled = reg::mul(inverse, reg::sub(v, min));
      if (kClampBottom) scaled = reg::positive_or_zero(scaled);
      if (kClampTop) scaled = at_most_top(scaled);
      return reg::round_even(scaled);
    }
    FASTCONV_INLINE reg::F guarded_level(reg::F v) const {
      const reg::F positive = reg::max(reg::mul(inverse, reg::sub(v, min)), reg::splat(0.0f));  // 0 for NaN
      return reg::round_even(reg::min(positive, reg::splat(kTop)));
    }
    FASTCONV_INLINE reg::F irregular_level(reg::F v) const {
      const reg::F scaled = reg::mul(inverse, reg::sub(v, min));
      const reg::I low = reg::bit_and(reg::bits(reg::add(scaled, reg::splat(0x1.8p23f))), reg::splat(0x007FFFFF));
      const reg::I q = reg::sub(low, reg::splat(0x00400000));
      return reg::to_float(reg::max(reg::min(q, reg::splat(static_cast<int32_t>(kTop))), reg::splat(0)));
    }

    template <class Level>
    FASTCONV_INLINE void add_up(Level level_of) {
      sum_l = sum_l2 = sum_xl = reg::splat(0.0f);
      // The levels of four before their sums: measured to be 6 % faster than one after the other.
      constexpr int kRun = 4;
#pragma GCC unroll 2
      for (int i = 0; i < kN; i += kRun) {
        reg::F q[kRun], wq[kRun];
#pragma GCC unroll 4
        for (int k = 0; k < kRun; ++k) {
          q[k] = level_of(x[i + k].r[r]);
          wq[k] = reg::mul(weight[i + k].r[r], q[k]);
          level[i + k].r[r] = q[k];
        }
#pragma GCC unroll 4
        for (int k = 0; k < kRun; ++k) {
          sum_l = reg::add(sum_l, wq[k]);
          sum_l2 = reg::add(sum_l2, reg::mul(wq[k], q[k]));
          sum_xl = reg::add(sum_xl, reg::mul(wq[k], x[i + k].r[r]));
        }
      }
    }

    template <bool kClampTop>
    FASTCONV_INLINE void levels(float numerator) {
      set_inverse(numerator);
      const Way found = way<kClampTop>();
      if (__builtin_expect(found == Way::inside, 1))
        add_up([this](reg::F v) __attribute__((always_inline)) { return regular_level<kClampTop, false>(v); });
      else if (found == Way::clamped)
        add_up([this](reg::F v) __attribute__((always_inline)) { return regular_level<kClampTop, true>(v); });
      else
        irregular_levels();
    }
    __attribute__((noinline)) void irregular_levels() {
      if (Policy::kGuarded)
        add_up([this](reg::F v) __attribute__((always_inline)) { return guarded_level(v); });
      else
        add_up([this](reg::F v) __attribute__((always_inline)) { return irregular_level(v); });
    }
    // Before any try, min is not above low.
    FASTCONV_INLINE void first_levels() {
      if (way<false>() == Way::inside) {
#pragma GCC unroll 4
        for (int i = 0; i < kN; ++i) level[i].r[r] = regular_level<false, false>(x[i].r[r]);
      } else {
        for (int i = 0; i < kN; ++i) level[i].r[r] = irregular_level(x[i].r[r]);
      }
    }

    // A level q rises to q + 1 where the numerator reaches range / ((x - min) / (q + 1/2)), but for roundings and the
    // 2^-11 of rough_inverse, and kTop never does. Until the first one rises, tries have the same levels, so the same
    // sums and the same error, which was not less then and is not now: they are passed over. A try that wins moves the
    // minimum, and with it all levels: then the next one is looked at.
    template <bool kClampTop>
    FASTCONV_INLINE void add_up_and_reach() {
      const reg::F half = reg::splat(0.5f), zero = reg::splat(0.0f), top = reg::splat(kTop);
      sum_l = sum_l2 = sum_xl = reach = zero;
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) {
        const reg::F v = x[i].r[r], above = reg::sub(v, min);
        reg::F scaled = reg::positive_or_zero(reg::mul(inverse, above));
        if (kClampTop) scaled = at_most_top(scaled);
        const reg::F q = reg::round_even(scaled), wq = reg::mul(weight[i].r[r], q);
        reg::F ratio = reg::mul(above, reg::rough_inverse(reg::add(q, half)));
        if (kClampTop) ratio = reg::select(reg::equal(q, top), zero, ratio);
        reach = reg::max(ratio, reach);
        level[i].r[r] = q;
        sum_l = reg::add(sum_l, wq);
        sum_l2 = reg::add(sum_l2, reg::mul(wq, q));
        sum_xl = reg::add(sum_xl, reg::mul(wq, v));
      }
    }
    // From the numerator of the first try that may differ to its number, which roundings may make one less.
    FASTCONV_INLINE reg::F next_try() const {
      const reg::F from = reg::mul(reg::div(range(), reach), reg::splat(1 - 0x1p-10f));
      const reg::F at = reg::mul(reg::sub(from, reg::splat(Policy::kStart + kTop)), reg::splat(1 / Policy::kStep));
      // Without any level that can rise `at` is infinite, or NaN.
      const reg::F before = reg::min(reg::splat(2.0f * Policy::kTries), reg::sub(at, reg::splat(0.01f)));
      const reg::F next = reg::add(reg::to_float(reg::truncate(before)), reg::splat(1.0f));
      return reg::max(next, reg::add(k, reg::splat(1.0f)));
    }

    FASTCONV_INLINE reg::M unfinished() const { return reg::less(k, reg::splat(static_cast<float>(Policy::kTries))); }
    FASTCONV_INLINE void next_levels() {
      const reg::F numerator =
          reg::add(reg::add(reg::splat(Policy::kStart), reg::mul(reg::splat(Policy::kStep), k)), reg::splat(kTop));
      inverse = reg::div(numerator, range());
      if (way<false>() != Way::irregular) {
        add_up_and_reach<false>();
      } else if (way<true>() != Way::irregular) {
        add_up_and_reach<true>();
      } else {
        irregular_levels();
        reach = range();  // no try is passed over
      }
    }
    FASTCONV_INLINE void consider_and_jump() {
      const reg::F found = total_error();
      const reg::M better = reg::mask_and(reg::mask_and(regular, unfinished()), reg::less(found, error));
      const reg::F next = next_try();
      take(better, found);
      k = reg::select(better, reg::add(k, reg::splat(1.0f)), next);
    }

    FASTCONV_INLINE void solve() {
      const reg::F zero = reg::splat(0.0f);
      const reg::F det = reg::sub(reg::mul(weight_sum, sum_l2), reg::mul(sum_l, sum_l));
      try_scale = reg::div(reg::sub(reg::mul(weight_sum, sum_xl), reg::mul(x_sum, sum_l)), det);
      try_min = reg::div(reg::sub(reg::mul(sum_l2, x_sum), reg::mul(sum_l, sum_xl)), det);
      regular = reg::less(zero, det);
      const reg::M positive = reg::less(zero, try_min);
      if (reg::lane_bits(positive) != 0) {
        try_min = reg::select(positive, zero, try_min);
        try_scale = reg::select(positive, reg::div(sum_xl, sum_l2), try_scale);
      }
    }

    FASTCONV_INLINE reg::F total_error() const {
      reg::F sum = reg::splat(0.0f);
#pragma GCC unroll 8
      for (int i = 0; i < kN; ++i) {
        const reg::F off = reg::sub(reg::add(reg::mul(try_scale, level[i].r[r]), try_min), x[i].r[r]);
        const reg::F counted = Policy::kAbsolute ? reg::from_bits(reg::bit_and(reg::bits(off), reg::splat(0x7FFFFFFF)))
                                                 : reg::mul(off, off);
        sum = reg::add(sum, reg::mul(weight[i].r[r], counted));
      }
      return sum;
    }

    FASTCONV_INLINE void consider() {
      const reg::F found = total_error();
      take(reg::mask_and(regular, reg::less(found, error)), found);
    }
    FASTCONV_INLINE void take(reg::M better, reg::F found) {
      won_inverse = reg::select(better, inverse, won_inverse);
      won_min = reg::select(better, min, won_min);
      tries_won = reg::select(better, reg::splat(1.0f), tries_won);
      error = reg::select(better, found, error);
      scale = reg::select(better, try_scale, scale);
      min = reg::select(better, try_min, min);
    }

    FASTCONV_INLINE void end(Found& found) {
      const reg::F zero = reg::splat(0.0f);
      found.scale.r[r] = reg::select(flat, zero, scale);
      found.min.r[r] = reg::negate(min);
      found.weight_sum.r[r] = weight_sum;
      found.inverse.r[r] = reg::select(flat, zero, won_inverse);
      found.level_min.r[r] = reg::select(flat, zero, won_min);
      found.tries_won.r[r] = tries_won;
    }
  };

  // Two registers at a time: the divisions and comparisons at the end of the one's try run beside the sums of the
  // other's.
  FASTCONV_INLINE static void pair(Track& a, Track& b) {
    a.first_levels();
    b.first_levels();
    a.error = a.total_error();
    b.error = b.total_error();
    if constexpr (Policy::kJumps) {
      for (;;) {
        const bool go_a = reg::lane_bits(a.unfinished()) != 0, go_b = reg::lane_bits(b.unfinished()) != 0;
        if (!go_a && !go_b) break;
        if (go_a) {
          a.next_levels();
          a.solve();
        }
        if (go_b) {
          b.next_levels();
          b.solve();
        }
        if (go_a) a.consider_and_jump();
        if (go_b) b.consider_and_jump();
      }
    } else {
      // As far as the numerator stays below kTop + 0.45, two roundings leave every product below kTop + 0.5.
      int k = 0;
      for (; k < Policy::kTries && numerator(k) < kTop + 0.45f; ++k) both<false>(a, b, numerator(k));
      for (; k < Policy::kTries; ++k) both<true>(a, b, numerator(k));
    }
  }
  static constexpr float numerator(int k) { return Policy::kStart + Policy::kStep * static_cast<float>(k) + kTop; }
  template <bool kClampTop>
  FASTCONV_INLINE static void both(Track& a, Track& b, float numerator) {
    a.template levels<kClampTop>(numerator);
    a.solve();
    b.template levels<kClampTop>(numerator);
    b.solve();
    a.consider();
    b.consider();
  }

  // Sixteen sub-blocks a group.
  static constexpr int kGroups = kRegs == 1 ? 2 : 1;

  static void search(Columns* columns, Found* found) {
#pragma GCC unroll 1
    for (int i = 0; i < kGroups * kRegs; i += 2) {
      Track tracks[2];
      for (int k = 0; k < 2; ++k)
        tracks[k].begin(columns[(i + k) / kRegs], columns[(i + k) / kRegs].level, (i + k) % kRegs);
      pair(tracks[0], tracks[1]);
      for (int k = 0; k < 2; ++k) tracks[k].end(found[(i + k) / kRegs]);
    }
  }
};

// The tries of all types where importance is heeded: (top - 0.9 + k / 20) / (max - min), guarded.
template <int kElements, int kLevels>
struct WeightedTries {
  static constexpr int kN = kElements;
  static constexpr float kTop = kLevels;
  static constexpr int kTries = 37;
  static constexpr float kStart = -0.9f, kStep = 0.05f;
  static constexpr bool kAbsolute = false, kGuarded = true, kJumps = kElements == 16;
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
