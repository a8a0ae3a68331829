// Eight elements and the points of a grid around them: which one is nearest? For IQ2 and IQ1.
#pragma once

#include "blocks/iq2_neighbours.hpp"
#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr float kF32Most = 3.40282347e38f;  // FLT_MAX

alignas(64) constexpr int32_t kEachLane[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
alignas(64) constexpr int32_t kEachFour[kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};

// Lane i: p[i / 4].
FASTCONV_INLINE F32 four_times(const float* p) {
  return lookup(*reinterpret_cast<const float(*)[4]>(p), load(kEachFour));
}

// costs[i][l]: what element i costs at level l.
using Costs = float[8][4];

// Sixteen points: the costs of their levels, each sum in the order of the elements, as ggml adds them.
FASTCONV_INLINE F32 distances(const Costs& costs, I32 codes) {
  F32 sum = lookup(costs[0], codes);
  sum = sum + lookup(costs[1], shift_right<2>(codes));
  sum = sum + lookup(costs[2], shift_right<4>(codes));
  sum = sum + lookup(costs[3], shift_right<6>(codes));
  sum = sum + lookup(costs[4], shift_right<8>(codes));
  sum = sum + lookup(costs[5], shift_right<10>(codes));
  sum = sum + lookup(costs[6], shift_right<12>(codes));
  return sum + lookup(costs[7], shift_right<14>(codes));
}

// The first of the cheapest of `count` codes. ggml takes the first that is cheaper than all before it: the first of the
// least. Sums of NaN and past FLT_MAX are never taken; where all are, ggml aborts, and here any one will do.
FASTCONV_INLINE uint16_t cheapest(const Costs& costs, const uint16_t* codes, int count) {
  constexpr int kMost = 304;  // the longest list has 292
  const F32 most = splat(kF32Most);
  alignas(64) float sums[kMost];
  F32 least = most;
  int at = 0;
  for (; at < count; at += kLanes) {
    const Mask listed = less(load(kEachLane), splat(count - at));
    const F32 sum = select(listed, distances(costs, load_u16(codes + at)), most);
    store(sums + at, sum);
    least = min(sum, least);
  }
  const F32 found = splat(lowest(least));
  for (at = 0; at < count; at += kLanes) {
    const uint32_t here = lane_bits(equal(load(sums + at), found));
    if (here != 0) return codes[at + __builtin_ctz(here)];
  }
  return codes[0];
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
