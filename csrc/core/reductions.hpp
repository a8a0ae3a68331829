// Whole-row reductions whose result does not depend on the instruction set.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// The largest of the values whose bits the lanes are, none negative; NaN if any is.
FASTCONV_INLINE float largest_lane(I32 magnitudes) {
  alignas(64) float lanes[kLanes];
  store(lanes, from_bits(magnitudes));
  float out = 0;
  for (const float lane : lanes) {
    if (lane != lane) return __builtin_nanf("");
    if (lane > out) out = lane;
  }
  return out;
}

// The largest magnitude of what was added. Magnitudes are compared as integers, which orders NaN above infinity above
// every finite value.
struct LargestMagnitude {
  static constexpr int kChains = 4;  // so many, to hide the latency of max
  I32 most[kChains] = {splat(0), splat(0), splat(0), splat(0)};

  FASTCONV_INLINE void add(int chain, F32 x) { most[chain] = max(most[chain], bits(x) & splat(0x7FFFFFFF)); }

  FASTCONV_INLINE float value() const { return largest_lane(max(max(most[0], most[1]), max(most[2], most[3]))); }
};

inline float max_abs(const float* x, int64_t n) {
  constexpr int kStep = LargestMagnitude::kChains * kLanes;
  LargestMagnitude largest;
  for (; n >= kStep; n -= kStep, x += kStep)
    for (int k = 0; k < LargestMagnitude::kChains; ++k) largest.add(k, load(x + k * kLanes));
  for (; n >= kLanes; n -= kLanes, x += kLanes) largest.add(0, load(x));
  if (n > 0) {
    alignas(64) float padded[kLanes] = {};
    __builtin_memcpy(padded, x, static_cast<size_t>(n) * sizeof(float));
    largest.add(0, load(padded));
  }
  return largest.value();
}

// Order: partial[j] sums the squares of elements j, j + 16, j + 32 ...; then partial[j] += partial[j + h] for h = 8, 4,
// 2, 1. Each square is exact in f64.
inline double sum_of_squares(const float* x, int64_t n) {
  alignas(64) double partial[kLanes] = {};
  for (; n >= kLanes; n -= kLanes, x += kLanes)
    for (int j = 0; j < kLanes; ++j) partial[j] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  for (int j = 0; j < n; ++j) partial[j] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) partial[j] += partial[j + half];
  return partial[0];
}

// In groups of eight runs of sixteen: group[j] sums the squares of elements j, j + 16 ... of its runs in f32, a shorter
// group at the end, absent elements as zeros; the groups are summed and folded in f64 as above. A sum outside
// [2^-60, 2^100] may have lost squares to f32's range: then it is the one above. Between, squares below 2^-126 do not
// count, and no group overflows.
inline double square_norm(const float* x, int64_t n) {
  constexpr int kRuns = 8;
  const float* const begin = x;
  alignas(64) double partial[kLanes] = {};
  alignas(64) float group[kLanes];
  const auto add_group = [&](F32 sum) __attribute__((always_inline)) {
    store(group, sum);
    for (int j = 0; j < kLanes; ++j) partial[j] += static_cast<double>(group[j]);
  };
  const auto square = [](F32 a) __attribute__((always_inline)) { return a * a; };
  int64_t left = n;
  for (; left >= kRuns * kLanes; left -= kRuns * kLanes, x += kRuns * kLanes) {
    F32 sum = square(load(x));
    for (int k = 1; k < kRuns; ++k) sum = sum + square(load(x + k * kLanes));
    add_group(sum);
  }
  if (left > 0) {
    F32 sum = splat(0.0f);
    for (; left >= kLanes; left -= kLanes, x += kLanes) sum = sum + square(load(x));
    alignas(64) float padded[kLanes] = {};
    __builtin_memcpy(padded, x, static_cast<size_t>(left) * sizeof(float));
    add_group(sum + square(load(padded)));
  }
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) partial[j] += partial[j + half];
  return partial[0] >= 0x1p-60 && partial[0] <= 0x1p100 ? partial[0] : sum_of_squares(begin, n);
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
