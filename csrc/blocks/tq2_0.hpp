// TQ2_0: 256 elements as a scale d and levels 0, 1, 2 of two bits, x = (q - 1) * d.
// d = the largest magnitude; q = roundf(x / d) + 1, with the quotient as x * (1 / d) from the unrounded d. Importance
// plays no part. Source: quantize_row_tq2_0_ref in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/ternary.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct TQ2_0 {
  struct __attribute__((packed)) Block {
    uint8_t qs[64];  // byte 32 h + i, bits 2 n and 2 n + 1: element 128 h + 32 n + i
    uint16_t d;      // f16
  };
  static_assert(sizeof(Block) == 66);

  FASTCONV_INLINE static void put_levels(const float* x, F32 inverse, Block& y) {
    for (int i = 0; i < 64; i += 16) {
      const float* v = x + i / 32 * 128 + i % 32;
      const I32 q0 = ternary_levels(v, inverse), q1 = ternary_levels(v + 32, inverse);
      const I32 q2 = ternary_levels(v + 64, inverse), q3 = ternary_levels(v + 96, inverse);
      store_bytes(y.qs + i, (q0 | shift_left<2>(q1)) | (shift_left<4>(q2) | shift_left<6>(q3)));
    }
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(f16_to_f32(block.d));
    const auto put = [d](float* out, I32 q) { store(out, to_float((q & splat(3)) - splat(1)) * d); };
    for (int i = 0; i < 64; i += 16) {
      const I32 q = load_u8(block.qs + i);
      float* out = y + i / 32 * 128 + i % 32;
      put(out, q);
      put(out + 32, shift_right<2>(q));
      put(out + 64, shift_right<4>(q));
      put(out + 96, shift_right<6>(q));
    }
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_ternary<TQ2_0>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_ternary<TQ2_0>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
