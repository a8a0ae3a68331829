// IQ2_XS: 256 elements as sixteen sub-blocks of 16; eight at a time are a point of a grid of 512, each element
// x = d * (scale + 1/2) / 4 * (8, 25 or 43), with an even number of negative signs.
// Source: quantize_row_iq2_xs_impl and dequantize_row_iq2_xs in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq_decode.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ2_XS {
  struct __attribute__((packed)) Block {
    uint16_t d;         // f16
    uint16_t qs[32];    // point in nine bits, seven signs
    uint8_t scales[8];  // four bits a sub-block, the even one low
  };
  static_assert(sizeof(Block) == 74);

  static constexpr int kSuperBlock = 256;

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 16; ++s) {
      const auto values = [&](int k) {
        const uint16_t q = block.qs[2 * s + k];
        return iq2_values(kIq2XsGrid.points[q & 511], kSignBytes.of[kEvenSigns.of[q >> 9]]);
      };
      store_scaled(y + 16 * s, iq2_scale(d, block.scales[s / 2] >> 4 * (s % 2) & 15), values(0), values(1));
    }
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
