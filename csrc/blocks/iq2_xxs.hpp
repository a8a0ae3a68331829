// IQ2_XXS: 256 elements as eight sub-blocks of 32; eight at a time are a point of a grid of 256, each element
// x = d * (scale + 1/2) / 4 * (8, 25 or 43), with an even number of negative signs.
// Source: quantize_row_iq2_xxs_impl and dequantize_row_iq2_xxs in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq2_search.hpp"
#include "blocks/iq_decode.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct IQ2_XXS {
  struct __attribute__((packed)) Part {
    uint8_t points[4];
    uint32_t signs_scale;  // four times seven signs, then the scale in four bits
  };
  struct __attribute__((packed)) Block {
    uint16_t d;  // f16
    Part sub[8];
  };
  static_assert(sizeof(Block) == 66);

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int s = 0; s < 8; ++s) {
      const Part& sub = block.sub[s];
      const uint32_t signs = sub.signs_scale;
      const float scale = iq2_scale(d, static_cast<int>(signs >> 28));
      const auto values = [&](int k) {
        return iq2_values(kIq2XxsGrid.points[sub.points[k]], kSignBytes.of[kEvenSigns.of[signs >> 7 * k & 127]]);
      };
      store_scaled(y + 32 * s, scale, values(0), values(1));
      store_scaled(y + 32 * s + 16, scale, values(2), values(3));
    }
  }

  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS

  // The scale that serves levels 0 ... 4 best: make_qp_quants of ggml.
  FASTCONV_INLINE static float five_level_scale(const SubBlock<4>& sub, float largest) {
    const I32 top = splat(4);
    // The squared errors of nine tries, (4 + step / 10) / largest with |step| <= 4, one in each lane. The middle one
    // keeps its levels in a byte: one below 0 comes out near 255.
    const I32 step = load(kEachLane) - top;
    const I32 kept = select(equal(step, splat(0)), splat(255), splat(-1));
    const F32 inverse = (splat(0.1f) * to_float(step) + splat(4.0f)) / splat(largest), scale = splat(1.0f) / inverse;
    F32 error = splat(0.0f);
    for (int i = 0; i < 32; ++i) {
      const F32 x = splat(sub.x[i]);
      const F32 difference = x - scale * to_float(min(nearest_int(inverse * x), top) & kept);
      error = error + splat(sub.weight[i]) * difference * difference;
    }
    alignas(64) float errors[kLanes], inverses[kLanes];
    store(errors, error);
    store(inverses, inverse);
    int best = 4;
    for (const int t : {0, 1, 2, 3, 5, 6, 7, 8}) best = errors[t] < errors[best] ? t : best;

    alignas(64) float wx[32], lx[32], l2[32], levels[32];
    for (int i = 0; i < 32; i += kLanes) {
      const F32 x = load(sub.x + i), w = load(sub.weight + i);
      const I32 level = min(nearest_int(splat(inverses[best]) * x), top);
      const F32 q = to_float(level);
      store(wx + i, w * x);
      store(lx + i, w * x * q);
      store(l2 + i, w * q * q);
      store(levels + i, to_float(level & splat(255)));
    }
    float sum_lx = 0, sum_l2 = 0;
    for (int i = 0; i < 32; ++i) {
      sum_lx += lx[i];
      sum_l2 += l2[i];
    }
    // One element after the other takes the level that is best for it, if that is better for all. The sums change only
    // where one does: all that come before the next that does may be looked at with the same sums, in any order.
    for (int sweep = 0; sweep < 5; ++sweep) {
      bool changed = false;
      for (int v = 0; v < 32; v += kLanes) {
        const F32 x = load(sub.x + v), w = load(sub.weight + v), weighted = load(wx + v);
        for (uint32_t left = 0xFFFF; left != 0;) {
          const F32 q = load(levels + v);
          const F32 without_lx = splat(sum_lx) - weighted * q, without_l2 = splat(sum_l2) - w * q * q;
          const I32 other = min(nearest_int(x * without_l2 / without_lx), top);
          const F32 p = to_float(other);
          const F32 with_lx = without_lx + weighted * p, with_l2 = without_l2 + w * p * p;
          const Mask better = less(splat(0.0f), without_lx) & less(splat(0.0f), without_l2) &
                              less(splat(sum_lx * sum_lx) * with_l2, with_lx * with_lx * splat(sum_l2));
          const uint32_t at = lane_bits(better) & ~lane_bits(equal(p, q)) & left;
          if (at == 0) break;
          const int i = __builtin_ctz(at);
          alignas(64) float others[kLanes];
          store(others, to_float(other & splat(255)));
          store(lx, with_lx);
          store(l2, with_l2);
          levels[v + i] = others[i];
          sum_lx = lx[i];
          sum_l2 = l2[i];
          left = 0xFFFEu << i & 0xFFFF;
          changed = true;
        }
      }
      if (!changed) break;
    }
    return sum_l2 > 0 ? sum_lx / sum_l2 : 0;
  }

  FASTCONV_INLINE static void put_scale(uint16_t bits, Block& y) { y.d = bits; }

  FASTCONV_INLINE static void encode_block(const float* x, float sum, const float* importance,
                                           const GridNeighbours& grid, Block& y) {
    const F32 mean = splat(sum / 256);
    alignas(64) float scales[16] = {};
    float most = 0;
    for (int s = 0; s < 8; ++s) {
      SubBlock<4> sub(grid);
      sub.load_elements(x + 32 * s, [&](F32 v, int i) { return load(importance + 32 * s + i) * sqrt(mean + v * v); });
      sub.make_signs_even();
      const float largest = sub.largest();
      if (largest < kTiny) continue;
      const float scale = five_level_scale(sub, largest);
      if (scale * 3 <= 0) continue;
      sub.tabulate();
      const auto best = sub.search<6, true>(scale, scale * 3);
      scales[s] = best.scale;
      most = best.scale > most ? best.scale : most;
      uint32_t signs = 0;
      for (int k = 0; k < 4; ++k) {
        y.sub[s].points[k] = static_cast<uint8_t>(sub.index_of(best.codes[k]));
        signs |= (sub.signs >> 8 * k & 127) << 7 * k;
      }
      y.sub[s].signs_scale = signs;
    }
    if (most == 0) {
      __builtin_memset(&y, 0, sizeof y);
      return;
    }
    const float d = most / 31;
    y.d = f16_bits(d);
    uint8_t levels[16];
    store_bytes(levels, stored_scales(scales, 1 / d, 15));
    for (int s = 0; s < 8; ++s) y.sub[s].signs_scale |= static_cast<uint32_t>(levels[s]) << 28;
  }

  static const GridNeighbours& neighbours() { return iq2_xxs_neighbours(); }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_super_blocks<IQ2_XXS>(x, dst, n_rows, n_cols, importance);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<IQ2_XXS>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
