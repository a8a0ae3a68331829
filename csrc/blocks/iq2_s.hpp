// IQ2_S: 256 elements as sixteen sub-blocks of 16; eight at a time are a point of a grid of 1024, each element
// x = d * (scale + 1/2) / 4 * (8, 25 or 43), with any signs.
// Source: quantize_row_iq2_s_impl and dequantize_row_iq2_s in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq2_search.hpp"
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

  static constexpr float kTiny = 1e-8f;  // GROUP_MAX_EPS_IQ2_S

  FASTCONV_INLINE static void put_scale(uint16_t bits, Block& y) { y.d = bits; }

  FASTCONV_INLINE static void encode_block(const float* x, float sum, const float* importance,
                                           const GridNeighbours& grid, Block& y) {
    const F32 mean = splat(2 * sum / 256);
    alignas(64) float scales[16];
    float most = 0;
    for (int s = 0; s < 16; ++s) {
      SubBlock<2> sub(grid);
      sub.load_elements(x + 16 * s, [&](F32 v, int i) {
        if (importance == nullptr) return splat(0.25f) * mean + v * v;
        return load(importance + 16 * s + i) * sqrt(mean + v * v);
      });
      scales[s] = 0;
      const float largest = sub.largest();
      if (largest < kTiny) continue;
      sub.tabulate();
      const auto best = sub.search<9, false>(largest / 5, largest);
      scales[s] = best.scale;
      most = best.scale > most ? best.scale : most;
      for (int k = 0; k < 2; ++k) {
        const int g = 2 * s + k;
        const uint32_t index = sub.index_of(best.codes[k]);
        y.qs[g] = static_cast<uint8_t>(index);
        y.qh[g / 4] |= static_cast<uint8_t>(index >> 8 << 2 * (g % 4));
        y.signs[g] = static_cast<uint8_t>(sub.signs >> 8 * k);
      }
    }
    if (most == 0) return;
    const float d = most / 31;
    y.d = f16_bits(d * 0.9875f);
    uint8_t levels[16];
    store_bytes(levels, stored_scales(scales, 1 / d, 15));
    for (int s = 0; s < 8; ++s) y.scales[s] = static_cast<uint8_t>(levels[2 * s] | levels[2 * s + 1] << 4);
  }

  static const GridNeighbours& neighbours() { return iq2_s_neighbours(); }
  static void encode(const float* x, void* dst, int64_t n) { encode_super_blocks<IQ2_S>(x, dst, 1, n, nullptr); }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_super_blocks<IQ2_S>(x, dst, n_rows, n_cols, importance);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<IQ2_S>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
