// Q4_K: 256 elements as eight sub-blocks of 32, x = d * scale * q - dmin * min, levels of 4 bits, scales and mins of 6.
// Source: quantize_row_q4_K_ref and _impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_blocks.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Eight scales and eight mins of 6 bits in 12 bytes: the low six bits of bytes 0 ... 3 are scales 0 ... 3, of bytes
// 4 ... 7 mins 0 ... 3; byte 8 + i holds the low four bits of scale 4 + i and min 4 + i, whose high two are on top of
// bytes i and 4 + i.
struct SixBitFields {
  FASTCONV_INLINE static void put(uint8_t* out, const uint8_t* scales, const uint8_t* mins) {
    for (int i = 0; i < 4; ++i) {
      const uint8_t scale = scales[4 + i], min = mins[4 + i];
      out[i] = static_cast<uint8_t>(scales[i] | scale >> 4 << 6);
      out[4 + i] = static_cast<uint8_t>(mins[i] | min >> 4 << 6);
      out[8 + i] = static_cast<uint8_t>((scale & 15) | min << 4);
    }
  }
  FASTCONV_INLINE static void get(const uint8_t* in, uint8_t* scales, uint8_t* mins) {
    for (int i = 0; i < 4; ++i) {
      scales[i] = in[i] & 63;
      mins[i] = in[4 + i] & 63;
      scales[4 + i] = static_cast<uint8_t>((in[8 + i] & 15) | in[i] >> 6 << 4);
      mins[4 + i] = static_cast<uint8_t>(in[8 + i] >> 4 | in[4 + i] >> 6 << 4);
    }
  }
};

// What Q4_K and Q5_K share.
struct SubBlocksOf32 {
  static constexpr int kN = 32;
  static constexpr int kFieldTop = 63;
  struct PlainTries {
    static constexpr int kN = 32;
    static constexpr float kStep = 0.1f;
    static constexpr bool kAbsolute = false, kGuarded = false, kJumps = false;
  };

  // The square root of the mean of squares plus the magnitude.
  FASTCONV_INLINE static void weigh_plain(const F32* v, F32* weight) {
    F32 sum = splat(0.0f);
    for (int i = 0; i < kN; ++i) sum = sum + v[i] * v[i];
    const F32 level = sqrt(sum / splat(static_cast<float>(kN)));
    for (int i = 0; i < kN; ++i) weight[i] = level + abs(v[i]);
  }
  FASTCONV_INLINE static F32 variance(F32 sum) { return (sum + sum) / splat(static_cast<float>(kSuperBlock)); }

  template <class Block>
  FASTCONV_INLINE static void put_fields(Block& y, const uint8_t* scales, const uint8_t* mins) {
    SixBitFields::put(y.scales, scales, mins);
  }
  template <class Block>
  FASTCONV_INLINE static void get_fields(const Block& y, uint8_t* scales, uint8_t* mins) {
    SixBitFields::get(y.scales, scales, mins);
  }
};

struct Q4_K : SubBlocksOf32 {
  struct __attribute__((packed)) Block {
    uint16_t d, dmin;    // f16
    uint8_t scales[12];  // SixBitFields
    uint8_t qs[128];
  };
  static_assert(sizeof(Block) == 144);

  struct Plain : PlainTries {
    static constexpr float kTop = 15;
    static constexpr int kTries = 21;
    static constexpr float kStart = -1.0f;
  };
  using Weighted = WeightedTries<32, 15>;

  FASTCONV_INLINE static void put_weighted_fields(Block& y, const uint8_t* scales, const uint8_t* mins) {
    put_fields(y, scales, mins);
  }

  // Byte 32 i + j = element 64 i + j | element 64 i + 32 + j << 4.
  template <class Levels>
  FASTCONV_INLINE static void pack(const Levels& levels, Block& y) {
#pragma GCC unroll 1
    for (int i = 0; i < 8; ++i) {
      const int run = i / 2 * 4 + i % 2;
      store_bytes(y.qs + 16 * i, levels(run) | shift_left<4>(levels(run + 2)));
    }
  }
  template <class Put>
  FASTCONV_INLINE static void unpack(const Block& block, Put put) {
    for (int i = 0; i < 8; ++i) {
      const int run = i / 2 * 4 + i % 2;
      const I32 both = load_u8(block.qs + 16 * i);
      put(run, both & splat(15));
      put(run + 2, shift_right<4>(both));
    }
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
