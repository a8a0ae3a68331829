// IQ2_XXS: 256 elements as eight sub-blocks of 32; eight at a time are a point of a grid of 256, each element
// x = d * (scale + 1/2) / 4 * (8, 25 or 43), with an even number of negative signs.
// Source: quantize_row_iq2_xxs_impl and dequantize_row_iq2_xxs in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq_decode.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ2_XXS {
  struct __attribute__((packed)) SubBlock {
    uint8_t points[4];
    uint32_t signs_scale;  // four times seven signs, then the scale in four bits
  };
  struct __attribute__((packed)) Block {
    uint16_t d;  // f16
    SubBlock sub[8];
  };
  static_assert(sizeof(Block) == 66);

  static constexpr int kSuperBlock = 256;

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 8; ++s) {
      const SubBlock& sub = block.sub[s];
      const uint32_t signs = sub.signs_scale;
      const float scale = iq2_scale(d, static_cast<int>(signs >> 28));
      const auto values = [&](int k) {
        return iq2_values(kIq2XxsGrid.points[sub.points[k]], kSignBytes.of[kEvenSigns.of[signs >> 7 * k & 127]]);
      };
      store_scaled(y + 32 * s, scale, values(0), values(1));
      store_scaled(y + 32 * s + 16, scale, values(2), values(3));
    }
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
