// The search for the scale of sub-blocks of sixteen, x = scale * level with levels from -4 to 3: one scale from the
// largest magnitude, then one element at a time to the level that fits the scale of all others, with x * x as weight.
// Source: make_q3_quants in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_search.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// One lane is one sub-block, so that every sum adds its terms in ggml's order.
struct RefinedSearch {
  static constexpr int kN = 16;
  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS
  static constexpr int kRounds = 5;

  // Sixteen sub-blocks in work. x in the lanes of sums is inverse to level in sign: `first` is the first element of the
  // largest magnitude of each, its level is -4.
  struct Track {
    F32 x[kN], level[kN];
    F32 lx[kN], l2[kN];  // the element's part of the sums: x * x * x * level and x * x * level * level
    F32 sum_lx, sum_l2;

    template <class RowOf>
    FASTCONV_INLINE void begin(RowOf row_of, F32 first) {
      for (int s = 0; s < kLanes; ++s) x[s] = load(row_of(s));
      transpose(x);
      const F32 inverse = splat(-4.0f) / first;
      sum_lx = sum_l2 = splat(0.0f);
      for (int i = 0; i < kN; ++i) {
        x[i] = nan_to_zero(x[i]);
        // No |x| exceeds |first|: the product is within 4, but for a rounding, and cannot round to -5.
        set_level(i, min(round_even(inverse * x[i]), splat(3.0f)));
        sum_lx = sum_lx + lx[i];
        sum_l2 = sum_l2 + l2[i];
      }
    }

    FASTCONV_INLINE void set_level(int i, F32 to) {
      const F32 w = x[i] * x[i];
      level[i] = to;
      lx[i] = w * x[i] * to;
      l2[i] = w * to * to;
    }

    // Whether any lane took another level.
    FASTCONV_INLINE bool improve(int i) {
      const F32 zero = splat(0.0f);
      const F32 slx = sum_lx - lx[i], sl2 = sum_l2 - l2[i], product = x[i] * sl2;
      // The level stays if product / slx rounds to it: if it is nearer to it than a half. Within 5, the roundings of
      // the quotient and of the two sides come to less than 2^-20 of slx, unless one is denormal.
      const F32 off = abs(product - level[i] * slx);
      const Mask stays = less(off, splat(0.5f - 0x1p-18f) * slx) & less(splat(0x1p-100f), slx);
      if (__builtin_expect(lane_bits(stays) == (1u << kLanes) - 1, 1)) return false;
      const F32 w = x[i] * x[i];
      const I32 q = max(min(nearest_int(nan_to_zero(product / slx)), splat(3)), splat(-4));
      const F32 to = to_float(q);
      const F32 to_lx = w * x[i] * to, to_l2 = w * to * to;
      const F32 new_lx = slx + to_lx, new_l2 = sl2 + to_l2;
      const Mask moves = less(zero, select(equal(to, level[i]), zero, new_l2)) & less(zero, slx);
      const Mask better = moves & less(sum_lx * sum_lx * new_l2, new_lx * new_lx * sum_l2);
      if (lane_bits(better) == 0) return false;
      sum_lx = select(better, new_lx, sum_lx);
      sum_l2 = select(better, new_l2, sum_l2);
      level[i] = select(better, to, level[i]);
      lx[i] = select(better, to_lx, lx[i]);
      l2[i] = select(better, to_l2, l2[i]);
      return true;
    }

    FASTCONV_INLINE F32 scale() const {
      return one_nan(select(less(splat(0.0f), sum_l2), sum_lx / sum_l2, splat(0.0f)));
    }
  };

  // Five rounds over the elements. What sixteen steps in a row have left as it was, all further ones will: a lane in
  // which no element moves goes through the next round as through this one.
  template <int kTracks>
  FASTCONV_INLINE static void refine(Track* tracks) {
    int quiet[kTracks] = {};
    for (int step = 0; step < kRounds * kN; ++step) {
      int most_moved = kN;
#pragma GCC unroll 2
      for (int t = 0; t < kTracks; ++t) {
        quiet[t] = tracks[t].improve(step % kN) ? 0 : quiet[t] + 1;
        most_moved = quiet[t] < most_moved ? quiet[t] : most_moved;
      }
      if (most_moved == kN) break;
    }
  }

  // Row s: sub-block s. The first element of the largest magnitude of each, +0 where all are 0; NaN apart.
  FASTCONV_INLINE static F32 first_largest(const float* x, int n_rows) {
    const auto row = [=](int s) __attribute__((always_inline)) { return load(x + (s < n_rows ? s : 0) * kN); };
    const F32 low = fold_rows(
        [=](int s) __attribute__((always_inline)) { return min(row(s), splat(0.0f)); }, Min());
    const F32 high = fold_rows(
        [=](int s) __attribute__((always_inline)) { return max(row(s), splat(0.0f)); }, Max());
    F32 out = select(less(high, negate(low)), low, high);
    uint32_t ties = lane_bits(equal(high, negate(low)) & less(splat(0.0f), high)) & ((1u << n_rows) - 1);
    if (__builtin_expect(ties != 0, 0)) {
      alignas(64) float lanes[kLanes];
      store(lanes, out);
      for (; ties != 0; ties &= ties - 1) {
        const int s = __builtin_ctz(ties);
        const float most = lanes[s];
        const float* v = x + s * kN;
        while (*v != most && *v != -most) ++v;
        lanes[s] = *v;
      }
      out = load(lanes);
    }
    return out;
  }

  // Lists of sub-blocks that a search takes sixteen at a time.
  template <int kMost>
  struct List {
    int n = 0;
    int16_t row[kMost + kLanes];
    float first[kMost + kLanes];

    FASTCONV_INLINE void add(int which, float value) {
      row[n] = static_cast<int16_t>(which);
      first[n++] = value;
    }
    // The lanes that a last group lacks repeat its first.
    FASTCONV_INLINE void fill() {
      for (int i = n; i % kLanes != 0; ++i) {
        row[i] = row[n - 1];
        first[i] = first[n - 1];
      }
    }
  };

  // Where `first` is positive, all levels have the sign of -x, every term of sum_lx is negative or zero and none is
  // larger in magnitude than their sum (rounding is monotone): without it, the sum is not above zero, and ggml tries
  // no other level. So only the other sub-blocks, about half, are refined; they are put together.
  template <int kMost>
  static void scales(const float* x, int n_rows, float* out) {
    List<kMost> settled, refined;
    for (int at = 0; at < n_rows; at += kLanes) {
      const int n = n_rows - at < kLanes ? n_rows - at : kLanes;
      alignas(64) float first[kLanes];
      store(first, first_largest(x + at * kN, n));
      for (int s = 0; s < n; ++s) {
        out[at + s] = 0;
        if (__builtin_fabsf(first[s]) < kTiny) continue;
        if (first[s] > 0)
          settled.add(at + s, first[s]);
        else
          refined.add(at + s, first[s]);
      }
    }
    settled.fill();
    refined.fill();
    for (int at = 0; at < settled.n; at += kLanes) fit<1, false>(x, settled, at, out);
    int at = 0;
    for (; at + kLanes < refined.n; at += 2 * kLanes) fit<2, true>(x, refined, at, out);
    for (; at < refined.n; at += kLanes) fit<1, true>(x, refined, at, out);
  }

  template <int kTracks, bool kRefine, class Rows>
  static void fit(const float* x, const Rows& rows, int at, float* out) {
    Track tracks[kTracks];
    for (int t = 0; t < kTracks; ++t) {
      const int16_t* row = rows.row + at + t * kLanes;
      tracks[t].begin(
          [=](int s) __attribute__((always_inline)) { return x + row[s] * kN; }, load(rows.first + at + t * kLanes));
    }
    if (kRefine) refine<kTracks>(tracks);
    for (int t = 0; t < kTracks; ++t) {
      alignas(64) float lanes[kLanes];
      store(lanes, tracks[t].scale());
      for (int s = 0; s < kLanes; ++s) out[rows.row[at + t * kLanes + s]] = lanes[s];
    }
  }

  // The levels, from 0 to 7, of sixteen sub-blocks in a row; 0 where no element is above kTiny.
  static void levels(const float* x, uint8_t* q) {
    const F32 first = first_largest(x, kLanes);
    Track track;
    track.begin(
        [=](int s) __attribute__((always_inline)) { return x + s * kN; }, first);
    refine<1>(&track);
    const Mask zero = less(abs(first), splat(kTiny));
    for (int i = 0; i < kN; ++i) {
      uint8_t lanes[kLanes];
      store_bytes(lanes, select(zero, splat(0), truncate(track.level[i] + splat(4.0f))));
      for (int s = 0; s < kLanes; ++s) q[s * kN + i] = lanes[s];
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
