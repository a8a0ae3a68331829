// 32 elements of IQ3: the best of 31 or 19 scales by weighted least squares, where each group of four elements takes
// the nearest point of a grid. Knows no block layout. Source: quantize_row_iq3_xxs_impl, quantize_row_iq3_s_impl,
// iq3_find_best_neighbour in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq3_grids.hpp"
#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// A level l of 0 to 7 stands for 2 * l + 1.
constexpr float iq3_value(int level) { return static_cast<float>(2 * level + 1); }

// The bits of a NaN that came with the elements would show in the result.
FASTCONV_INLINE I32 nearest_int_or_zero(F32 a) { return nearest_int(select(equal(a, a), a, splat(0.0f))); }

struct Iq3Elements {
  static constexpr int kBlock = 32, kGroups = 8;

  alignas(64) float x[kBlock];  // magnitudes; negative where a sign had to give way
  alignas(64) float weight[kBlock];
  alignas(64) float root[kBlock];  // of the weight
  uint32_t signs;                  // bit i: element i counts as negative

  // importance: nullptr, the weight is x * x, or of the elements: it is importance * sqrt(sigma2 + x * x).
  FASTCONV_INLINE void read(const float* from, const float* importance, float sigma2) {
    signs = 0;
    for (int i = 0; i < kBlock; i += kLanes) {
      const F32 v = load(from + i), square = v * v;
      const F32 w = importance == nullptr ? square : load(importance + i) * sqrt(splat(sigma2) + square);
      store(x + i, abs(v));
      store(weight + i, w);
      store(root + i, sqrt(w));
      signs |= lane_bits(less(v, splat(0.0f))) << i;
    }
  }

  // Seven signs of eight are stored and their number is even: where it is odd, the least weight * x * x of the eight
  // changes its sign.
  FASTCONV_INLINE void make_signs_even() {
    alignas(64) float cost[kBlock];
    for (int i = 0; i < kBlock; i += kLanes) {
      const F32 v = load(x + i);
      store(cost + i, load(weight + i) * v * v);
    }
    for (int first = 0; first < kBlock; first += 8) {
      if (__builtin_parity(signs >> first & 0xFF) == 0) continue;
      int at = first;
      for (int i = first + 1; i < first + 8; ++i) at = cost[i] < cost[at] ? i : at;
      x[at] = -x[at];
      signs ^= 1u << at;
    }
  }

  FASTCONV_INLINE float most() const {
    alignas(64) float m[kLanes];
    store(m, max(load(x), load(x + kLanes)));
    for (int n = kLanes / 2; n > 0; n /= 2)
      for (int i = 0; i < n; ++i) m[i] = m[i] > m[i + n] ? m[i] : m[i + n];
    return m[0];
  }
};

// What a search finds.
struct Iq3Fit {
  float scale;
  uint16_t codes[Iq3Elements::kGroups];  // all in the grid
};

// kSteps: tries scale by (15 + step / 5) / most with |step| <= kSteps. kKeepsPoints: a group that the best try has in
// the grid as it is keeps its point when the others choose anew by the scale found.
template <int kSteps, bool kKeepsPoints>
class Iq3Search {
 public:
  static constexpr int kBlock = Iq3Elements::kBlock, kGroups = Iq3Elements::kGroups;

  Iq3Search(const Iq3Elements& elements, const Iq3Choices& choices) : e_(elements), choices_(choices) {}

  Iq3Fit find(float most) {
    prepare(most);
    for (int k = 0; k < kGroups; ++k) {
      for (int v = 0; v < kVectors; ++v) {
        const I32 codes = codes_of(k, v), points = choose(k, v, codes);
        store(codes_ + kTries * k + kLanes * v, codes);
        store(points_ + kTries * k + kLanes * v, points);
        for (int i = 4 * k; i < 4 * k + 4; ++i) add_terms(i, v, points);
      }
    }
    return finish(most);
  }

 private:
  static constexpr int kVectors = 2;
  static constexpr int kTries = kVectors * kLanes;  // the last one again where there are fewer
  static_assert(2 * kSteps + 1 <= kTries);

  struct Numerators {
    alignas(64) float of[kTries];
  };
  static constexpr Numerators make_numerators() {
    Numerators numerators{};
    for (int t = 0; t < kTries; ++t) {
      const int step = t < 2 * kSteps ? t - kSteps : kSteps;
      numerators.of[t] = 15 + static_cast<float>(step) * 0.2f;
    }
    return numerators;
  }

  FASTCONV_INLINE void prepare(float most) {
    static constexpr Numerators kNumerators = make_numerators();
    uint32_t beyond = 0;
    for (int i = 0; i < kBlock; i += kLanes) beyond |= lane_bits(less(load(e_.x + i), splat(-0x1p18f * most)));
    is_regular_ = beyond == 0 && most > 0x1p-100f;
    for (int v = 0; v < kVectors; ++v) {
      const F32 inverse = load(kNumerators.of + kLanes * v) / splat(most), scale = splat(1.0f) / inverse;
      inverse_[v] = inverse;
      for (int l = 0; l < 8; ++l) scaled_[l][v] = scale * splat(iq3_value(l));
      sum_qx_[v] = sum_q2_[v] = splat(0.0f);
    }
    for (int i = 0; i < kBlock; ++i) {
      for (int l = 0; l < 8; ++l) {
        const float q = iq3_value(l);
        qx_[i][l] = e_.weight[i] * e_.x[i] * q;
        q2_[i][l] = e_.weight[i] * q * q;
      }
    }
  }

  // The nearest levels of group k in sixteen tries, those of vector v.
  //
  // No inverse * x exceeds 18 by more than a rounding. Where none is below -2^23 either, nearest_int rounds, and limits
  // before rounding do what ggml's do after it. NaN gives 0. An element may be as far below if it counts for nothing
  // and its sign gave way; the inverse may be infinite for denormals.
  FASTCONV_INLINE I32 codes_of(int k, int v) const {
    constexpr uint32_t kMagic = 0x4B400000;  // the bits of 1.5 * 2^23: an integer added to it stands in the low bits
    const auto level = [&](int i) __attribute__((always_inline)) {
      const F32 half = splat(0.5f) * (inverse_[v] * splat(e_.x[4 * k + i]) - splat(1.0f));
      const F32 unlimited = is_regular_ ? half : to_float(nearest_int_or_zero(half));
      return bits(min(max(unlimited, splat(0.0f)), splat(7.0f)) + splat(0x1.8p23f));
    };
    return level(0) + shift_left<3>(level(1)) + shift_left<6>(level(2)) + shift_left<9>(level(3)) -
           splat(static_cast<int32_t>(kMagic * (1 + 8 + 64 + 512)));
  }

  // The point that each of sixteen tries takes for its code of group k.
  //
  // Tries differ little, so few codes are among the sixteen: the points of each are looked at once for all tries that
  // have it. What a level of an element costs in each try is made once for all points that share the level. Each cost
  // is rounded as ggml rounds it, four are added in ggml's order, and the first point of the least sum is taken, as
  // there. Where no sum is below FLT_MAX ggml aborts; here the first point is taken.
  FASTCONV_INLINE I32 choose(int k, int v, I32 codes) const {
    struct Run {
      Mask lanes;
      const Iq3Choices::List* list;
    } runs[kLanes];
    int n_runs = 0;
    uint32_t levels = 0;
    alignas(64) int32_t code[kLanes];
    store(code, codes);
    for (uint32_t left = 0xFFFF; left != 0;) {
      const int32_t next = code[__builtin_ctz(left)];
      Run& run = runs[n_runs++];
      run = {equal(codes, splat(next)), &choices_.lists[next]};
      left &= ~lane_bits(run.lanes);
      levels |= run.list->levels;
    }
    F32 costs[32];
    for (; levels != 0; levels &= levels - 1) {
      const int b = __builtin_ctz(levels), i = 4 * k + b / 8;
      const F32 apart = scaled_[b % 8][v] - splat(e_.x[i]);
      costs[b] = splat(e_.root[i]) * apart * apart;
    }
    I32 chosen = splat(0);
    for (int r = 0; r < n_runs; ++r) {
      const Run run = runs[r];
      const uint32_t* point = choices_.points + run.list->first;
      chosen = select(run.lanes, splat(static_cast<int32_t>(*point)), chosen);
      if (run.list->n == 1) continue;
      F32 least = splat(kMost);
      for (const uint32_t* end = point + run.list->n; point < end; ++point) {
        const F32 sum = costs[*point & 31] + costs[*point >> 8 & 31] + costs[*point >> 16 & 31] + costs[*point >> 24];
        chosen = select(less(sum, least) & run.lanes, splat(static_cast<int32_t>(*point)), chosen);
        least = min(sum, least);
      }
    }
    return chosen;
  }

  FASTCONV_INLINE void add_terms(int i, int v, I32 points) {
    const I32 level = i % 4 == 0   ? points
                      : i % 4 == 1 ? shift_right<8>(points)
                      : i % 4 == 2 ? shift_right<16>(points)
                                   : shift_right<24>(points);
    sum_qx_[v] = sum_qx_[v] + lookup(qx_[i], level);
    sum_q2_[v] = sum_q2_[v] + lookup(q2_[i], level);
  }

  // The first of the best tries, or -1, and its scale.
  FASTCONV_INLINE int best_try(float& scale) const {
    alignas(64) float ratio[kTries], score[kTries], square[kTries], sum_q2[kTries];
    for (int v = 0; v < kVectors; ++v) {
      const F32 quotient = sum_qx_[v] / sum_q2_[v];
      store(ratio + kLanes * v, quotient);
      store(score + kLanes * v, quotient * sum_qx_[v]);
      store(square + kLanes * v, sum_qx_[v] * sum_qx_[v]);
      store(sum_q2 + kLanes * v, sum_q2_[v]);
    }
    float best = 0;
    int found = -1;
    for (int t = 0; t < 2 * kSteps + 1; ++t) {
      if (sum_q2[t] > 0 && square[t] > best * sum_q2[t]) {
        best = score[t];
        found = t;
      }
    }
    if (found >= 0) scale = ratio[found];
    return found;
  }

  FASTCONV_INLINE static uint16_t code_of(uint32_t point) {
    return static_cast<uint16_t>((point & 7) | (point >> 5 & 0x38) | (point >> 10 & 0x1C0) | (point >> 15 & 0xE00));
  }

  FASTCONV_INLINE Iq3Fit finish(float most) const {
    Iq3Fit fit;
    fit.scale = most / 15;
    const int best = best_try(fit.scale);
    uint32_t open = 0;  // bit k: group k is to choose anew
    for (int k = 0; k < kGroups; ++k) {
      fit.codes[k] = best < 0 ? 0 : code_of(static_cast<uint32_t>(points_[kTries * k + best]));
      const bool on_grid = best < 0 ? kKeepsPoints : fit.codes[k] == codes_[kTries * k + best];
      if (!on_grid) open |= 1u << k;
    }
    if (open != 0 && fit.scale > 0) {
      choose_anew(fit, kKeepsPoints ? open : (1u << kGroups) - 1);
      float sum_qx = 0, sum_q2 = 0;
      for (int i = 0; i < kBlock; ++i) {
        const int level = fit.codes[i / 4] >> 3 * (i % 4) & 7;
        sum_qx += qx_[i][level];
        sum_q2 += q2_[i][level];
      }
      if (sum_q2 > 0) fit.scale = sum_qx / sum_q2;
    }
    return fit;
  }

  // The groups of `open` by the scale found, without a limit to what it makes of an element.
  FASTCONV_INLINE void choose_anew(Iq3Fit& fit, uint32_t open) const {
    const F32 inverse = splat(1 / fit.scale);
    uint8_t levels[kBlock];
    for (int i = 0; i < kBlock; i += kLanes) {
      const I32 level = nearest_int_or_zero(splat(0.5f) * (inverse * load(e_.x + i) - splat(1.0f)));
      store_bytes(levels + i, max(min(level, splat(7)), splat(0)));
    }
    for (; open != 0; open &= open - 1) {
      const int k = __builtin_ctz(open);
      const uint8_t* l = levels + 4 * k;
      const int code = l[0] | l[1] << 3 | l[2] << 6 | l[3] << 9;
      const Iq3Choices::List& list = choices_.lists[code];
      fit.codes[k] = list.n == 1 ? static_cast<uint16_t>(code) : nearest_point(k, fit.scale, list);
    }
  }

  FASTCONV_INLINE uint16_t nearest_point(int k, float scale, const Iq3Choices::List& list) const {
    alignas(64) float costs[32];
    for (int i = 0; i < 4; ++i) {
      for (int l = 0; l < 8; ++l) {
        const float apart = scale * iq3_value(l) - e_.x[4 * k + i];
        costs[8 * i + l] = e_.root[4 * k + i] * apart * apart;
      }
    }
    const uint32_t* point = choices_.points + list.first;
    uint32_t chosen = *point;
    float least = kMost;
    for (const uint32_t* end = point + list.n; point < end; ++point) {
      const float sum = costs[*point & 31] + costs[*point >> 8 & 31] + costs[*point >> 16 & 31] + costs[*point >> 24];
      chosen = sum < least ? *point : chosen;
      least = sum < least ? sum : least;
    }
    return code_of(chosen);
  }

  static constexpr float kMost = 3.40282346638528859811704183484516925e+38f;  // FLT_MAX

  const Iq3Elements& e_;
  const Iq3Choices& choices_;
  bool is_regular_;                                  // see codes_of
  F32 inverse_[kVectors], scaled_[8][kVectors];      // lane t: of try t; by level
  alignas(64) float qx_[kBlock][8], q2_[kBlock][8];  // weight * x * q and weight * q * q, by level
  F32 sum_qx_[kVectors], sum_q2_[kVectors];          // of the tries
  alignas(64) int32_t codes_[kGroups * kTries], points_[kGroups * kTries];
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
