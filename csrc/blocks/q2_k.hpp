// Q2_K: 256 elements as sixteen sub-blocks of 16, x = d * scale * q - dmin * min, levels of 2 bits, scales and mins
// of 4. Source: quantize_row_q2_K_ref and _impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/q4_k.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct Q2_K {
  struct __attribute__((packed)) Block {
    uint8_t scales[16];  // scale | min << 4
    uint8_t qs[64];
    uint16_t d, dmin;  // f16
  };
  static_assert(sizeof(Block) == 84);

  static constexpr int kN = 16;
  static constexpr int kFieldTop = 15;
  struct Plain {
    static constexpr int kN = 16;
    static constexpr float kTop = 3;
    static constexpr int kTries = 16;
    static constexpr float kStart = -0.5f, kStep = 0.1f;
    static constexpr bool kAbsolute = true, kGuarded = false, kJumps = false;
  };
  using Weighted = WeightedTries<16, 3>;

  FASTCONV_INLINE static void weigh_plain(const F32* v, F32* weight) {
    for (int i = 0; i < kN; ++i) weight[i] = abs(v[i]);
  }
  FASTCONV_INLINE static F32 variance(F32 sum) { return sum / splat(static_cast<float>(kSuperBlock)); }

  FASTCONV_INLINE static void put_fields(Block& y, const uint8_t* scales, const uint8_t* mins) {
    store_bytes(y.scales, load_u8(scales) | shift_left<4>(load_u8(mins)));
  }
  FASTCONV_INLINE static void put_weighted_fields(Block& y, const uint8_t* scales, const uint8_t* mins) {
    put_fields(y, scales, mins);
  }
  FASTCONV_INLINE static void get_fields(const Block& y, uint8_t* scales, uint8_t* mins) {
    const I32 both = load_u8(y.scales);
    store_bytes(scales, both & splat(15));
    store_bytes(mins, shift_right<4>(both));
  }

  // Half h of 128 elements, four runs of 32: byte 32 h + j holds element j of the runs from the low bits on.
  template <class Levels>
  FASTCONV_INLINE static void pack(const Levels& levels, Block& y) {
#pragma GCC unroll 1
    for (int i = 0; i < 4; ++i) {
      const int run = i / 2 * 8 + i % 2;
      store_bytes(y.qs + 16 * i, levels(run) | shift_left<2>(levels(run + 2)) | shift_left<4>(levels(run + 4)) |
                                     shift_left<6>(levels(run + 6)));
    }
  }
  template <class Put>
  FASTCONV_INLINE static void unpack(const Block& block, Put put) {
    for (int i = 0; i < 4; ++i) {
      const int run = i / 2 * 8 + i % 2;
      const I32 all = load_u8(block.qs + 16 * i), two = splat(3);
      put(run, all & two);
      put(run + 2, shift_right<2>(all) & two);
      put(run + 4, shift_right<4>(all) & two);
      put(run + 6, shift_right<6>(all));
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
