// IQ2_S: 256 elements as sixteen sub-blocks of 16; eight at a time are a point of a grid of 1024, each element
// x = d * (scale + 1/2) / 4 * (8, 25 or 43), with any signs.
// Source: quantize_row_iq2_s_impl and dequantize_row_iq2_s in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq_decode.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ2_S {
  struct __attribute__((packed)) Block {
    uint16_t d;         // f16
    uint8_t qs[32];     // low eight bits of the points
    uint8_t signs[32];  // of eight elements
    uint8_t qh[8];      // high two bits of four points, the first lowest
    uint8_t scales[8];  // four bits a sub-block, the even one low
  };
  static_assert(sizeof(Block) == 82);

  static constexpr int kSuperBlock = 256;

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 16; ++s) {
      const auto values = [&](int g) {
        const int point = block.qs[g] | (block.qh[g / 4] >> 2 * (g % 4) & 3) << 8;
        return iq2_values(kIq2SGrid.points[point], kSignBytes.of[block.signs[g]]);
      };
      store_scaled(y + 16 * s, iq2_scale(d, block.scales[s / 2] >> 4 * (s % 2) & 15), values(2 * s), values(2 * s + 1));
    }
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
