// TQ1_0: 256 elements as a scale d and levels 0, 1, 2, five to a byte in base 3, x = (q - 1) * d.
// d and q as in TQ2_0. A byte holds ceil(256 t / 243) for the number t that its five levels are, the first one
// foremost: the carry of byte * 3 is then the first level, that of the low byte * 3 the second, and so on. Source:
// quantize_row_tq1_0_ref in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/ternary.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct TQ1_0 {
  struct __attribute__((packed)) Block {
    uint8_t qs[48];  // bytes 0 ... 31: elements i, 32 + i ... 128 + i; bytes 32 ... 47: 160 + i, 176 + i ... 224 + i
    uint8_t qh[4];   // elements 240 + i, 244 + i ... 252 + i and a level 0
    uint16_t d;      // f16
  };
  static_assert(sizeof(Block) == 54);

  FASTCONV_INLINE static I32 times_3(I32 a) { return shift_left<1>(a) + a; }

  // ceil(256 t / 243). The half keeps the product off the whole numbers, so that its rounding cannot matter.
  FASTCONV_INLINE static I32 byte_of(I32 t) {
    return truncate((to_float(shift_left<8>(t)) + splat(242.5f)) * splat(1.0f / 243.0f));
  }

  template <class Level>
  FASTCONV_INLINE static I32 five(Level level) {
    I32 t = level(0);
#pragma GCC unroll 4
    for (int n = 1; n < 5; ++n) t = times_3(t) + level(n);
    return byte_of(t);
  }

  FASTCONV_INLINE static void put_levels(const float* x, F32 inverse, Block& y) {
    for (int i = 0; i < 32; i += 16)
      store_bytes(y.qs + i, five([&](int n) { return ternary_levels(x + i + 32 * n, inverse); }));
    store_bytes(y.qs + 32, five([&](int n) { return ternary_levels(x + 160 + 16 * n, inverse); }));
    // Lane 4 n + i: level n of byte i.
    uint8_t rest[16], bytes[16];
    store_bytes(rest, ternary_levels(x + 240, inverse));
    alignas(64) int32_t numbers[16] = {};
    for (int i = 0; i < 4; ++i) numbers[i] = 3 * (27 * rest[i] + 9 * rest[4 + i] + 3 * rest[8 + i] + rest[12 + i]);
    store_bytes(bytes, byte_of(load(numbers)));
    __builtin_memcpy(y.qh, bytes, sizeof y.qh);
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(f16_to_f32(block.d));
    const auto put = [d](float* out, int stride, I32 bytes) {
#pragma GCC unroll 5
      for (int n = 0; n < 5; ++n) {
        const I32 carried = times_3(bytes);
        store(out + stride * n, to_float(shift_right<8>(carried) - splat(1)) * d);
        bytes = carried & splat(255);
      }
    };
    put(y, 32, load_u8(block.qs));
    put(y + 16, 32, load_u8(block.qs + 16));
    put(y + 160, 16, load_u8(block.qs + 32));
    for (int i = 0; i < 4; ++i) {
      int q = block.qh[i];
      for (int n = 0; n < 4; ++n, q = 3 * q & 255)
        y[240 + 4 * n + i] = static_cast<float>((3 * q >> 8) - 1) * f16_to_f32(block.d);
    }
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_ternary<TQ1_0>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_ternary<TQ1_0>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
