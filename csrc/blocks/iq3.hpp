// IQ3_XXS and IQ3_S: 256 elements as eight blocks of 32, x = d * scale * sign * value, where four values at a time are
// a point of a grid. Source: quantize_row_iq3_xxs_impl, quantize_row_iq3_s_impl and dequantize_row_iq3_* in
// ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/columns.hpp"
#include "blocks/iq2_grids.hpp"
#include "blocks/iq3_search.hpp"
#include "blocks/super_block.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ3 {
  static constexpr int kBlock = 32, kBlocks = 8, kGroups = 8;

  // The scales of a super-block as they are stored.
  struct Scales {
    uint16_t d;          // f16
    uint8_t of[kLanes];  // 0 ... 15, of the first eight
    bool any;            // false: all are zero
  };

  // d is a little above what the largest scale asks for: `factor`. A NaN is written as one.
  FASTCONV_INLINE static Scales quantize_scales(const float (&scales)[kLanes], float factor) {
    float most = 0;
    for (int b = 0; b < kBlocks; ++b) most = most > scales[b] ? most : scales[b];
    Scales out;
    out.any = most != 0;
    if (!out.any) return out;
    const float d = most / 31;
    uint16_t d16[kLanes];
    store_f16(d16, splat(d * factor));
    out.d = d == d ? d16[0] : 0x7E00;
    const I32 level = nearest_int_or_zero(splat(0.5f) * (splat(1 / d) * load(scales) - splat(1.0f)));
    store_bytes(out.of, max(min(level, splat(15)), splat(0)));
    return out;
  }

  // A scale below zero, never seen, would be stored as its opposite, with all signs turned.
  FASTCONV_INLINE static void make_positive(Iq3Fit& fit, Iq3Elements& elements) {
    if (fit.scale < 0) {
      fit.scale = -fit.scale;
      elements.signs = ~elements.signs;
    }
  }

  // Sixteen elements: four points, a sign for each.
  FASTCONV_INLINE static void decode_16(float* y, const uint32_t (&points)[4], const float (&values)[8], float scale,
                                        uint32_t signs) {
    alignas(64) static constexpr int32_t kBits[kLanes] = {1 << 0,  1 << 1,  1 << 2,  1 << 3, 1 << 4,  1 << 5,
                                                          1 << 6,  1 << 7,  1 << 8,  1 << 9, 1 << 10, 1 << 11,
                                                          1 << 12, 1 << 13, 1 << 14, 1 << 15};
    const I32 levels = load_u8(reinterpret_cast<const uint8_t*>(points)), bit = load(kBits);
    const F32 v = splat(scale) * lookup(values, levels);
    store(y, select(equal(splat(static_cast<int32_t>(signs)) & bit, bit), negate(v), v));
  }

  // Each super-block, with sigma2, twice the mean of its squares, where there is an importance.
  template <class T>
  static void encode_rows(const float* x, typename T::Block* y, int64_t n_super, const float* importance,
                          int64_t n_cols) {
    alignas(64) float sigma2[kLanes] = {};
    int64_t column = 0;
    for (int64_t i = 0; i < n_super; ++i, x += kSuperBlock) {
      if (importance == nullptr) {
        T::encode_block(x, nullptr, 0, y[i]);
        continue;
      }
      if (i % kLanes == 0) {
        const F32 sum = sums_of_squares(x, n_super - i, kSuperBlock);
        store(sigma2, (sum + sum) * splat(1.0f / kSuperBlock));
      }
      T::encode_block(x, importance + column, sigma2[i % kLanes], y[i]);
      column = column + kSuperBlock == n_cols ? 0 : column + kSuperBlock;
    }
  }
};

template <class T>
struct IQ3Rows {
  static void encode(const float* x, void* dst, int64_t n) {
    IQ3::encode_rows<T>(x, static_cast<typename T::Block*>(dst), n / kSuperBlock, nullptr, 0);
  }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    IQ3::encode_rows<T>(x, static_cast<typename T::Block*>(dst), n_rows * n_cols / kSuperBlock, importance, n_cols);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<T>(src, y, n); }
};

struct IQ3_XXS : IQ3Rows<IQ3_XXS> {
  struct __attribute__((packed)) Block {
    uint16_t d;                    // f16
    uint8_t qs[64];                // of each group of four: its point
    uint32_t scales_and_signs[8];  // of each block: four times seven signs, the scale in the four high bits
  };
  static_assert(sizeof(Block) == 98);
  using Search = Iq3Search<15, true>;

  static void encode_block(const float* x, const float* importance, float sigma2, Block& y) {
    const Iq3Choices& choices = iq3_xxs_choices();
    alignas(64) float scales[kLanes] = {};
    __builtin_memset(&y, 0, sizeof y);
    for (int b = 0; b < IQ3::kBlocks; ++b) {
      Iq3Elements elements;
      const int at = IQ3::kBlock * b;
      elements.read(x + at, importance == nullptr ? nullptr : importance + at, sigma2);
      elements.make_signs_even();
      const float most = elements.most();
      if (most < 1e-8f) continue;  // GROUP_MAX_EPS_IQ3_XXS
      Iq3Fit fit = Search(elements, choices).find(most);
      IQ3::make_positive(fit, elements);
      scales[b] = fit.scale;
      for (int k = 0; k < IQ3::kGroups; ++k)
        y.qs[IQ3::kGroups * b + k] = static_cast<uint8_t>(choices.index[fit.codes[k]]);
      uint32_t signs = 0;
      for (int i = 0; i < 4; ++i) signs |= (elements.signs >> 8 * i & 0x7F) << 7 * i;
      y.scales_and_signs[b] = signs;
    }
    const IQ3::Scales stored = IQ3::quantize_scales(scales, 1.0125f);
    if (!stored.any) {
      __builtin_memset(&y, 0, sizeof y);
      return;
    }
    y.d = stored.d;
    for (int b = 0; b < IQ3::kBlocks; ++b) y.scales_and_signs[b] |= static_cast<uint32_t>(stored.of[b]) << 28;
  }

  static void decode_block(const Block& block, float* y) {
    alignas(64) static constexpr float kValues[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    const float d = f16_to_f32(block.d);
    for (int b = 0; b < IQ3::kBlocks; ++b) {
      const uint32_t word = block.scales_and_signs[b];
      const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.5f;
      for (int half = 0; half < 2; ++half, y += kLanes) {
        uint32_t points[4];
        for (int i = 0; i < 4; ++i) points[i] = kIq3XxsGrid.points[block.qs[8 * b + 4 * half + i]];
        const uint32_t low = kEvenSigns.of[word >> 14 * half & 0x7F],
                       high = kEvenSigns.of[word >> (14 * half + 7) & 0x7F];
        IQ3::decode_16(y, points, kValues, scale, low | high << 8);
      }
    }
  }
};

struct IQ3_S : IQ3Rows<IQ3_S> {
  struct __attribute__((packed)) Block {
    uint16_t d;      // f16
    uint8_t qs[64];  // of each group of four: the low 8 bits of its point
    uint8_t qh[8];   // of each block: the ninth bits
    uint8_t signs[32];
    uint8_t scales[4];  // of two blocks each
  };
  static_assert(sizeof(Block) == 110);
  using Search = Iq3Search<9, false>;

  static void encode_block(const float* x, const float* importance, float sigma2, Block& y) {
    const Iq3Choices& choices = iq3_s_choices();
    alignas(64) float scales[kLanes] = {};
    __builtin_memset(&y, 0, sizeof y);
    uint8_t *qs = y.qs, *signs = y.signs;
    for (int b = 0; b < IQ3::kBlocks; ++b) {
      Iq3Elements elements;
      const int at = IQ3::kBlock * b;
      elements.read(x + at, importance == nullptr ? nullptr : importance + at, sigma2);
      const float most = elements.most();
      // As in ggml, the points and signs of the blocks after one of zeros then move to its place, while the ninth bits
      // and scales do not: such super-blocks do not decode to what was encoded, but the bytes are ggml's.
      if (most == 0) continue;
      Iq3Fit fit = Search(elements, choices).find(most);
      IQ3::make_positive(fit, elements);
      scales[b] = fit.scale;
      for (int k = 0; k < IQ3::kGroups; ++k) {
        const int index = choices.index[fit.codes[k]];
        qs[k] = static_cast<uint8_t>(index);
        y.qh[b] = static_cast<uint8_t>(y.qh[b] | (index >> 8) << k);
      }
      __builtin_memcpy(signs, &elements.signs, sizeof elements.signs);
      qs += IQ3::kGroups;
      signs += 4;
    }
    const IQ3::Scales stored = IQ3::quantize_scales(scales, 1.033f);
    if (!stored.any) return;
    y.d = stored.d;
    for (int b = 0; b < IQ3::kBlocks; b += 2)
      y.scales[b / 2] = static_cast<uint8_t>(stored.of[b] | stored.of[b + 1] << 4);
  }

  static void decode_block(const Block& block, float* y) {
    alignas(64) static constexpr float kValues[8] = {1, 3, 5, 7, 9, 11, 13, 15};
    const float d = f16_to_f32(block.d);
    for (int b = 0; b < IQ3::kBlocks; ++b) {
      const float scale = d * static_cast<float>(1 + 2 * (block.scales[b / 2] >> 4 * (b % 2) & 15));
      for (int half = 0; half < 2; ++half, y += kLanes) {
        uint32_t points[4];
        for (int i = 0; i < 4; ++i) {
          const int k = 4 * half + i, ninth = block.qh[b] >> k & 1;
          points[i] = kIq3SGrid.points[block.qs[8 * b + k] | ninth << 8];
        }
        const uint8_t* signs = block.signs + 4 * b + 2 * half;
        IQ3::decode_16(y, points, kValues, scale, static_cast<uint32_t>(signs[0] | signs[1] << 8));
      }
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
