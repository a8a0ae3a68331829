// Q6_K: 256 elements as sixteen sub-blocks of sixteen, x = d * scale * (q - 32).
// Each sub-block's scale is the best of 19 by weighted least squares, with x * x or the importance as weight.
// Source: quantize_row_q6_K_ref and quantize_row_q6_K_impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/signed_search.hpp"

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

  using Search = SignedSearch<16, 32>;  // lane s: sub-block s

  // The payload of a NaN would show in the levels, and compilers and instruction sets pass on different ones.
  FASTCONV_INLINE static I32 levels(F32 scaled) {
    scaled = select(equal(scaled, scaled), scaled, splat(__builtin_nanf("")));
    return max(min(nearest_int(scaled), splat(31)), splat(-32)) + splat(32);
  }

  // Lane s of row i: element i of sub-block s.
  FASTCONV_INLINE static void transpose_sub_blocks(const float* x, F32 (&rows)[16]) {
    for (int s = 0; s < 16; ++s) rows[s] = load(x + 16 * s);
    transpose(rows);
  }

  // The first of the largest magnitudes, NaN apart; 0 where all are NaN.
  FASTCONV_INLINE static float first_largest(const float* scales) {
    uint64_t largest = 0;
    for (uint32_t s = 0; s < 16; ++s) {
      uint32_t magnitude;
      __builtin_memcpy(&magnitude, scales + s, sizeof magnitude);
      magnitude &= 0x7FFFFFFF;
      if (magnitude > 0x7F800000) magnitude = 0;
      const uint64_t key = static_cast<uint64_t>(magnitude) << 4 | (15 - s);
      largest = key > largest ? key : largest;
    }
    return largest < 16 ? 0.0f : scales[15 - (largest & 15)];
  }

  FASTCONV_INLINE static void encode_block(const float* x, const Search::Found& found, Block& y) {
    alignas(64) float scales[16];
    store(scales, found.scale);
    const float max_scale = first_largest(scales);
    if (__builtin_fabsf(max_scale) < Search::kTiny) {
      __builtin_memset(&y, 0, sizeof y);
      return;
    }
    const float inverse = -128.0f / max_scale;
    uint16_t d[16];
    store_f16(d, splat(1 / inverse));
    y.d = d[0];
    store_bytes(reinterpret_cast<uint8_t*>(y.scales), min(nearest_int(splat(inverse) * found.scale), splat(127)));
    const F32 step = splat(f16_to_f32(y.d)) * to_float(load_i8(y.scales));
    alignas(64) float steps[16];
    store(steps, step);

    uint8_t q[kSuperBlock];
    for (int s = 0; s < 16; ++s) store_bytes(q + 16 * s, levels(load(x + 16 * s) / splat(steps[s])));
    // A scale that rounds to zero keeps the levels of the search.
    const uint32_t kept = lane_bits(equal(step, splat(0.0f)));
    if (kept != 0) {
      alignas(64) float inverses[16];
      store(inverses, found.inverse);
      const uint32_t zeros = lane_bits(found.zero);
      for (int s = 0; s < 16; ++s) {
        if ((kept >> s & 1) == 0) continue;
        const I32 level = levels(splat(inverses[s]) * load(x + 16 * s));
        store_bytes(q + 16 * s, (zeros >> s & 1) != 0 ? splat(0) : level);
      }
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
    for (int64_t i = 0; i < n / kSuperBlock; ++i, x += kSuperBlock) {
      F32 v[16];
      transpose_sub_blocks(x, v);
      encode_block(x, Search::search(v, [&v](int e) { return v[e] * v[e]; }), y[i]);
    }
  }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    Block* y = static_cast<Block*>(dst);
    for (int64_t i = 0; i < n_rows * n_cols / kSuperBlock; ++i, x += kSuperBlock) {
      F32 v[16], weights[16];
      transpose_sub_blocks(x, v);
      transpose_sub_blocks(importance + i * kSuperBlock % n_cols, weights);
      encode_block(x, Search::search(v, [&weights](int e) { return weights[e]; }), y[i]);
    }
  }
  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
