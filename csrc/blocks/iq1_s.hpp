// IQ1_S: 256 elements as eight sub-blocks of 32; eight at a time are a point of a grid of 2048, each element
// x = d * (2 * scale + 1) * (-1, 0 or 1, plus or minus 1/8).
// Source: quantize_row_iq1_s_impl and dequantize_row_iq1_s in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq_decode.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ1_S {
  struct __attribute__((packed)) Block {
    uint16_t d;      // f16
    uint8_t qs[32];  // low eight bits of the points
    uint16_t qh[8];  // of a sub-block: four times the high three bits, the scale in three bits, the shift's sign
  };
  static_assert(sizeof(Block) == 50);

  static constexpr int kSuperBlock = 256;

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 8; ++s) {
      const uint16_t high = block.qh[s];
      const float scale = iq1_scale(d, high >> 12 & 7);
      const auto values = [&](int k) {
        return iq1_eighths(kIq1Grid.points[block.qs[4 * s + k] | (high >> 3 * k & 7) << 8], (high & 0x8000) != 0);
      };
      store_eighths(y + 32 * s, scale, values(0), values(1));
      store_eighths(y + 32 * s + 16, scale, values(2), values(3));
    }
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
