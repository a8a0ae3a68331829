// IQ1_S: 256 elements as eight sub-blocks of 32; eight at a time are a point of a grid of 2048, each element
// x = d * (2 * scale + 1) * (-1, 0 or 1, plus or minus 1/8).
// Source: quantize_row_iq1_s_impl and dequantize_row_iq1_s in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq1_search.hpp"
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

  static constexpr float kTiny = 1e-12f;  // GROUP_MAX_EPS_IQ1_S

  // Sums over all elements at levels 0 | 1 | 2, split at two ranks, from those over the elements below a rank.
  FASTCONV_INLINE static Split best_split(const float (&below_x)[33], const float (&below_w)[33], float largest) {
    const float(&up)[4] = kShifted.up;
    const float(&down)[4] = kShifted.down;
    // Lane i of vector v: the second rank is 16 v + i + 1.
    F32 x[2], w[2], top_x_up[2], top_x_down[2], top_w_up[2], top_w_down[2];
    for (int v = 0; v < 2; ++v) {
      x[v] = load(below_x + 16 * v + 1);
      w[v] = load(below_w + 16 * v + 1);
      const F32 rest_x = splat(below_x[32]) - x[v], rest_w = splat(below_w[32]) - w[v];
      top_x_up[v] = rest_x * splat(up[2]);
      top_x_down[v] = rest_x * splat(down[2]);
      top_w_up[v] = rest_w * splat(up[2]) * splat(up[2]);
      top_w_down[v] = rest_w * splat(down[2]) * splat(down[2]);
    }
    Split split{largest};
    {  // both ranks 0: all elements at level 2
      const float all_x = below_x[32], all_w = below_w[32];
      const F32 qx[2] = {splat(all_x * up[2]), splat(all_x * down[2])};
      const F32 q2[2] = {splat(all_w * up[2] * up[2]), splat(all_w * down[2] * down[2])};
      split.consider(qx, q2, 1, 0, 0);
    }
    for (int first = 0; first <= 32; ++first) {
      const F32 low_x = splat(below_x[first]), low_w = splat(below_w[first]);
      const F32 low_x_up = low_x * splat(up[0]), low_x_down = low_x * splat(down[0]);
      const F32 low_w_up = low_w * splat(up[0]) * splat(up[0]), low_w_down = low_w * splat(down[0]) * splat(down[0]);
      for (int v = first <= 16 ? 0 : 1; v < 2; ++v) {
        // The middle levels differ in sign alone.
        const F32 middle_x = (x[v] - low_x) * splat(up[1]), middle_w = (w[v] - low_w) * splat(up[1]) * splat(up[1]);
        const F32 qx[2] = {low_x_up + middle_x + top_x_up[v], low_x_down - middle_x + top_x_down[v]};
        const F32 q2[2] = {low_w_up + middle_w + top_w_up[v], low_w_down + middle_w + top_w_down[v]};
        const int before = first - 1 - 16 * v;  // lanes whose second rank is below the first
        split.consider(qx, q2, before <= 0 ? 0xFFFF : 0xFFFF << before & 0xFFFF, first, 16 * v + 1);
      }
    }
    return split;
  }

  FASTCONV_INLINE static void put_scale(uint16_t bits, Block& y) { y.d = bits; }

  FASTCONV_INLINE static void encode_block(const float* x, float sum, const float* importance,
                                           const GridNeighbours& grid, Block& y) {
    const F32 mean = splat(2 * sum / 256);
    alignas(64) float scales[16] = {};
    bool down[8] = {};
    float most = 0;
    for (int s = 0; s < 8; ++s) {
      const float* v = x + 32 * s;
      F32 magnitude = splat(0.0f);
      alignas(64) float weight[32], wx[32];
      for (int i = 0; i < 32; i += kLanes) {
        const F32 e = load(v + i), w = load(importance + 32 * s + i) * sqrt(mean + e * e);
        magnitude = max(abs(e), magnitude);
        store(weight + i, w);
        store(wx + i, w * e);
      }
      const float largest = highest(magnitude);
      if (largest < kTiny) continue;

      I32 ranks[2];
      rank_elements<32>(v, ranks);
      uint8_t rank[32];
      for (int k = 0; k < 2; ++k) store_bytes(rank + 16 * k, ranks[k]);
      float sorted_x[32], sorted_w[32], below_x[33], below_w[33];
      for (int i = 0; i < 32; ++i) {
        sorted_x[rank[i]] = wx[i];
        sorted_w[rank[i]] = weight[i];
      }
      below_x[0] = below_w[0] = 0;
      for (int i = 0; i < 32; ++i) {
        below_x[i + 1] = below_x[i] + sorted_x[i];
        below_w[i + 1] = below_w[i] + sorted_w[i];
      }
      const Split split = best_split(below_x, below_w, largest);
      if (split.kind < 0) continue;

      uint32_t above_0 = 0, above_1 = 0;
      for (int k = 0; k < 2; ++k) {
        above_0 |= lane_bits(less(splat(split.first - 1), ranks[k])) << 16 * k;
        above_1 |= lane_bits(less(splat(split.second - 1), ranks[k])) << 16 * k;
      }
      float scale = split.scale;
      down[s] = split.kind == 1;
      if (scale < 0) {
        scale = -scale;
        down[s] = !down[s];
        const uint32_t swapped = ~above_0;
        above_0 = ~above_1;
        above_1 = swapped;
      }
      const float(&levels)[4] = down[s] ? kShifted.down : kShifted.up;
      bool all_on_grid = true;
      uint16_t codes[4];
      uint32_t high = 0;
      for (int k = 0; k < 4; ++k) {
        const PointOf point =
            point_of(grid, above_0 >> 8 * k & 255, above_1 >> 8 * k & 255, v + 8 * k, weight + 8 * k, scale, levels);
        all_on_grid &= point.was_on_grid;
        codes[k] = point.code;
        y.qs[4 * s + k] = static_cast<uint8_t>(point.index);
        high |= point.index >> 8 << 3 * k;
      }
      y.qh[s] = static_cast<uint16_t>(high);
      if (!all_on_grid) {
        float qx = 0, q2 = 0;
        for (int i = 0; i < 32; ++i) {
          const float q = levels[codes[i / 8] >> 2 * (i % 8) & 3], wq = weight[i] * q;
          qx += wq * v[i];
          q2 += wq * q;
        }
        if (qx > 0 && q2 > 0) scale = qx / q2;
      }
      if (!(scale >= 0)) scale = 0;  // where ggml aborts
      scales[s] = scale;
      most = scale > most ? scale : most;
    }
    if (most == 0) return;
    const float d = most / 15;
    y.d = f16_bits(d * 1.125f);
    uint8_t stored[16];
    store_bytes(stored, stored_scales(scales, 1 / d, 7));
    for (int s = 0; s < 8; ++s) y.qh[s] |= static_cast<uint16_t>((stored[s] | (down[s] ? 8 : 0)) << 12);
  }

  static const GridNeighbours& neighbours() { return iq1_neighbours(); }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_super_blocks<IQ1_S>(x, dst, n_rows, n_cols, importance);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<IQ1_S>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
