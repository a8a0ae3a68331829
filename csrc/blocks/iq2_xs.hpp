// IQ2_XS: 256 elements as sixteen sub-blocks of 16; eight at a time are a point of a grid of 512, each element
// x = d * (scale + 1/2) / 4 * (8, 25 or 43), with an even number of negative signs.
// Source: quantize_row_iq2_xs_impl and dequantize_row_iq2_xs in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq2_search.hpp"
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

  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS

  FASTCONV_INLINE static void put_scale(uint16_t bits, Block& y) { y.d = bits; }

  FASTCONV_INLINE static void encode_block(const float* x, float sum, const float* importance,
                                           const GridNeighbours& grid, Block& y) {
    const F32 mean = splat(sum / 256);
    alignas(64) float scales[16];
    float most = 0;
    for (int s = 0; s < 16; ++s) {
      SubBlock<2> sub(grid);
      sub.load_elements(x + 16 * s, [&](F32 v, int i) { return load(importance + 16 * s + i) * sqrt(mean + v * v); });
      sub.make_signs_even();
      scales[s] = 0;
      const float largest = sub.largest();
      if (largest < kTiny) continue;
      sub.tabulate();
      const auto best = sub.search<9, false>(largest / 5, largest);
      scales[s] = best.scale;
      most = best.scale > most ? best.scale : most;
      for (int k = 0; k < 2; ++k)
        y.qs[2 * s + k] = static_cast<uint16_t>(sub.index_of(best.codes[k]) | (sub.signs >> 8 * k & 127) << 9);
    }
    if (most == 0) {
      __builtin_memset(&y, 0, sizeof y);
      return;
    }
    const float d = most / 31;
    y.d = f16_bits(d);
    uint8_t levels[16];
    store_bytes(levels, stored_scales(scales, 1 / d, 15));
    for (int s = 0; s < 8; ++s) y.scales[s] = static_cast<uint8_t>(levels[2 * s] | levels[2 * s + 1] << 4);
  }

  static const GridNeighbours& neighbours() { return iq2_xs_neighbours(); }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_super_blocks<IQ2_XS>(x, dst, n_rows, n_cols, importance);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<IQ2_XS>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
