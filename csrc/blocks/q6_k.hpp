// Q6_K: 256 elements as sixteen sub-blocks of sixteen, x = d * scale * (q - 32).
// Each sub-block's scale is the best of 19 by weighted least squares, with x * x as weight.
// Source: quantize_row_q6_K_ref and make_qx_quants in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct Q6_K {
  struct __attribute__((packed)) Block {
    uint8_t ql[128];    // low 4 bits
    uint8_t qh[64];     // high 2 bits
    int8_t scales[16];  // of the sub-blocks
    uint16_t d;         // f16
  };
  static_assert(sizeof(Block) == 210);

  static constexpr int kSuperBlock = 256;
  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS

  // Lane s: sub-block s.
  struct Search {
    F32 scale;
    F32 inverse;  // of the candidate that won; its levels are round(inverse * x)
    Mask zero;    // no element above kTiny: all levels 0
  };

  // One lane is one sub-block, so that every sum runs over its sixteen elements in ggml's order.
  FASTCONV_INLINE static Search search(const float* x) {
    F32 v[16], wv[16], w[16];
    for (int s = 0; s < 16; ++s) v[s] = load(x + 16 * s);
    transpose(v);
    F32 amax = splat(0.0f), first = splat(0.0f);
    for (int i = 0; i < 16; ++i) {
      const F32 magnitude = abs(v[i]);
      const Mask larger = less(amax, magnitude);
      amax = select(larger, magnitude, amax);
      first = select(larger, v[i], first);
      w[i] = v[i] * v[i];
      wv[i] = w[i] * v[i];
    }
    const auto sums = [&](F32 inverse, F32& sum_lx, F32& sum_l2) {
      sum_lx = sum_l2 = splat(0.0f);
      for (int i = 0; i < 16; ++i) {
        const F32 l = max(min(round_even(inverse * v[i]), splat(31.0f)), splat(-32.0f));
        sum_lx = sum_lx + wv[i] * l;
        sum_l2 = sum_l2 + w[i] * l * l;
      }
    };
    const F32 zero = splat(0.0f);
    Search found;
    found.zero = less(amax, splat(kTiny));
    found.inverse = splat(-32.0f) / first;
    F32 sum_lx, sum_l2;
    sums(found.inverse, sum_lx, sum_l2);
    found.scale = select(equal(sum_l2, zero), zero, sum_lx / sum_l2);
    F32 best = found.scale * sum_lx;
    for (int step = -9; step <= 9; ++step) {
      if (step == 0) continue;
      const F32 inverse = splat(-(32 + 0.1f * static_cast<float>(step))) / first;
      sums(inverse, sum_lx, sum_l2);
      const Mask better = less(zero, sum_l2) & less(best * sum_l2, sum_lx * sum_lx);
      const F32 scale = sum_lx / sum_l2;
      found.scale = select(better, scale, found.scale);
      found.inverse = select(better, inverse, found.inverse);
      best = select(better, scale * sum_lx, best);
    }
    found.scale = select(found.zero, zero, found.scale);
    // One NaN for all: the payload would show in the bytes, and instruction sets pass on different ones.
    found.scale = select(equal(found.scale, found.scale), found.scale, splat(__builtin_nanf("")));
    return found;
  }

  // nearest_int of ggml: the low bits of the sum, whatever its exponent; NaN gives 0.
  FASTCONV_INLINE static I32 nearest(F32 a) {
    return (bits(a + splat(12582912.0f)) & splat(0x007FFFFF)) - splat(0x00400000);
  }
  FASTCONV_INLINE static int32_t nearest(float a) {
    const float sum = a + 12582912.0f;
    int32_t low;
    __builtin_memcpy(&low, &sum, sizeof low);
    return (low & 0x007FFFFF) - 0x00400000;
  }

  FASTCONV_INLINE static I32 levels(F32 scaled) { return max(min(nearest(scaled), splat(31)), splat(-32)) + splat(32); }

  FASTCONV_INLINE static void encode_block(const float* x, Block& y) {
    alignas(64) float scales[16], inverses[16];
    const Search found = search(x);
    store(scales, found.scale);
    store(inverses, found.inverse);
    const uint32_t zeros = lane_bits(found.zero);

    float max_scale = 0, max_abs_scale = 0;
    for (const float scale : scales) {
      const float magnitude = __builtin_fabsf(scale);
      if (magnitude > max_abs_scale) {
        max_abs_scale = magnitude;
        max_scale = scale;
      }
    }
    if (max_abs_scale < kTiny) {
      __builtin_memset(&y, 0, sizeof y);
      return;
    }
    const float inverse = -128.0f / max_scale;
    uint16_t d[16];
    store_f16(d, splat(1 / inverse));
    y.d = d[0];
    const float d_stored = f16_to_f32(y.d);

    uint8_t q[kSuperBlock];
    for (int s = 0; s < 16; ++s) {
      int32_t scale = nearest(inverse * scales[s]);
      if (scale > 127) scale = 127;
      y.scales[s] = static_cast<int8_t>(scale);
      const float step = d_stored * static_cast<float>(y.scales[s]);
      const F32 v = load(x + 16 * s);
      // A scale that rounds to zero keeps the levels of the search.
      I32 level = splat(0);
      if (step != 0)  // NaN included
        level = levels(v / splat(step));
      else if ((zeros >> s & 1) == 0)
        level = levels(splat(inverses[s]) * v);
      store_bytes(q + 16 * s, level);
    }
    pack(q, y);
  }

  // Half h of 128 elements, four runs of 32: ql[64 h + i] = low bits of runs 0 and 2, ql[64 h + 32 + i] of runs 1 and
  // 3, qh[32 h + i] = high bits of runs 0 to 3.
  FASTCONV_INLINE static void pack(const uint8_t* q, Block& y) {
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 32; i += 16) {
        const uint8_t* run = q + 128 * h + i;
        const I32 q0 = load_u8(run), q1 = load_u8(run + 32), q2 = load_u8(run + 64), q3 = load_u8(run + 96);
        const I32 low = splat(15), high = splat(0x30);
        store_bytes(y.ql + 64 * h + i, (q0 & low) | shift_left<4>(q2));
        store_bytes(y.ql + 64 * h + 32 + i, (q1 & low) | shift_left<4>(q3));
        store_bytes(y.qh + 32 * h + i,
                    shift_right<4>(q0) | shift_right<2>(q1 & high) | (q2 & high) | shift_left<2>(q3 & high));
      }
    }
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 2; ++i) {
        const I32 a = load_u8(block.ql + 64 * h + 16 * i), b = load_u8(block.ql + 64 * h + 32 + 16 * i);
        const I32 high = load_u8(block.qh + 32 * h + 16 * i);
        const int8_t* scales = block.scales + 8 * h + i;
        float* out = y + 128 * h + 16 * i;
        const auto put = [&](int run, I32 q) {
          store(out + 32 * run, splat(d * static_cast<float>(scales[2 * run])) * to_float(q - splat(32)));
        };
        put(0, (a & splat(15)) | (shift_left<4>(high) & splat(0x30)));
        put(1, (b & splat(15)) | (shift_left<2>(high) & splat(0x30)));
        put(2, shift_right<4>(a) | (high & splat(0x30)));
        put(3, shift_right<4>(b) | (shift_right<2>(high) & splat(0x30)));
      }
    }
  }

  static void encode(const float* x, void* dst, int64_t n) {
    Block* y = static_cast<Block*>(dst);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) encode_block(x + i * kSuperBlock, y[i]);
  }
  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
