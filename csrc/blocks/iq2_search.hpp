// What the encoders of IQ2 share: signs apart, the best scale of a sub-block and its points of the grid.
// Every product and sum is rounded on its own and in ggml's order; only independent ones stand side by side in lanes.
// Source: quantize_row_iq2_xs_impl and iq2_find_best_neighbour in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/grid_search.hpp"
#include "blocks/iq2_grids.hpp"
#include "blocks/super_block.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// A sub-block of kGroups groups of eight elements.
template <int kGroups>
struct SubBlock {
  static constexpr int kElements = 8 * kGroups;

  const GridNeighbours& grid;
  alignas(64) float x[kElements];  // magnitudes; negative where a sign had to give way
  alignas(64) float weight[kElements];
  uint32_t signs;                                        // bit i: element i counts as negative
  F32 x4[kElements / 4], root4[kElements / 4];           // each element and the root of its weight four times
  alignas(64) float wx[kElements][4], ww[kElements][4];  // weight * x * q and weight * q * q for q = 1, 3, 5

  explicit FASTCONV_INLINE SubBlock(const GridNeighbours& neighbours) : grid(neighbours) {}

  template <class Weight>
  FASTCONV_INLINE void load_elements(const float* from, Weight weight_of) {
    signs = 0;
    for (int i = 0; i < kElements; i += kLanes) {
      const F32 v = load(from + i);
      const Mask negative = less(v, splat(0.0f));
      signs |= lane_bits(negative) << i;
      store(x + i, select(negative, negate(v), v));
      store(weight + i, weight_of(v, i));
    }
  }

  // Of each group with an odd number of signs, the least important element changes its sign.
  FASTCONV_INLINE void make_signs_even() {
    for (int k = 0; k < kGroups; ++k) {
      const uint32_t group = signs >> 8 * k & 255;
      if (kEvenSigns.of[group & 127] == group) continue;
      float* v = x + 8 * k;
      const float* w = weight + 8 * k;
      int at = 0;
      float least = w[0] * v[0] * v[0];
      for (int i = 1; i < 8; ++i) {
        const float loss = w[i] * v[i] * v[i];
        at = loss < least ? i : at;
        least = loss < least ? loss : least;
      }
      v[at] = -v[at];
      signs ^= 1u << (8 * k + at);
    }
  }

  FASTCONV_INLINE float largest() const {
    F32 most = load(x);
    for (int i = kLanes; i < kElements; i += kLanes) most = max(load(x + i), most);
    return highest(most);
  }

  alignas(64) static constexpr float kSteps[kLanes] = {1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7, 1, 3, 5, 7};

  FASTCONV_INLINE void tabulate() {
    const F32 q = load(kSteps);
    for (int j = 0; j < kElements / 4; ++j) {
      const F32 w4 = four_times(weight + 4 * j);
      x4[j] = four_times(x + 4 * j);
      root4[j] = sqrt(w4);
      store(wx[4 * j], w4 * x4[j] * q);
      store(ww[4 * j], w4 * q * q);
    }
  }

  // Bit i of either: element i is at level 1 or above, at level 2.
  struct Levels {
    uint32_t above_0, above_1;
  };
  // The level is (inverse * x - 1) / 2 to the nearest integer, ties to even, within 0 ... 2. From 1 to 4 the difference
  // is exact, so it is above 0 just where the product is above 2, and above 1 just where it is at least 4; outside, the
  // roundings keep to their side. Where the product is 2^22 or more, ggml's nearest_int goes astray, and we with it.
  FASTCONV_INLINE Levels levels(float inverse) const {
    Levels out{0, 0};
    for (int i = 0; i < kElements; i += kLanes) {
      const F32 scaled = splat(inverse) * load(x + i);
      if (lane_bits(less(abs(scaled), splat(0x1p22f))) == 0xFFFF) {
        out.above_0 |= lane_bits(less(splat(2.0f), scaled)) << i;
        out.above_1 |= lane_bits(less(splat(0x1.fffffep1f), scaled)) << i;
      } else {
        const I32 level = nearest_int(splat(0.5f) * (scaled - splat(1.0f)));
        out.above_0 |= lane_bits(less(splat(0), level)) << i;
        out.above_1 |= lane_bits(less(splat(1), level)) << i;
      }
    }
    return out;
  }

  struct Point {
    uint16_t code;
    bool was_on_grid;
  };
  FASTCONV_INLINE Point point_of(int k, Levels levels, float scale) const {
    const uint32_t above_0 = levels.above_0 >> 8 * k & 255, above_1 = levels.above_1 >> 8 * k & 255;
    const GridNeighbours::Place place = grid.places()[grid.place_of_mask[above_0] + grid.place_of_mask[above_1]];
    if (place.count == 0) return {static_cast<uint16_t>(grid.code_of_mask[above_0] + grid.code_of_mask[above_1]), true};
    alignas(64) Costs costs;
    const F32 steps = splat(scale) * load(kSteps);
    for (int h = 0; h < 2; ++h) {
      const F32 difference = steps - x4[2 * k + h];
      store(costs[4 * h], root4[2 * k + h] * difference * difference);
    }
    return {cheapest(costs, grid.codes() + place.first, static_cast<int>(place.count)), false};
  }

  FASTCONV_INLINE uint32_t index_of(uint16_t code) const {
    return grid.places()[grid.place_of_half[code & 255] + 81 * grid.place_of_half[code >> 8]].first;
  }

  struct Best {
    float scale;
    uint16_t codes[kGroups];
  };

  // The best of the scales largest / (5 + step / 10), |step| <= kSteps, by weighted least squares, then those points
  // that were off the grid, or all of them, once more with the scale that is best for the points found. Without any
  // that is better than none: `scale` and levels of 0.
  template <int kMostSteps, bool kAllAgain>
  FASTCONV_INLINE Best search(float scale, float largest) {
    constexpr int kTries = 2 * kMostSteps + 1, kRoom = (kTries + kLanes - 1) / kLanes * kLanes;
    alignas(64) float inverses[kRoom], scales[kRoom];
    for (int t = 0; t < kRoom; t += kLanes) {
      const F32 step = to_float(load(kEachLane) + splat(t - kMostSteps));
      const F32 inverse = (splat(5.0f) + step * splat(0.1f)) / splat(largest);
      store(inverses + t, inverse);
      store(scales + t, splat(1.0f) / inverse);
    }
    alignas(64) uint16_t codes[kGroups][kRoom] = {};
    uint32_t off_grid[kRoom] = {};
    for (int t = 0; t < kTries; ++t) {
      const Levels at = levels(inverses[t]);
      for (int k = 0; k < kGroups; ++k) {
        const Point point = point_of(k, at, scales[t]);
        codes[k][t] = point.code;
        off_grid[t] |= (point.was_on_grid ? 0u : 1u) << k;
      }
    }
    alignas(64) float sum_qx[kRoom], sum_q2[kRoom];
    for (int t = 0; t < kRoom; t += kLanes) {  // a try in each lane
      F32 qx = splat(0.0f), q2 = splat(0.0f);
      for (int k = 0; k < kGroups; ++k) {
        I32 code = load_u16(codes[k] + t);
#pragma GCC unroll 8
        for (int i = 8 * k; i < 8 * k + 8; ++i, code = shift_right<2>(code)) {
          qx = qx + lookup(wx[i], code);
          q2 = q2 + lookup(ww[i], code);
        }
      }
      store(sum_qx + t, qx);
      store(sum_q2 + t, q2);
    }
    Best found{scale, {}};
    float best = 0;
    int winner = -1;
    for (int t = 0; t < kTries; ++t) {
      if (sum_q2[t] > 0 && sum_qx[t] * sum_qx[t] > best * sum_q2[t]) {
        found.scale = sum_qx[t] / sum_q2[t];
        best = found.scale * sum_qx[t];
        winner = t;
      }
    }
    uint32_t again = kAllAgain ? (1u << kGroups) - 1 : 0;
    if (winner >= 0) {
      for (int k = 0; k < kGroups; ++k) found.codes[k] = codes[k][winner];
      again |= off_grid[winner];
    }
    if (again != 0 && found.scale > 0) {
      const Levels at = levels(1 / found.scale);
      for (int k = 0; k < kGroups; ++k)
        if ((again >> k & 1) != 0) found.codes[k] = point_of(k, at, found.scale).code;
      float qx = 0, q2 = 0;
      for (int i = 0; i < kElements; ++i) {
        const int level = found.codes[i / 8] >> 2 * (i % 8) & 3;
        qx += wx[i][level];
        q2 += ww[i][level];
      }
      if (q2 > 0) found.scale = qx / q2;
    }
    if (found.scale < 0) {
      found.scale = -found.scale;
      signs = ~signs;
    }
    if (!(found.scale >= 0)) found.scale = 0;  // where ggml aborts
    return found;
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
