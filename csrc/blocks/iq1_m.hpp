// IQ1_M: 256 elements as sixteen sub-blocks of 16; eight at a time are a point of a grid of 2048, each element
// x = d * (2 * scale + 1) * (-1, 0 or 1, plus or minus 1/8).
// Source: quantize_row_iq1_m_impl and dequantize_row_iq1_m in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/iq1_search.hpp"
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

  static constexpr float kTiny = 1e-7f;  // GROUP_MAX_EPS_IQ1_M

  // Which shift each half of a sub-block has: up and up, up and down, down and up, down and down.
  FASTCONV_INLINE static const float (&levels_of(int kind, int half))[4] {
    return (half == 0 ? kind < 2 : kind % 2 == 0) ? kShifted.up : kShifted.down;
  }

  // Sums over the elements of each half at levels 0 | 1 | 2, split at two ranks, from those over its elements below a
  // rank. Neighbouring levels are 1 apart: a sum over x is that over all at level 2, less both sums below a rank.
  FASTCONV_INLINE static Split best_split(const float (&below_x)[2][17], const float (&below_w)[2][17], float largest) {
    constexpr float kUp2 = 1 + kShift, kUp1 = kShift, kUp0 = -1 + kShift;
    constexpr float kDown2 = 1 - kShift, kDown1 = -kShift, kDown0 = -1 - kShift;
    constexpr float kUpFirst = kUp0 * kUp0 - kUp1 * kUp1, kUpSecond = kUp1 * kUp1 - kUp2 * kUp2;
    constexpr float kDownFirst = kDown0 * kDown0 - kDown1 * kDown1, kDownSecond = kDown1 * kDown1 - kDown2 * kDown2;
    F32 all_x_up[2], all_x_down[2], all_w_up[2], all_w_down[2];
    for (int h = 0; h < 2; ++h) {
      const F32 x = splat(below_x[h][16]), w = splat(below_w[h][16]);
      all_x_up[h] = x * splat(kUp2);
      all_x_down[h] = x * splat(kDown2);
      all_w_up[h] = w * splat(kUp2) * splat(kUp2);
      all_w_down[h] = w * splat(kDown2) * splat(kDown2);
    }
    Split split{largest};
    const auto consider = [&](int first, const F32(&second_x)[2], const F32(&second_w)[2], uint32_t valid, int second) {
      F32 x_up[2], x_down[2], w_up[2], w_down[2];
      for (int h = 0; h < 2; ++h) {
        const F32 x = splat(below_x[h][first]) + second_x[h], w = splat(below_w[h][first]);
        x_up[h] = all_x_up[h] - x;
        x_down[h] = all_x_down[h] - x;
        w_up[h] = all_w_up[h] + w * splat(kUpFirst) + second_w[h] * splat(kUpSecond);
        w_down[h] = all_w_down[h] + w * splat(kDownFirst) + second_w[h] * splat(kDownSecond);
      }
      const F32 qx[4] = {x_up[0] + x_up[1], x_up[0] + x_down[1], x_down[0] + x_up[1], x_down[0] + x_down[1]};
      const F32 q2[4] = {w_up[0] + w_up[1], w_up[0] + w_down[1], w_down[0] + w_up[1], w_down[0] + w_down[1]};
      split.consider(qx, q2, valid, first, second);
    };
    const F32 none[2] = {splat(0.0f), splat(0.0f)};
    consider(0, none, none, 1, 0);
    const F32 x[2] = {load(below_x[0] + 1), load(below_x[1] + 1)}, w[2] = {load(below_w[0] + 1), load(below_w[1] + 1)};
    for (int first = 0; first <= 16; ++first)
      consider(first, x, w, first == 0 ? 0xFFFF : 0xFFFF << (first - 1) & 0xFFFF, 1);
    return split;
  }

  FASTCONV_INLINE static void put_scale(uint16_t bits, Block& y) {
    for (int i = 0; i < 4; ++i) y.scales[i] |= static_cast<uint16_t>((bits >> 4 * i & 15) << 12);
  }

  FASTCONV_INLINE static void encode_block(const float* x, float sum, const float* importance,
                                           const GridNeighbours& grid, Block& y) {
    const F32 mean = splat(2 * sum / 256);
    alignas(64) float scales[16] = {}, weights[kSuperBlock];
    int kinds[16] = {};
    float most = 0;
    for (int s = 0; s < 16; ++s) {
      const float* v = x + 16 * s;
      float* weight = weights + 16 * s;
      const F32 e = load(v);
      store(weight, importance == nullptr ? e * e : load(importance + 16 * s) * sqrt(mean + e * e));
      const float largest = highest(abs(e));
      if (largest < kTiny) continue;

      I32 ranks[1];
      rank_elements<16>(v, ranks);
      uint8_t rank[16];
      store_bytes(rank, ranks[0]);
      alignas(64) float wx[16];
      store(wx, load(weight) * e);
      float sorted_x[2][16] = {}, sorted_w[2][16] = {};  // 0 where the other half's element stands
      for (int i = 0; i < 16; ++i) {
        sorted_x[i / 8][rank[i]] = wx[i];
        sorted_w[i / 8][rank[i]] = weight[i];
      }
      float below_x[2][17], below_w[2][17];
      for (int h = 0; h < 2; ++h) {
        below_x[h][0] = below_w[h][0] = 0;
        for (int i = 0; i < 16; ++i) {
          below_x[h][i + 1] = below_x[h][i] + sorted_x[h][i];
          below_w[h][i + 1] = below_w[h][i] + sorted_w[h][i];
        }
      }
      const Split split = best_split(below_x, below_w, largest);
      if (split.kind < 0) continue;

      uint32_t above_0 = lane_bits(less(splat(split.first - 1), ranks[0]));
      uint32_t above_1 = lane_bits(less(splat(split.second - 1), ranks[0]));
      float scale = split.scale;
      kinds[s] = split.kind;
      if (scale < 0) {
        scale = -scale;
        kinds[s] = 3 - kinds[s];
        const uint32_t swapped = ~above_0;
        above_0 = ~above_1;
        above_1 = swapped;
      }
      bool all_on_grid = true;
      uint16_t codes[2];
      for (int k = 0; k < 2; ++k) {
        const PointOf point = point_of(grid, above_0 >> 8 * k & 255, above_1 >> 8 * k & 255, v + 8 * k, weight + 8 * k,
                                       scale, levels_of(kinds[s], k));
        all_on_grid &= point.was_on_grid;
        codes[k] = point.code;
        y.qs[2 * s + k] = static_cast<uint8_t>(point.index);
        y.qh[s] |= static_cast<uint8_t>(point.index >> 8 << 4 * k);
      }
      if (!all_on_grid) {
        float qx = 0, q2 = 0;
        for (int i = 0; i < 16; ++i) {
          const float q = levels_of(kinds[s], i / 8)[codes[i / 8] >> 2 * (i % 8) & 3], wq = weight[i] * q;
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

    float d = most / 15;
    uint8_t stored[16];
    store_bytes(stored, stored_scales(scales, 1 / d, 7));
    float qx = 0, q2 = 0;
    for (int s = 0; s < 16; ++s) {
      y.scales[s / 4] |= static_cast<uint16_t>(stored[s] << 3 * (s % 4));
      uint64_t levels[2];
      for (int k = 0; k < 2; ++k) levels[k] = kIq1Grid.points[y.qs[2 * s + k] | (y.qh[s] >> 4 * k & 7) << 8];
      alignas(64) float both[8], wqx[16], wqq[16];
      for (int k = 0; k < 2; ++k) __builtin_memcpy(both + 4 * k, levels_of(kinds[s], k), 4 * sizeof(float));
      const I32 half = shift_right<1>(load(kEachLane) & splat(8));
      const F32 multiple = splat(static_cast<float>(2 * stored[s] + 1));
      const F32 q = lookup(both, load_u8(reinterpret_cast<const uint8_t*>(levels)) | half) * multiple;
      const F32 wq = load(weights + 16 * s) * q;
      store(wqx, wq * load(x + 16 * s));
      store(wqq, wq * q);
      for (int i = 0; i < 16; ++i) {
        qx += wqx[i];
        q2 += wqq[i];
      }
      y.qh[s] |= static_cast<uint8_t>((kinds[s] % 2 != 0 ? 0x80 : 0) | (kinds[s] >= 2 ? 0x08 : 0));
    }
    if (q2 > 0) d = qx / q2;
    put_scale(f16_bits(d * 1.1125f), y);
  }

  static const GridNeighbours& neighbours() { return iq1_neighbours(); }
  static void encode(const float* x, void* dst, int64_t n) { encode_super_blocks<IQ1_M>(x, dst, 1, n, nullptr); }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_super_blocks<IQ1_M>(x, dst, n_rows, n_cols, importance);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<IQ1_M>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
