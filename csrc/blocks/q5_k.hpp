// Q5_K: Q4_K with levels of 5 bits.
// Source: quantize_row_q5_K_ref and _impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/q4_k.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct Q5_K : SubBlocksOf32 {
  struct __attribute__((packed)) Block {
    uint16_t d, dmin;    // f16
    uint8_t scales[12];  // SixBitFields
    uint8_t qh[32];      // fifth bits
    uint8_t qs[128];     // low 4 bits
  };
  static_assert(sizeof(Block) == 176);

  struct Plain : PlainTries {
    static constexpr float kTop = 31;
    static constexpr int kTries = 16;
    static constexpr float kStart = -0.5f;
  };
  using Weighted = WeightedTries<32, 31>;

  FASTCONV_INLINE static void put_weighted_fields(Block& y, uint8_t* scales, uint8_t* mins) {
    for (int i = 0; i < 8; ++i) {
      scales[i] = scales[i] < 63 ? scales[i] : 63;
      mins[i] = mins[i] < 63 ? mins[i] : 63;
    }
    put_fields(y, scales, mins);
  }

  // Byte 32 i + j = element 64 i + j | element 64 i + 32 + j << 4; bit i of byte j in qh: of element 32 i + j.
  template <class Levels>
  FASTCONV_INLINE static void pack(const Levels& levels, Block& y) {
#pragma GCC unroll 1
    for (int j = 0; j < 2; ++j) {
      I32 high = splat(0);
      // From the last pair of sub-blocks on: each shift makes room for the two before it.
#pragma GCC unroll 1
      for (int i = 3; i >= 0; --i) {
        const I32 a = levels(4 * i + j), b = levels(4 * i + 2 + j);
        store_bytes(y.qs + 32 * i + 16 * j, (a & splat(15)) | shift_left<4>(b));
        high = shift_left<2>(high) | shift_right<4>(a) | (shift_right<3>(b) & splat(2));
      }
      store_bytes(y.qh + 16 * j, high);
    }
  }
  template <class Put>
  FASTCONV_INLINE static void unpack(const Block& block, Put put) {
    for (int j = 0; j < 2; ++j) {
      I32 high = shift_left<4>(load_u8(block.qh + 16 * j));
      for (int i = 0; i < 4; ++i) {
        const I32 both = load_u8(block.qs + 32 * i + 16 * j), fifth = splat(16);
        put(4 * i + j, (both & splat(15)) | (high & fifth));
        put(4 * i + 2 + j, shift_right<4>(both) | (shift_right<1>(high) & fifth));
        high = shift_right<2>(high);
      }
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
