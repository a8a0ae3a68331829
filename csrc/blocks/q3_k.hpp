// Q3_K: 256 elements as sixteen sub-blocks of sixteen, x = d * (scale - 32) * (q - 4), levels of 3 bits, scales of 6.
// Source: quantize_row_q3_K_ref, quantize_row_q3_K_impl and make_q3_quants in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_blocks.hpp"
#include "blocks/refined_search.hpp"
#include "blocks/signed_search.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct Q3_K {
  struct __attribute__((packed)) Block {
    uint8_t hmask[32];   // third bits
    uint8_t qs[64];      // low 2 bits
    uint8_t scales[12];  // low 4 bits of scales j and j + 8, then the high 2 of j, j + 4, j + 8, j + 12
    uint16_t d;          // f16
  };
  static_assert(sizeof(Block) == 110);

  static constexpr int kSubs = 16;    // sub-blocks, and elements of each
  static constexpr int kChunk = 128;  // super-blocks whose sub-blocks are sorted by what their search takes
  static constexpr int kAtOnce = kChunk * kSuperBlock;

  // d * (scale - 32) of each sub-block.
  FASTCONV_INLINE static F32 steps(const Block& y) {
    uint8_t scales[kSubs];
    for (int j = 0; j < kSubs; ++j) {
      const int low = j < 8 ? y.scales[j] & 15 : y.scales[j - 8] >> 4, high = y.scales[8 + j % 4] >> (j / 4 * 2) & 3;
      scales[j] = static_cast<uint8_t>(low | high << 4);
    }
    return splat(f16_to_f32(y.d)) * to_float(load_u8(scales) - splat(32));
  }

  FASTCONV_INLINE static I32 level(I32 q) { return max(min(q, splat(3)), splat(-4)) + splat(4); }

  // Up to sixteen super-blocks. Lane b of scales[s]: the scale of sub-block s of super-block b, 0 to 63; of d: its d.
  // `searched(b, q)` puts the levels of the search, which sub-blocks with a step of zero keep.
  template <class Searched>
  FASTCONV_INLINE static void write_blocks(const float* x, int n, F32 d, const I32* scales, Searched searched,
                                           Block* y) {
    uint16_t halves[kLanes];
    store_f16(halves, one_nan(d));
    const F32 stored = load_f16(halves);
    F32 step[kSubs], inverse[kSubs];
    for (int s = 0; s < kSubs; ++s) {
      step[s] = stored * to_float(scales[s] - splat(32));
      inverse[s] = splat(1.0f) / step[s];
    }
    transpose(step);
    transpose(inverse);
    uint8_t bytes[12][kLanes];
    for (int j = 0; j < 8; ++j) store_bytes(bytes[j], (scales[j] & splat(15)) | shift_left<4>(scales[j + 8]));
    for (int j = 0; j < 4; ++j)
      store_bytes(bytes[8 + j], shift_right<4>(scales[j]) | shift_left<2>(shift_right<4>(scales[j + 4])) |
                                    shift_left<4>(shift_right<4>(scales[j + 8])) |
                                    shift_left<6>(shift_right<4>(scales[j + 12])));
#pragma GCC unroll 1
    for (int b = 0; b < n; ++b, x += kSuperBlock) {
      y[b].d = halves[b];
      for (int j = 0; j < 12; ++j) y[b].scales[j] = bytes[j][b];
      alignas(64) float steps[kSubs], inverses[kSubs];
      store(steps, step[b]);
      store(inverses, inverse[b]);
      uint8_t q[kSuperBlock];
      for (int s = 0; s < kSubs; ++s)
        store_bytes(q + kSubs * s, level(nearest_quotient(load(x + kSubs * s), steps[s], inverses[s])));
      const uint32_t kept = lane_bits(equal(step[b], splat(0.0f)));
      if (__builtin_expect(kept != 0, 0)) {
        uint8_t found[kSuperBlock];
        searched(b, found);
        for (int s = 0; s < kSubs; ++s)
          if ((kept >> s & 1) != 0) __builtin_memcpy(q + kSubs * s, found + kSubs * s, kSubs);
      }
      pack(q, y[b]);
    }
  }

  // Byte 32 h + j of qs holds the low bits of element j of each run of 32 of half h; bit r of byte j of hmask is the
  // high bit of element j of run r.
  FASTCONV_INLINE static void pack(const uint8_t* q, Block& y) {
    constexpr uint64_t kEach = 0x0101010101010101;  // eight levels in a word: what is shifted stays within its byte
    for (int j = 0; j < 32; j += 16) {
      uint64_t hmask[2] = {};
      for (int h = 0; h < 2; ++h) {
        uint64_t qs[2] = {};
        for (int r = 0; r < 4; ++r) {
          uint64_t run[2];
          __builtin_memcpy(run, q + 128 * h + 32 * r + j, sizeof run);
          for (int w = 0; w < 2; ++w) {
            qs[w] |= (run[w] & 3 * kEach) << 2 * r;
            hmask[w] |= (run[w] >> 2 & kEach) << (4 * h + r);
          }
        }
        __builtin_memcpy(y.qs + 32 * h + j, qs, sizeof qs);
      }
      __builtin_memcpy(y.hmask + j, hmask, sizeof hmask);
    }
  }

  static void encode(const float* x, void* dst, int64_t n) {
    Block* y = static_cast<Block*>(dst);
    for (int64_t left = n / kSuperBlock; left > 0; left -= kChunk, x += kChunk * kSuperBlock, y += kChunk) {
      const int chunk = left < kChunk ? static_cast<int>(left) : kChunk;
      alignas(64) float found[kChunk * kSubs];
      RefinedSearch::scales<kChunk * kSubs>(x, chunk * kSubs, found);
      for (int b = 0; b < chunk; b += kLanes)
        write_plain(x + b * kSuperBlock, chunk - b < kLanes ? chunk - b : kLanes, found + b * kSubs, y + b);
    }
  }

  static void write_plain(const float* x, int n, const float* found, Block* y) {
    F32 scale[kSubs];
    for (int b = 0; b < kLanes; ++b) scale[b] = load(found + (b < n ? b : 0) * kSubs);
    transpose(scale);
    // The first of the largest magnitude, NaN apart.
    const F32 zero = splat(0.0f);
    F32 most = zero, first = zero;
    for (int s = 0; s < kSubs; ++s) {
      const Mask larger = less(most, abs(scale[s]));
      first = select(larger, scale[s], first);
      most = select(larger, abs(scale[s]), most);
    }
    const F32 inverse = splat(-32.0f) / first;
    const Mask nothing = equal(first, zero);
    I32 fields[kSubs];
    for (int s = 0; s < kSubs; ++s) {
      // The low byte and its sign, as ggml's int8_t takes it.
      const I32 q = ((nearest_int(nan_to_zero(inverse * scale[s])) + splat(128)) & splat(255)) - splat(128);
      fields[s] = select(nothing, splat(0), max(min(q, splat(31)), splat(-32)) + splat(32));
    }
    const auto searched = [x](int b, uint8_t* q) { RefinedSearch::levels(x + b * kSuperBlock, q); };
    write_blocks(x, n, select(nothing, zero, splat(1.0f) / inverse), fields, searched, y);
  }

  // With importance: the best of 19 tries for each sub-block, and again for the scales of a super-block.
  using Fit = SignedSearch<16, 4>;
  using FitOfScales = SignedSearch<16, 32>;

  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    Block* y = static_cast<Block*>(dst);
    const int64_t n_supers = n_rows * n_cols / kSuperBlock, per_row = n_cols / kSuperBlock;
    for (int64_t first = 0; first < n_supers; first += kLanes) {
      const int n = n_supers - first < kLanes ? static_cast<int>(n_supers - first) : kLanes;
      const float* columns[kLanes];
      for (int b = 0; b < n; ++b) columns[b] = importance + (first + b) % per_row * kSuperBlock;
      write_weighted(x + first * kSuperBlock, columns, n, y + first);
    }
  }

  struct Fits {
    alignas(64) float inverse[kLanes][kSubs];
    uint32_t zero[kLanes];
  };

  static void write_weighted(const float* x, const float* const* importance, int n, Block* y) {
    const F32 sum = sums_of_squares(x, n);
    alignas(64) float variance[kLanes];
    store(variance, (sum + sum) / splat(static_cast<float>(kSuperBlock)));
    // Row s: of sub-block s of each super-block; first as the search of a super-block leaves it.
    alignas(64) F32 scale[kSubs], weight_sum[kSubs];
    Fits fits;
    for (int b = 0; b < kLanes; ++b) {
      scale[b] = weight_sum[b] = splat(0.0f);
      if (b < n) search_block(x + b * kSuperBlock, importance[b], splat(variance[b]), b, scale[b], weight_sum[b], fits);
    }
    transpose(scale);
    transpose(weight_sum);
    const auto found = FitOfScales::search(
        scale, [&weight_sum](int s) __attribute__((always_inline)) { return weight_sum[s]; });
    I32 fields[kSubs];
    for (int s = 0; s < kSubs; ++s) {
      const I32 q = nearest_int(nan_to_zero(found.inverse * scale[s]));
      fields[s] = select(found.zero, splat(0), max(min(q, splat(31)), splat(-32)) + splat(32));
    }
    const auto searched = [&fits, x](int b, uint8_t* q) {
      const float* v = x + b * kSuperBlock;
      for (int s = 0; s < kSubs; ++s) {
        const I32 of_sub = level(nearest_int(nan_to_zero(splat(fits.inverse[b][s]) * load(v + kSubs * s))));
        store_bytes(q + kSubs * s, (fits.zero[b] >> s & 1) != 0 ? splat(0) : of_sub);
      }
    };
    const F32 d = select(any_infinite(scale), nothing_times(weight_sum), found.scale);
    write_blocks(x, n, d, fields, searched, y);
  }

  // Sums that overflow give an infinite scale: scaled by its inverse, 0, all levels are 0 and no try finds another.
  FASTCONV_INLINE static Mask any_infinite(const F32* scale) {
    F32 most = splat(0.0f);
    for (int s = 0; s < kSubs; ++s) most = max(abs(scale[s]), most);
    return equal(most, splat(__builtin_inff()));
  }
  // The scale that ggml then gives: 0, or NaN for an infinite weight.
  FASTCONV_INLINE static F32 nothing_times(const F32* weight) {
    F32 sum = splat(0.0f);
    for (int s = 0; s < kSubs; ++s) sum = sum + weight[s] * splat(0.0f);
    return sum;
  }

  static void search_block(const float* x, const float* importance, F32 variance, int b, F32& scale, F32& weight_sum,
                           Fits& fits) {
    F32 v[kSubs], weight[kSubs];
    for (int s = 0; s < kSubs; ++s) {
      v[s] = one_nan(load(x + kSubs * s));
      weight[s] = load(importance + kSubs * s);
    }
    transpose(v);
    transpose(weight);
    weight_sum = splat(0.0f);
    for (int i = 0; i < kSubs; ++i) {
      weight[i] = weight[i] * sqrt(variance + v[i] * v[i]);
      weight_sum = weight_sum + weight[i];
    }
    const auto found = Fit::search(
        v, [&weight](int i) __attribute__((always_inline)) { return weight[i]; });
    scale = found.scale;
    store(fits.inverse[b], found.inverse);
    fits.zero[b] = lane_bits(found.zero);
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t b = 0; b < n / kSuperBlock; ++b, ++block, y += kSuperBlock) {
      alignas(64) float step[kSubs];
      store(step, steps(*block));
      for (int j = 0; j < 32; j += 16) {
        I32 high = load_u8(block->hmask + j);
        for (int h = 0; h < 2; ++h) {
          I32 low = load_u8(block->qs + 32 * h + j);
          for (int r = 0; r < 4; ++r) {
            const I32 q = (low & splat(3)) | shift_left<2>(high & splat(1));
            store(y + 128 * h + 32 * r + j, splat(step[8 * h + 2 * r + j / 16]) * to_float(q - splat(4)));
            low = shift_right<2>(low);
            high = shift_right<1>(high);
          }
        }
      }
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
