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

// Whether `nearest`, of scaled = a * (1 / step), is nearest_int(a / step) or, beyond 40, some integer on the same side
// of zero: for |step| from 2^-24 to 2^22 as products of an f16 and a small integer are, or anything else.
//
// Three roundings of at most 2^-24 each part the product from the rounded quotient: less than 2^-16 within 40. Unless
// it is as near to a half, both round to the same integer, and beyond 40 both stay on one side. False, for all else, is
// always right: beyond what nearest_int rounds, for NaN and infinity, and so for a step of zero.
FASTCONV_INLINE Mask is_clear(F32 scaled, F32 nearest) {
  return less(abs(scaled - nearest), splat(0.5f - 0x1p-16f)) & less(abs(scaled), splat(0x1p21f));
}
FASTCONV_INLINE bool all(Mask m) { return lane_bits(m) == (1u << kLanes) - 1; }

// nearest_int(a / step) as far as is_clear can tell, inverse being 1 / step.
FASTCONV_INLINE I32 nearest_quotient(F32 a, float step, float inverse) {
  const F32 scaled = a * splat(inverse), nearest = round_even(scaled);
  if (__builtin_expect(all(is_clear(scaled, nearest)), 1)) return truncate(nearest);
  return nearest_int(nan_to_zero(a / splat(step)));
}

// Policy: kN elements a sub-block, kTop (the largest level), kTries that scale by (kStart + k * kStep + kTop) / range,
// kAbsolute (errors count by magnitude instead of square), kGuarded (levels of tries are clamped before they are
// rounded: make_qkx3_quants), kJumps (few enough levels change from try to try that it pays to pass over tries).
template <class Policy>
struct AffineSearch {
  static constexpr int kN = Policy::kN;
  static constexpr float kTop = Policy::kTop;

  // Lane s: sub-block s. Levels are stored while x is loaded: 4096 bytes behind x[i], level[i] would have the same
  // place in its page, and a processor that compares no more of two addresses at first lets the loads wait for the
  // stores. Whether it was misled depended on the physical pages of the stack; where it was, a search took 1.6 times as
  // long.
  struct Columns {
    F32 x[kN];
    F32 level[kN];  // scratch
    F32 weight[kN];
  };
  struct Found {
    F32 scale, min;
    F32 weight_sum;
    F32 inverse, level_min;  // the levels of the try that won are those of inverse * (x - level_min)
    F32 tries_won;           // 0: the levels are those of the first fit
  };

  static constexpr float numerator(int k) { return Policy::kStart + Policy::kStep * static_cast<float>(k) + kTop; }

  // What is known of the ranges of a try: nothing, that they are ordinary, that no level is below zero besides, or
  // that they are one of these two.
  enum class Range { any, ordinary, inside, either };

  // The state of the search of one register of sub-blocks.
  struct Track {
    const F32* x;
    const F32* weight;
    F32* level;
    int r;
    reg::F weight_sum, x_sum, high;
    reg::F least_range;
    reg::F limit;  // where min is below it, no level of a try is below zero
    bool below_limit;
    reg::M flat, ordinary, won;
    reg::F scale, min, error, won_inverse, won_min;
    reg::F range, inverse, sum_l, sum_l2, sum_xl;  // of the try in work
    reg::F try_scale, try_min;
    reg::M regular;
    reg::F k, reach;  // where tries are passed over: the lane's try; its largest (x - min) / (level + 1/2)

    FASTCONV_INLINE void begin(const Columns& columns, F32* levels, int which) {
      x = columns.x;
      weight = columns.weight;
      level = levels;
      r = which;
      reg::F low = x[0].r[r];
      high = low;
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
      const reg::F zero = reg::splat(0.0f), one = reg::splat(1.0f);
      min = reg::min(zero, low);  // a zero keeps its sign, NaN stays
      flat = reg::equal(high, min);
      // A flat sub-block has the levels 0 and never finds less than its first error, 0: its range is of no account.
      high = reg::select(flat, reg::add(min, reg::max(one, reg::negate(min))), high);
      const reg::F spread = reg::sub(high, low);
      least_range = reg::max(reg::splat(0x1p-100f), reg::mul(reg::splat(0x1p-16f), spread));
      set_limit(low, spread);
      ordinary = reg::equal(zero, zero);
      set_inverse(reg::splat(kTop));
      error = zero;
      won = reg::less(zero, zero);
      won_min = min;
      won_inverse = inverse;
      scale = reg::div(one, inverse);
      try_scale = scale;
      try_min = min;
      k = reach = zero;
    }

    FASTCONV_INLINE static bool all(reg::M m) { return reg::lane_bits(m) == (1u << reg::kWidth) - 1; }

    // With `over`, how far min is above low, no inverse * (low - min) is at -1/2 or below where over is less than
    // range / (2 numerator), for the largest numerator. As range is high - low - over, that is so where over is less
    // than spread / (1 + 2 numerator): 2^-10 of it is left for the roundings of differences and quotients, and 2^-22 of
    // low for that of their sum.
    FASTCONV_INLINE void set_limit(reg::F low, reg::F spread) {
      constexpr float kRoom = (1 - 0x1p-10f) / (1 + 2 * numerator(Policy::kTries - 1));
      const reg::F room = reg::add(reg::mul(spread, reg::splat(kRoom)), reg::mul(low, reg::splat(0x1p-22f)));
      limit = reg::add(low, room);
      below_limit = all(reg::less(min, limit));
    }

    // Before all of a try. Where all ranges were ordinary, nothing overflowed or became denormal, and every
    // inverse * (x - min) is above -2^22, within what nearest_int rounds: no x is below low, by as much below min as
    // high is above low at most, for a range above 0. Rounding is monotone, and no x is above high, so that it is below
    // kTop + 1/2 as well for a numerator below kTop + 0.45: two roundings part inverse * range from the numerator. So a
    // level is inverse * (x - min), bounded by 0 and, where that is needed, kTop, to the nearest integer.
    // NaN in x leaves no try that wins, in ordinary ranges or others.
    FASTCONV_INLINE void set_inverse(reg::F numerator) {
      range = reg::sub(high, min);
      ordinary =
          reg::mask_and(ordinary, reg::mask_and(reg::less(least_range, range), reg::less(range, reg::splat(0x1p100f))));
      inverse = reg::div(numerator, range);
    }
    static constexpr bool in_bounds(float numerator) { return numerator < kTop + 0.45f; }

    // As integers, since they compare on more ports: a negative float stays what it is.
    FASTCONV_INLINE static reg::F at_most_top(reg::F a) {
      return reg::from_bits(reg::min(reg::bits(a), reg::bits(reg::splat(kTop))));
    }
    // The integer of ggml's nearest_int, whatever it makes of the bits.
    FASTCONV_INLINE static reg::F any_first_level(reg::F scaled) {
      const reg::I low = reg::bit_and(reg::bits(reg::add(scaled, reg::splat(0x1.8p23f))), reg::splat(0x007FFFFF));
      const reg::I q = reg::sub(low, reg::splat(0x00400000));
      return reg::to_float(reg::max(reg::min(q, reg::splat(static_cast<int32_t>(kTop))), reg::splat(0)));
    }
    template <Range kRange, bool kClampTop>
    FASTCONV_INLINE static reg::F level_of(reg::F scaled) {
      if (kRange == Range::any) {
        if (!Policy::kGuarded) return any_first_level(scaled);
        const reg::F positive = reg::max(scaled, reg::splat(0.0f));  // 0 for NaN
        return reg::round_even(reg::min(positive, reg::splat(kTop)));
      }
      if (kRange == Range::ordinary) scaled = reg::positive_or_zero(scaled);
      if (kClampTop) scaled = at_most_top(scaled);
      return reg::round_even(scaled);
    }

    template <bool kOrdinary>
    FASTCONV_INLINE void first_levels() {
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) {
        const reg::F scaled = reg::mul(inverse, reg::sub(x[i].r[r], min));  // not below zero where ordinary
        level[i].r[r] = kOrdinary ? reg::round_even(scaled) : any_first_level(scaled);
      }
    }

    // Two elements at a time, their levels beside the sums of the two before: a processor does not look far enough
    // ahead to find that much to do by itself. Measured to be 4 % faster than one after the other.
    template <Range kRange, bool kClampTop>
    FASTCONV_INLINE void levels(float numerator) {
      set_inverse(reg::splat(numerator));
      if (kRange != Range::either)
        levels_within<kRange, kClampTop>();
      else if (below_limit)
        levels_within<Range::inside, kClampTop>();
      else
        levels_within<Range::ordinary, kClampTop>();
    }
    template <Range kRange, bool kClampTop>
    FASTCONV_INLINE void levels_within() {
      sum_l = sum_l2 = sum_xl = reg::splat(0.0f);
      reg::F even[2], odd[2];
      levels_of<kRange, kClampTop>(0, even);
#pragma GCC unroll 1
      for (int i = 0; i < kN - 4; i += 4) {
        levels_of<kRange, kClampTop>(i + 2, odd);
        add_up(i, even);
        levels_of<kRange, kClampTop>(i + 4, even);
        add_up(i + 2, odd);
      }
      levels_of<kRange, kClampTop>(kN - 2, odd);
      add_up(kN - 4, even);
      add_up(kN - 2, odd);
    }
    template <Range kRange, bool kClampTop>
    FASTCONV_INLINE void levels_of(int i, reg::F (&q)[2]) const {
      const reg::F a = reg::sub(x[i].r[r], min), b = reg::sub(x[i + 1].r[r], min);
      const reg::F scaled_a = reg::mul(inverse, a), scaled_b = reg::mul(inverse, b);
      q[0] = level_of<kRange, kClampTop>(scaled_a);
      q[1] = level_of<kRange, kClampTop>(scaled_b);
    }
    FASTCONV_INLINE void add_up(int i, const reg::F (&q)[2]) {
      level[i].r[r] = q[0];
      level[i + 1].r[r] = q[1];
      const reg::F wq[2] = {reg::mul(weight[i].r[r], q[0]), reg::mul(weight[i + 1].r[r], q[1])};
      sum_l = reg::add(reg::add(sum_l, wq[0]), wq[1]);
      const reg::F l2[2] = {reg::mul(wq[0], q[0]), reg::mul(wq[1], q[1])};
      sum_l2 = reg::add(reg::add(sum_l2, l2[0]), l2[1]);
      const reg::F xl[2] = {reg::mul(wq[0], x[i].r[r]), reg::mul(wq[1], x[i + 1].r[r])};
      sum_xl = reg::add(reg::add(sum_xl, xl[0]), xl[1]);
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
        const reg::F q = level_of<Range::ordinary, kClampTop>(reg::mul(inverse, above));
        const reg::F wq = reg::mul(weight[i].r[r], q);
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
      const reg::F from = reg::mul(reg::div(range, reach), reg::splat(1 - 0x1p-10f));
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
      set_inverse(numerator);
      if (all(reg::less(numerator, reg::splat(kTop + 0.45f))))
        add_up_and_reach<false>();
      else
        add_up_and_reach<true>();
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

    FASTCONV_INLINE static reg::F magnitude(reg::F a) {
      return reg::from_bits(reg::bit_and(reg::bits(a), reg::splat(0x7FFFFFFF)));
    }
    FASTCONV_INLINE reg::F total_error() const {
      reg::F sum = reg::splat(0.0f);
      // All but the sum of so many side by side: as in `levels`.
      constexpr int kRun = kN / 4;
#pragma GCC unroll 2
      for (int i = 0; i < kN; i += kRun) {
        reg::F off[kRun];
#pragma GCC unroll 8
        for (int k = 0; k < kRun; ++k) off[k] = reg::mul(try_scale, level[i + k].r[r]);
#pragma GCC unroll 8
        for (int k = 0; k < kRun; ++k) off[k] = reg::sub(reg::add(off[k], try_min), x[i + k].r[r]);
#pragma GCC unroll 8
        for (int k = 0; k < kRun; ++k)
          off[k] = reg::mul(weight[i + k].r[r], Policy::kAbsolute ? magnitude(off[k]) : reg::mul(off[k], off[k]));
#pragma GCC unroll 8
        for (int k = 0; k < kRun; ++k) sum = reg::add(sum, off[k]);
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
      won = reg::mask_or(won, better);
      error = reg::select(better, found, error);
      scale = reg::select(better, try_scale, scale);
      min = reg::select(better, try_min, min);
      below_limit = all(reg::less(min, limit));
    }

    FASTCONV_INLINE void end(Found& found) {
      const reg::F zero = reg::splat(0.0f);
      found.scale.r[r] = reg::select(flat, zero, scale);
      found.min.r[r] = reg::negate(min);
      found.weight_sum.r[r] = weight_sum;
      found.inverse.r[r] = reg::select(flat, zero, won_inverse);
      found.level_min.r[r] = reg::select(flat, zero, won_min);
      found.tries_won.r[r] = reg::select(won, reg::splat(1.0f), zero);
    }
  };

  // Two registers at a time: the divisions and comparisons at the end of the one's try run beside the sums of the
  // other's.
  template <bool kOrdinary>
  FASTCONV_INLINE static void pair(Track& a, Track& b) {
    a.template first_levels<kOrdinary>();
    b.template first_levels<kOrdinary>();
    a.error = a.total_error();
    b.error = b.total_error();
    int k = 0;
    for (; k < Policy::kTries && Track::in_bounds(numerator(k)); ++k) both<kOrdinary, false>(a, b, numerator(k));
    for (; k < Policy::kTries; ++k) both<kOrdinary, true>(a, b, numerator(k));
  }
  // Sub-blocks of 16 are beyond the limit in every fourth try, those of 32 in every tenth: these share a branch.
  template <bool kOrdinary, bool kClampTop>
  FASTCONV_INLINE static void both(Track& a, Track& b, float numerator) {
    if (!kOrdinary)
      both_within<Range::any, kClampTop>(a, b, numerator);
    else if (kN == 16)
      both_within<Range::either, kClampTop>(a, b, numerator);
    else if (a.below_limit & b.below_limit)
      both_within<Range::inside, kClampTop>(a, b, numerator);
    else
      both_within<Range::ordinary, kClampTop>(a, b, numerator);
  }
  template <Range kRange, bool kClampTop>
  FASTCONV_INLINE static void both_within(Track& a, Track& b, float numerator) {
    a.template levels<kRange, kClampTop>(numerator);
    a.solve();
    b.template levels<kRange, kClampTop>(numerator);
    b.solve();
    a.consider();
    b.consider();
  }
  FASTCONV_INLINE static void jumping_pair(Track& a, Track& b) {
    a.template first_levels<true>();
    b.template first_levels<true>();
    a.error = a.total_error();
    b.error = b.total_error();
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
  }

  // Sixteen sub-blocks a group.
  static constexpr int kGroups = kRegs == 1 ? 2 : 1;

  FASTCONV_INLINE static void begin(Columns* columns, int first, Track (&tracks)[2]) {
    for (int k = 0; k < 2; ++k) {
      Columns& group = columns[(first + k) / kRegs];
      tracks[k].begin(group, group.level, (first + k) % kRegs);
    }
  }
  static __attribute__((noinline, cold)) void search_anew(Columns* columns, int first, Track (&tracks)[2]) {
    begin(columns, first, tracks);
    pair<false>(tracks[0], tracks[1]);
  }

  static void search(Columns* columns, Found* found) {
#pragma GCC unroll 1
    for (int i = 0; i < kGroups * kRegs; i += 2) {
      Track tracks[2];
      begin(columns, i, tracks);
      if constexpr (Policy::kJumps)
        jumping_pair(tracks[0], tracks[1]);
      else
        pair<true>(tracks[0], tracks[1]);
      // Whether a range turns out not to be ordinary is seen at the end: it hardly ever does.
      if (__builtin_expect(!Track::all(reg::mask_and(tracks[0].ordinary, tracks[1].ordinary)), 0))
        search_anew(columns, i, tracks);
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
