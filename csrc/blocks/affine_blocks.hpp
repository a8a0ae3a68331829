// What Q2_K, Q4_K and Q5_K share: 256 elements as sub-blocks with x = d * scale * q - dmin * min, where scale and min
// are small integers. A type T gives its Block, its sizes, its policies of search and how fields and levels are packed.
// Source: quantize_row_q{2,4,5}_K_ref and _impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_search.hpp"
#include "blocks/scale_search.hpp"
#include "blocks/super_block.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Lane b: of super-block b, each in the order of its elements.
inline F32 sums_of_squares(const float* x, int n_supers) {
  F32 sum = splat(0.0f);
#pragma GCC unroll 1
  for (int i = 0; i < kSuperBlock; i += kLanes) {
    F32 m[kLanes];
    for (int b = 0; b < kLanes; ++b) m[b] = load(x + (b < n_supers ? b : 0) * kSuperBlock + i);
    transpose(m);
    for (int k = 0; k < kLanes; ++k) sum = sum + one_nan(m[k]) * one_nan(m[k]);
  }
  return sum;
}

template <class T>
struct AffineBlocks {
  using Block = typename T::Block;
  static constexpr int kN = T::kN;                  // elements of a sub-block
  static constexpr int kSubs = kSuperBlock / kN;    // sub-blocks of a super-block
  static constexpr int kPerGroup = kLanes / kSubs;  // super-blocks of a group of lanes
  static constexpr int kGroups = AffineSearch<typename T::Plain>::kGroups;
  static constexpr int kBatch = kGroups * kPerGroup;  // super-blocks searched together
  static constexpr int kTop = static_cast<int>(T::Plain::kTop);

  // One super-block: what the search found for each sub-block.
  struct Fits {
    float scale[kSubs], min[kSubs], weight_sum[kSubs];
    float inverse[kSubs], level_min[kSubs], tries_won[kSubs];
  };

  // Column i of a group: element i of each of its sub-blocks. The rows that a last group lacks repeat its first.
  template <class RowOf>
  FASTCONV_INLINE static void load_columns(RowOf row_of, F32* columns) {
    for (int j = 0; j < kN; j += kLanes) {
      F32 m[kLanes];
      for (int s = 0; s < kLanes; ++s) m[s] = load(row_of(s) + j);
      transpose(m);
      for (int i = 0; i < kLanes; ++i) columns[j + i] = one_nan(m[i]);
    }
  }

  template <class Policy, class Weigh>
  static void search(const float* x, int n_supers, Fits* fits, Weigh weigh) {
    using Search = AffineSearch<Policy>;
    typename Search::Columns columns[kGroups];
    typename Search::Found found[kGroups];
    for (int g = 0; g < kGroups; ++g) {
      const auto super_of = [=](int s) {
        const int b = g * kPerGroup + s / kSubs;
        return b < n_supers ? b : 0;
      };
      load_columns([=](int s) { return x + super_of(s) * kSuperBlock + s % kSubs * kN; }, columns[g].x);
      weigh(columns[g].x, columns[g].weight, super_of);
    }
    Search::search(columns, found);
    for (int g = 0; g < kGroups; ++g) {
      alignas(64) float lanes[6][kLanes];
      store(lanes[0], found[g].scale);
      store(lanes[1], found[g].min);
      store(lanes[2], found[g].weight_sum);
      store(lanes[3], found[g].inverse);
      store(lanes[4], found[g].level_min);
      store(lanes[5], found[g].tries_won);
      for (int p = 0; p < kPerGroup && g * kPerGroup + p < n_supers; ++p)
        for (int f = 0; f < 6; ++f)
          __builtin_memcpy(reinterpret_cast<float*>(fits + g * kPerGroup + p) + f * kSubs, lanes[f] + p * kSubs,
                           kSubs * sizeof(float));
    }
  }

  // What the levels of one super-block are found from.
  struct Steps {
    const float* x;
    const Fits* fits;
    float step[kLanes], inverse[kLanes], offset[kLanes];
  };

  // Sixteen levels from element 16 * run on, right as long as `clear` stays true.
  struct QuickLevels {
    const Steps& steps;
    Mask& clear;

    FASTCONV_INLINE I32 operator()(int run) const {
      const int s = run * kLanes / kN;
      const F32 scaled = (load(steps.x + run * kLanes) + splat(steps.offset[s])) * splat(steps.inverse[s]);
      const F32 nearest = round_even(scaled);
      clear = clear & is_clear(scaled, nearest);
      return clamped(truncate(nearest));
    }
  };
  // The same at any cost.
  template <bool kGuarded>
  struct ExactLevels {
    const Steps& steps;

    FASTCONV_INLINE I32 operator()(int run) const {
      const int s = run * kLanes / kN;
      const F32 v = load(steps.x + run * kLanes);
      // A step of zero keeps the levels of the search.
      const F32 scaled = steps.step[s] == 0 ? searched(v, s) : (v + splat(steps.offset[s])) / splat(steps.step[s]);
      return clamped(nearest_int(nan_to_zero(scaled)));
    }
    FASTCONV_INLINE F32 searched(F32 v, int s) const {
      const Fits& fits = *steps.fits;
      const F32 scaled = splat(fits.inverse[s]) * (v - splat(fits.level_min[s]));
      return kGuarded && fits.tries_won[s] != 0 ? min(max(scaled, splat(0.0f)), splat(T::Plain::kTop)) : scaled;
    }
  };
  FASTCONV_INLINE static I32 clamped(I32 q) { return max(min(q, splat(kTop)), splat(0)); }

  template <bool kGuarded>
  FASTCONV_INLINE static void pack(const Steps& steps, Block& y) {
    Mask clear = equal(splat(0), splat(0));
    T::pack(QuickLevels{steps, clear}, y);
    if (__builtin_expect(!all(clear), 0)) pack_exactly<kGuarded>(steps, y);
  }
  template <bool kGuarded>
  static __attribute__((noinline)) void pack_exactly(const Steps& steps, Block& y) {
    T::pack(ExactLevels<kGuarded>{steps}, y);
  }

  FASTCONV_INLINE static void set_steps(Steps& steps, const float* x, const Fits& fits, const Block& y, I32 scales,
                                        I32 mins) {
    steps.x = x;
    steps.fits = &fits;
    const F32 step = splat(f16_to_f32(y.d)) * to_float(scales);
    store(steps.step, step);
    store(steps.inverse, splat(1.0f) / step);
    store(steps.offset, splat(f16_to_f32(y.dmin)) * to_float(mins));
  }

  FASTCONV_INLINE static uint16_t f16_of(float a) {
    uint16_t halves[kLanes];
    store_f16(halves, one_nan(splat(a)));
    return halves[0];
  }

  // The low byte of the nearest integers, as ggml's conversion to uint8_t takes it; `common` is what they multiply.
  FASTCONV_INLINE static I32 quantize_fields(const float* values, uint16_t& common) {
    alignas(64) float lanes[kLanes] = {};
    __builtin_memcpy(lanes, values, kSubs * sizeof(float));
    const F32 all = load(lanes);
    const float most = highest(max(all, splat(0.0f)));  // passes over NaN
    common = f16_of(most / T::kFieldTop);
    const float inverse = most > 0 ? T::kFieldTop / most : 0.0f;
    const I32 q = nearest_int(nan_to_zero(splat(inverse) * all)) & splat(0xFF);
    return T::kFieldTop == 63 ? min(q, splat(63)) : q;
  }

  FASTCONV_INLINE static void write_plain_fields(const float* x, const Fits& fits, Steps& steps, Block& y) {
    uint16_t d, dmin;
    I32 scales = quantize_fields(fits.scale, d), mins = quantize_fields(fits.min, dmin);
    uint8_t scale_bytes[kLanes], min_bytes[kLanes];
    store_bytes(scale_bytes, scales);
    store_bytes(min_bytes, mins);
    T::put_fields(y, scale_bytes, min_bytes);
    if (T::kFieldTop != 63) {  // a negative scale or minimum does not fit
      T::get_fields(y, scale_bytes, min_bytes);
      scales = load_u8(scale_bytes);
      mins = load_u8(min_bytes);
    }
    y.d = d;
    y.dmin = dmin;
    set_steps(steps, x, fits, y, scales, mins);
  }

  static void encode(const float* x, void* dst, int64_t n) {
    Block* y = static_cast<Block*>(dst);
    for (int64_t left = n / kSuperBlock; left > 0; left -= kBatch, x += kBatch * kSuperBlock, y += kBatch) {
      const int n_supers = left < kBatch ? static_cast<int>(left) : kBatch;
      Fits fits[kBatch];
      search<typename T::Plain>(x, n_supers, fits, [](const F32* v, F32* weight, auto) { T::weigh_plain(v, weight); });
      // The way from fits to steps is long, but short for many side by side.
      Steps steps[kBatch];
      for (int b = 0; b < n_supers; ++b) write_plain_fields(x + b * kSuperBlock, fits[b], steps[b], y[b]);
      for (int b = 0; b < n_supers; ++b) pack<false>(steps[b], y[b]);
    }
  }

  // Super-blocks whose scales are quantized together: one lane for the scales of each and one for its mins.
  static constexpr int kTogether = kLanes / 2;
  static_assert(kTogether % kBatch == 0);

  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    Block* y = static_cast<Block*>(dst);
    const int64_t n_supers = n_rows * n_cols / kSuperBlock, per_row = n_cols / kSuperBlock;
    for (int64_t first = 0; first < n_supers; first += kTogether) {
      const int n = n_supers - first < kTogether ? static_cast<int>(n_supers - first) : kTogether;
      const float* columns[kTogether];
      for (int b = 0; b < n; ++b) columns[b] = importance + (first + b) % per_row * kSuperBlock;
      write_weighted(x + first * kSuperBlock, columns, n, y + first);
    }
  }

  static void write_weighted(const float* x, const float* const* importance, int n, Block* y) {
    alignas(64) float variance[kLanes];
    store(variance, T::variance(sums_of_squares(x, n)));
    Fits fits[kTogether];
    for (int at = 0; at < n; at += kBatch) {
      const int n_supers = n - at < kBatch ? n - at : kBatch;
      search<typename T::Weighted>(x + at * kSuperBlock, n_supers, fits + at,
                                   [&](const F32* v, F32* weight, auto super_of) {
                                     weigh(v, weight, variance + at, importance + at, super_of);
                                   });
    }
    using Scales = ScaleSearch<kSubs, T::kFieldTop>;
    alignas(64) float values[kSubs][kLanes] = {}, weights[kSubs][kLanes] = {};
    for (int b = 0; b < n; ++b)
      for (int s = 0; s < kSubs; ++s) {
        values[s][b] = fits[b].scale[s];
        values[s][kTogether + b] = fits[b].min[s];
        weights[s][b] = weights[s][kTogether + b] = fits[b].weight_sum[s];
      }
    uint8_t fields[kSubs][kLanes];
    alignas(64) float common[kLanes];
    store(common, Scales::search(values, weights, fields));
    Steps steps[kTogether];
    for (int b = 0; b < n; ++b) {
      uint8_t scales[kLanes] = {}, mins[kLanes] = {};
      for (int s = 0; s < kSubs; ++s) {
        scales[s] = fields[s][b];
        mins[s] = fields[s][kTogether + b];
      }
      T::put_weighted_fields(y[b], scales, mins);
      T::get_fields(y[b], scales, mins);  // what did not fit is lost
      y[b].d = f16_of(common[b]);
      y[b].dmin = f16_of(common[kTogether + b]);
      set_steps(steps[b], x + b * kSuperBlock, fits[b], y[b], load_u8(scales), load_u8(mins));
    }
    for (int b = 0; b < n; ++b) pack<true>(steps[b], y[b]);
  }

  template <class SuperOf>
  FASTCONV_INLINE static void weigh(const F32* v, F32* weight, const float* variance, const float* const* importance,
                                    SuperOf super_of) {
    alignas(64) float lanes[kLanes];
    for (int s = 0; s < kLanes; ++s) lanes[s] = variance[super_of(s)];
    const F32 of_super = load(lanes);
    load_columns([=](int s) { return importance[super_of(s)] + s % kSubs * kN; }, weight);
    for (int i = 0; i < kN; ++i) weight[i] = weight[i] * sqrt(of_super + v[i] * v[i]);
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t b = 0; b < n / kSuperBlock; ++b, ++block) {
      uint8_t scales[kLanes] = {}, mins[kLanes] = {};
      T::get_fields(*block, scales, mins);
      alignas(64) float step[kLanes], offset[kLanes];
      store(step, splat(f16_to_f32(block->d)) * to_float(load_u8(scales)));
      store(offset, splat(f16_to_f32(block->dmin)) * to_float(load_u8(mins)));
      T::unpack(
          *block, [&](int run, I32 q) __attribute__((always_inline)) {
            const int s = run * kLanes / kN;
            store(y + run * kLanes, splat(step[s]) * to_float(q) - splat(offset[s]));
          });
      y += kSuperBlock;
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
