// The search for the scale of sub-blocks of sixteen, x = scale * level with levels from -4 to 3: one scale from the
// largest magnitude, then one element at a time to the level that fits the scale of all others, with x * x as weight.
// Source: make_q3_quants in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// One lane is one sub-block, so that every sum adds its terms in ggml's order.
struct RefinedSearch {
  static constexpr int kN = 16;
  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS
  static constexpr int kRounds = 5;

  FASTCONV_INLINE static bool all(reg::M m) { return reg::lane_bits(m) == (1u << reg::kWidth) - 1; }
  FASTCONV_INLINE static reg::F magnitude(reg::F a) {
    return reg::from_bits(reg::bit_and(reg::bits(a), reg::splat(0x7FFFFFFF)));
  }

  // Over x * x * x * level and x * x * level * level.
  struct Sums {
    reg::F lx, l2;
  };

  // What decides whether an element stays, for one state of the sums.
  struct Rest {
    reg::F ratio, half, limit;
  };

  // A register of sub-blocks in work. x in the lanes of sums is inverse to level in sign: `first` is the first element
  // of the largest magnitude of each, its level is -4.
  struct Track {
    reg::F x[kN], level[kN];
    reg::F lx[kN];  // the element's part of sums.lx
    reg::F first;
    Sums sums;

    FASTCONV_INLINE void begin() {
      find_first();
      const reg::F inverse = reg::div(reg::splat(-4.0f), first);
      first_levels(inverse);
      // A NaN in x makes one of the sum.
      if (__builtin_expect(!all(reg::equal(sums.lx, sums.lx)), 0)) {
        for (reg::F& v : x) v = reg::select(reg::equal(v, v), v, reg::splat(0.0f));
        first_levels(inverse);
      }
    }

    // +0 where all are 0; NaN apart.
    FASTCONV_INLINE void find_first() {
      const reg::F zero = reg::splat(0.0f);
      reg::F low = zero, high = zero;
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) {
        low = reg::min(x[i], low);
        high = reg::max(x[i], high);
      }
      const reg::F depth = reg::negate(low);
      first = reg::select(reg::less(high, depth), low, high);
      const reg::M tied = reg::mask_and(reg::equal(high, depth), reg::less(zero, high));
      if (__builtin_expect(reg::lane_bits(tied) != 0, 0))
        for (int i = kN - 1; i >= 0; --i)
          first = reg::select(reg::equal(magnitude(x[i]), magnitude(first)), x[i], first);
    }

    FASTCONV_INLINE void first_levels(reg::F inverse) {
      reg::F sum_lx = reg::splat(0.0f), sum_l2 = sum_lx;
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) {
        const reg::F v = x[i], w = reg::mul(v, v);
        // No |x| exceeds |first|: the product is within 4, but for a rounding, and cannot round to -5.
        const reg::F to = reg::min(reg::round_even(reg::mul(inverse, v)), reg::splat(3.0f));
        level[i] = to;
        lx[i] = reg::mul(reg::mul(w, v), to);
        sum_lx = reg::add(sum_lx, lx[i]);
        sum_l2 = reg::add(sum_l2, reg::mul(reg::mul(w, to), to));
      }
      sums = {sum_lx, sum_l2};
    }

    // ggml rounds x * (l2 - x * x * level * level) / (lx - x * x * x * level), of the sums lx and l2, and bounds it to
    // -4 ... 3: is that the level there is, ggml leaves it. Multiplied out, two terms cancel: the quotient is nearer to
    // the level than a half if |x * l2 / lx - level| is below a half of 1 - x * x * x * level / lx. Where the level is
    // 3, so it is for all larger x * l2 / lx too, where it is -4, for all smaller ones: those count as 3 and -4.
    //
    // Each rounding parts the two sides by 2^-24 of what it rounds: of lx, that is 18 units of 2^-24 for the four of
    // ggml's quotient, within 4.5; 24 for the six of the terms that cancel, the level times at most lx; 11 for the
    // seven here. Underflow adds less than one to an lx above 2^-80, and nothing overflows. Where 3 and -4 stand for
    // what is beyond, relative errors change no side. An element below the limit leaves 2^-17 of lx to divide by: with
    // |x * l2 / lx| below 16 the quotient is below 2^22, within what nearest_int rounds.
    FASTCONV_INLINE Rest rest(Sums now) const {
      const reg::F ratio = reg::div(now.l2, now.lx);
      const reg::M usual = reg::mask_and(reg::mask_and(reg::less(reg::splat(0x1p-80f), now.lx),  //
                                                       reg::less(now.lx, reg::splat(0x1p80f))),
                                         reg::less(magnitude(reg::mul(first, ratio)), reg::splat(16.0f)));
      return {ratio, reg::div(reg::splat(0.5f), now.lx),
              reg::select(usual, reg::splat(0.5f - 0x1p-17f), reg::splat(0.0f))};
    }
    // Below rest.limit: element i stays.
    FASTCONV_INLINE reg::F unrest(int i, const Rest& rest) const {
      const reg::F to = reg::max(reg::min(reg::mul(x[i], rest.ratio), reg::splat(3.0f)), reg::splat(-4.0f));
      return reg::add(magnitude(reg::sub(to, level[i])), reg::mul(rest.half, lx[i]));
    }
    FASTCONV_INLINE bool stays(int i, const Rest& rest) const { return all(reg::less(unrest(i, rest), rest.limit)); }

    // The lanes in which an element may move.
    //
    // Where `first` is positive, all levels have the sign of -x, every term of lx is negative or zero and none is
    // larger in magnitude than their sum (rounding is monotone): without it, the sum is not above zero, and ggml tries
    // no other level.
    FASTCONV_INLINE uint32_t restless() const {
      const Rest rest = this->rest(sums);
      reg::F most = reg::splat(0.0f);
#pragma GCC unroll 4
      for (int i = 0; i < kN; ++i) most = reg::max(unrest(i, rest), most);
      return reg::lane_bits(reg::less(first, reg::splat(0.0f))) & ~reg::lane_bits(reg::less(most, rest.limit));
    }

    // The lanes in which element i took another level. A NaN for a quotient needs no care: the sum of an infinite x is
    // infinite or NaN, and so is one side or both sides of what is compared where l2 is, to no effect.
    FASTCONV_INLINE uint32_t improve(int i, Sums& sums) {
      const reg::F zero = reg::splat(0.0f), v = x[i], from = level[i];
      const reg::F w = reg::mul(v, v), slx = reg::sub(sums.lx, lx[i]);
      const reg::F sl2 = reg::sub(sums.l2, reg::mul(reg::mul(w, from), from));
      const reg::F shifted = reg::add(reg::div(reg::mul(v, sl2), slx), reg::splat(0x1.8p23f));
      const reg::I nearest = reg::sub(reg::bit_and(reg::bits(shifted), reg::splat(0x007FFFFF)), reg::splat(0x00400000));
      const reg::F to = reg::to_float(reg::max(reg::min(nearest, reg::splat(3)), reg::splat(-4)));
      const reg::F to_lx = reg::mul(reg::mul(w, v), to), new_lx = reg::add(slx, to_lx);
      const reg::F new_l2 = reg::add(sl2, reg::mul(reg::mul(w, to), to));
      const reg::M moves = reg::mask_and(reg::less(zero, reg::select(reg::equal(to, from), zero, new_l2)),  //
                                         reg::less(zero, slx));
      const reg::M better = reg::mask_and(
          moves, reg::less(reg::mul(reg::mul(sums.lx, sums.lx), new_l2), reg::mul(reg::mul(new_lx, new_lx), sums.l2)));
      sums = {reg::select(better, new_lx, sums.lx), reg::select(better, new_l2, sums.l2)};
      level[i] = reg::select(better, to, from);
      lx[i] = reg::select(better, to_lx, lx[i]);
      return reg::lane_bits(better);
    }

    FASTCONV_INLINE reg::F scale() const {
      const reg::F zero = reg::splat(0.0f);
      const reg::F found = reg::select(reg::less(zero, sums.l2), reg::div(sums.lx, sums.l2), zero);
      const reg::F one_nan = reg::select(reg::equal(found, found), found, reg::splat(-__builtin_nanf("")));
      return reg::select(reg::less(magnitude(first), reg::splat(kTiny)), zero, one_nan);
    }
  };

  // Sixteen sub-blocks each, all of them in work at the same time, which hides the latency of a step. Bit s of what
  // restless() and refine() give is sub-block s.
  template <int kGroups>
  struct Groups {
    static constexpr int kTracks = kGroups * kRegs;
    Track tracks[kTracks];

    template <class RowOf>
    FASTCONV_INLINE void begin(RowOf row_of) {
      for (int g = 0; g < kGroups; ++g) {
        F32 m[kN];
        for (int s = 0; s < kLanes; ++s) m[s] = load(row_of(g * kLanes + s));
        transpose(m);
#pragma GCC unroll 4
        for (int r = 0; r < kRegs; ++r) {
#pragma GCC unroll 16
          for (int i = 0; i < kN; ++i) tracks[g * kRegs + r].x[i] = m[i].r[r];
        }
      }
      for (Track& track : tracks) track.begin();
    }

    FASTCONV_INLINE uint64_t restless() const {
      uint64_t out = 0;
      for (int t = 0; t < kTracks; ++t) out |= static_cast<uint64_t>(tracks[t].restless()) << t * reg::kWidth;
      return out;
    }

    // A round over the elements. Where few still move, it pays to look first.
    template <bool kLook>
    FASTCONV_INLINE uint64_t refine() {
      Sums sums[kTracks];
      Rest rest[kTracks];
      uint64_t moved = 0;
      for (int t = 0; t < kTracks; ++t) {
        sums[t] = tracks[t].sums;
        if (kLook) rest[t] = tracks[t].rest(sums[t]);
      }
#pragma GCC unroll 1
      for (int i = 0; i < kN; ++i) {
#pragma GCC unroll 4
        for (int t = 0; t < kTracks; ++t) {
          if (kLook && __builtin_expect(tracks[t].stays(i, rest[t]), 1)) continue;
          moved |= static_cast<uint64_t>(tracks[t].improve(i, sums[t])) << t * reg::kWidth;
          if (kLook) rest[t] = tracks[t].rest(sums[t]);
        }
      }
      for (int t = 0; t < kTracks; ++t) tracks[t].sums = sums[t];
      return moved;
    }

    FASTCONV_INLINE void store_scales(float* out) const {
      for (int t = 0; t < kTracks; ++t) reg::store(out + t * reg::kWidth, tracks[t].scale());
    }
  };

  // Rows, sub-blocks of x, that are searched together.
  template <int kMost>
  struct List {
    int16_t row[kMost + kLanes];
    int n = 0;

    FASTCONV_INLINE void add(int which, bool truly) {
      row[n] = static_cast<int16_t>(which);
      n += truly;
    }
    // The lanes that a last group lacks repeat the last row.
    FASTCONV_INLINE void fill() {
      for (int i = n; i % kLanes != 0; ++i) row[i] = row[n - 1];
    }
  };
  static constexpr int kMostGroups = kRegs < 4 ? 4 / kRegs : 1;  // four registers

  // The scales of n_rows, a multiple of sixteen. On gaussian weights one sub-block in five has an element that moves,
  // and of those a third after the first round: each time they are put together with others of their kind, and their
  // search begins anew. For as few as fit into one group that does not pay.
  template <int kMost>
  static void scales(const float* x, int n_rows, float* out) {
    List<kMost> once, more;
    for (int at = 0; at < n_rows; at += kLanes) {
      Groups<1> group;
      group.begin([=](int s) __attribute__((always_inline)) { return x + (at + s) * kN; });
      group.store_scales(out + at);
      const uint64_t left = group.restless();
      for (int s = 0; s < kLanes; ++s) once.add(at + s, left >> s & 1);
    }
    once.fill();
    if (once.n <= kLanes) return fit<kMostGroups, kRounds>(x, once, 0, out, more);
    fit<kMostGroups, 1>(x, once, 0, out, more);
    more.fill();
    fit<kMostGroups, kRounds>(x, more, 0, out, once);
  }

  // From entry `at` of the list on. To `left`: which still move after all rounds.
  template <int kGroups, int kMostRounds, class Rows>
  static void fit(const float* x, const Rows& rows, int at, float* out, Rows& left) {
    for (; at + (kGroups - 1) * kLanes < rows.n; at += kGroups * kLanes)
      fit_groups<kGroups, kMostRounds>(x, rows.row + at, rows.n - at, out, left);
    if constexpr (kGroups > 1) fit<kGroups / 2, kMostRounds>(x, rows, at, out, left);
  }

  // ggml's search of a sub-block ends with a round in which no element moves: neither would one in a further round, so
  // a lane may go through it for the sake of others; as it may if it is at rest.
  template <int kGroups, int kMostRounds, class Rows>
  static void fit_groups(const float* x, const int16_t* row, int n, float* out, Rows& left) {
    Groups<kGroups> groups;
    groups.begin([=](int s) __attribute__((always_inline)) { return x + row[s] * kN; });
    uint64_t moving = groups.template refine<false>() & groups.restless();
    for (int r = 1; r < kMostRounds && moving != 0; ++r) moving = groups.template refine<true>() & groups.restless();
    alignas(64) float scale[kGroups * kLanes];
    groups.store_scales(scale);
    for (int s = 0; s < kGroups * kLanes; ++s) out[row[s]] = scale[s];
    if (kMostRounds < kRounds)
      for (int s = 0; s < kGroups * kLanes; ++s) left.add(row[s], (moving >> s & 1) != 0 && s < n);
  }

  // The levels, from 0 to 7, of sixteen sub-blocks in a row; 0 where no element is above kTiny.
  static void levels(const float* x, uint8_t* q) {
    Groups<1> group;
    group.begin([=](int s) __attribute__((always_inline)) { return x + s * kN; });
    for (int r = 0; r < kRounds && group.template refine<false>() != 0;) ++r;
    for (const Track& track : group.tracks) {
      float level[kN][reg::kWidth], first[reg::kWidth];
      for (int i = 0; i < kN; ++i) reg::store(level[i], track.level[i]);
      reg::store(first, track.first);
      for (int s = 0; s < reg::kWidth; ++s)
        for (int i = 0; i < kN; ++i)
          *q++ = __builtin_fabsf(first[s]) < kTiny ? 0 : static_cast<uint8_t>(level[i][s] + 4.0f);
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
