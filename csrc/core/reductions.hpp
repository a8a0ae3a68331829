// Whole-row reductions whose result does not depend on the instruction set.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Magnitudes are compared as integers, which orders NaN above infinity above every finite value.
inline float max_abs(const float* x, int64_t n) {
  const I32 magnitude = splat(0x7FFFFFFF);
  I32 most[4] = {splat(0), splat(0), splat(0), splat(0)};  // four, to hide the latency of max
  for (; n >= 4 * kLanes; n -= 4 * kLanes, x += 4 * kLanes)
    for (int k = 0; k < 4; ++k) most[k] = max(most[k], bits(load(x + k * kLanes)) & magnitude);
  for (; n >= kLanes; n -= kLanes, x += kLanes) most[0] = max(most[0], bits(load(x)) & magnitude);
  if (n > 0) {
    alignas(64) float padded[kLanes] = {};
    __builtin_memcpy(padded, x, static_cast<size_t>(n) * sizeof(float));
    most[0] = max(most[0], bits(load(padded)) & magnitude);
  }
  alignas(64) float lanes[kLanes];
  store(lanes, from_bits(max(max(most[0], most[1]), max(most[2], most[3]))));
  float out = 0;
  for (const float lane : lanes) {
    if (lane != lane) return __builtin_nanf("");
    if (lane > out) out = lane;
  }
  return out;
}

// Order: partial[j] sums the squares of elements j, j + 16, j + 32 ...; then partial[j] += partial[j + h] for h = 8, 4,
// 2,
// 1. Each square is exact in f64.
inline double sum_of_squares(const float* x, int64_t n) {
  alignas(64) double partial[kLanes] = {};
  for (; n >= kLanes; n -= kLanes, x += kLanes)
    for (int j = 0; j < kLanes; ++j) partial[j] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  for (int j = 0; j < n; ++j) partial[j] += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) partial[j] += partial[j + half];
  return partial[0];
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
