// IQ1_M: 256 elements as sixteen sub-blocks of 16; eight at a time are a point of a grid of 2048, each element
// x = d * (2 * scale + 1) * (-1, 0 or 1, plus or minus 1/8).
// Source: quantize_row_iq1_m_impl and dequantize_row_iq1_m in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq_decode.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ1_M {
  struct __attribute__((packed)) Block {
    uint8_t qs[32];      // low eight bits of the points
    uint8_t qh[16];      // of two points: high three bits and the shift's sign
    uint16_t scales[4];  // three bits of each of four sub-blocks, then four bits of d, the lowest first; d is f16
  };
  static_assert(sizeof(Block) == 56);

  static constexpr int kSuperBlock = 256;

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    unsigned bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (block.scales[i] >> 12u) << 4 * i;
    const float d = f16_to_f32(static_cast<uint16_t>(bits));
    for (int s = 0; s < 16; ++s) {
      const auto values = [&](int k) {
        const int high = block.qh[s] >> 4 * k;
        return iq1_eighths(kIq1Grid.points[block.qs[2 * s + k] | (high & 7) << 8], (high & 8) != 0);
      };
      store_eighths(y + 16 * s, iq1_scale(d, block.scales[s / 4] >> 3 * (s % 4) & 7), values(0), values(1));
    }
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
