// What the encoders of IQ1 share: the split of a sub-block's elements, in ascending order, into -1, 0 and 1 that
// weighted least squares likes best, and the points of the grid for it. Every product and sum is rounded on its own and
// in ggml's order; only independent ones stand side by side in lanes. Source: quantize_row_iq1_s_impl and
// iq1_find_best_neighbour2 in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/grid_search.hpp"
#include "blocks/super_block.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr float kShift = 0.125f;
// What levels 0, 1, 2 stand for, shifted up and shifted down, four times each.
struct ShiftedLevels {
  alignas(64) float up[4] = {-1 + kShift, kShift, 1 + kShift, 0};
  float down[4] = {-1 - kShift, -kShift, 1 - kShift, 0};
};
constexpr ShiftedLevels kShifted;

// ranks[i]: how many of the kElements come before x[i] in ascending order; equal ones in the order they stand in, as
// the merge sort behind qsort leaves them in every release of glibc.
template <int kElements>
FASTCONV_INLINE void rank_elements(const float* x, I32 (&ranks)[kElements / kLanes]) {
  const I32 zero = splat(0), one = splat(1);
  for (int v = 0; v < kElements / kLanes; ++v) {
    const F32 here = load(x + kLanes * v);
    const I32 lane = load(kEachLane) + splat(kLanes * v);
    I32 rank = zero;
    for (int j = 0; j < kElements; ++j) {
      const F32 other = splat(x[j]);
      rank = rank + select(less(other, here), one, zero);
      rank = rank + select(equal(other, here), select(less(splat(j), lane), one, zero), zero);
    }
    ranks[v] = rank;
  }
}

// The best split so far: elements of rank below `first` are at level 0, those from `second` on at level 2. `kind` is
// which shifts its levels have.
struct Split {
  float scale;
  float best = -kF32Most;
  int first = -1, second = -1, kind = -1;

  // Sixteen values of `second`, those of lane bits `valid`, and for each all kinds in their order. A split that does
  // not beat the best so far leaves no trace, so all may be compared at once until one does. Then one that is clearly
  // the best of all is the last to win; else those after the first that wins are compared anew.
  template <int kKinds>
  FASTCONV_INLINE void consider(const F32 (&qx)[kKinds], const F32 (&q2)[kKinds], uint32_t valid, int first_rank,
                                int second_rank) {
    const auto better = [&](int kind) {
      return lane_bits(less(splat(0.0f), q2[kind]) & less(splat(best) * q2[kind], qx[kind] * qx[kind]));
    };
    uint32_t open[kKinds], any = 0;
    for (int k = 0; k < kKinds; ++k) open[k] = valid;
    for (int k = 0; k < kKinds; ++k) any |= better(k) & open[k];
    if (__builtin_expect(any == 0, 1)) return;
    alignas(64) float all_qx[kKinds][kLanes], all_q2[kKinds][kLanes];
    for (int k = 0; k < kKinds; ++k) {
      store(all_qx[k], qx[k]);
      store(all_q2[k], q2[k]);
    }
    const uint64_t clear = clear_best(qx, q2, valid);
    if (__builtin_expect(clear != 0, 1)) {
      const int at = __builtin_ctzll(clear), lane = at % kLanes;
      kind = at / kLanes;
      scale = all_qx[kind][lane] / all_q2[kind][lane];
      best = scale * all_qx[kind][lane];
      first = first_rank;
      second = second_rank + lane;
      return;
    }
    do {
      const int lane = __builtin_ctz(any);
      for (int k = 0; k < kKinds; ++k) {
        const float x = all_qx[k][lane], w = all_q2[k][lane];
        if ((open[k] >> lane & 1) == 0 || !(w > 0 && x * x > best * w)) continue;
        scale = x / w;
        best = scale * x;
        first = first_rank;
        second = second_rank + lane;
        kind = k;
      }
      any = 0;
      for (int k = 0; k < kKinds; ++k) {
        open[k] &= 0xFFFEu << lane;
        any |= better(k) & open[k];
      }
    } while (any != 0);
  }

  // Bit 16 k + i: lane i of kind k, if its qx * qx / q2 exceeds those of all others by more than one part in 2^18, else
  // no bit. Between such values and what ggml compares there are less than ten roundings of 2^-24, so this one beats
  // whatever is the best when its turn comes, and no later one beats it: unless something overflows, is NaN, or is so
  // small that what is rounded off a denormal counts (a scale's 2^-150 times qx, less than 2^64, beside `top`).
  // valid: the last so many lanes, or the first of sixteen that are alike, of which none is the best.
  template <int kKinds>
  FASTCONV_INLINE static uint64_t clear_best(const F32 (&qx)[kKinds], const F32 (&q2)[kKinds], uint32_t valid) {
    const F32 zero = splat(0.0f);
    const Mask counts = less(splat(__builtin_ctz(valid) - 1), load(kEachLane));
    F32 value[kKinds], most = zero;
    uint32_t regular = 0xFFFF;
    for (int k = 0; k < kKinds; ++k) {
      value[k] = select(counts & less(zero, q2[k]), qx[k] * qx[k] / q2[k], zero);
      regular &= lane_bits(less(value[k], splat(0x1p100f)));
      most = max(value[k], most);
    }
    if (regular != 0xFFFF) return 0;
    const float top = highest(most);
    if (!(top > 0x1p-60f)) return 0;
    uint64_t near = 0;
    uint32_t tiny = 0;
    for (int k = 0; k < kKinds; ++k) {
      near |= static_cast<uint64_t>(lane_bits(less(splat(top * (1 - 0x1p-18f)), value[k]))) << kLanes * k;
      tiny |= lane_bits(less(zero, q2[k]) & less(splat(top) * q2[k], splat(0x1p-100f)));
    }
    return (tiny & valid) == 0 && (near & (near - 1)) == 0 ? near : 0;
  }
};

// Eight elements at the levels of a split, or else of the point nearest to them. -> code
struct PointOf {
  uint16_t code;
  uint32_t index;
  bool was_on_grid;
};
FASTCONV_INLINE PointOf point_of(const GridNeighbours& grid, uint32_t above_0, uint32_t above_1, const float* x,
                                 const float* weight, float scale, const float (&levels)[4]) {
  const auto index_of = [&](uint16_t code) {
    return grid.places()[grid.place_of_half[code & 255] + 81 * grid.place_of_half[code >> 8]].first;
  };
  const GridNeighbours::Place place = grid.places()[grid.place_of_mask[above_0] + grid.place_of_mask[above_1]];
  if (place.count == 0)
    return {static_cast<uint16_t>(grid.code_of_mask[above_0] + grid.code_of_mask[above_1]), place.first, true};
  alignas(64) Costs costs;
  const F32 steps = splat(scale) * lookup(levels, load(kEachLane));
  for (int h = 0; h < 2; ++h) {
    const F32 difference = steps - four_times(x + 4 * h);
    store(costs[4 * h], four_times(weight + 4 * h) * difference * difference);
  }
  const uint16_t code = cheapest(costs, grid.codes() + place.first, static_cast<int>(place.count));
  return {code, index_of(code), false};
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
