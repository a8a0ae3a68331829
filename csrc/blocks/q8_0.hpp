// Q8_0: 32 elements as a scale d and signed bytes, x = q * d.
// d = amax / 127; q = roundf(x / d), half away from zero, with the quotient as x * (1 / d) from the unrounded d.
// Source: quantize_row_q8_0_ref in ggml-quants.c of llama.cpp b11434; files before GGJT v3 hold d in f32.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <class Field>
struct Q8_0Family {
  static constexpr bool kHasMin = false;
  struct __attribute__((packed)) Block {
    Field d;
    int8_t qs[32];
  };
  static_assert(sizeof(Block) == sizeof(Field) + 32);

  struct Scales {
    Field ds[kGroup];
    alignas(64) float inverses[kGroup];
  };

  template <class X>
  FASTCONV_INLINE static I32 find_scales(const X* x, int n_blocks, Scales& s) {
    const Largest largest = largest_magnitudes(x, n_blocks);
    const F32 d = largest.value / splat(127.0f);
    store(s.ds, d);
    store(s.inverses, inverse_or_zero(d));
    return largest.most;
  }

  template <class X>
  FASTCONV_INLINE static void write_blocks(const X* x, int n_blocks, const Scales& s, Block* y) {
    for (int b = 0; b < n_blocks; ++b) {
      const F32 inverse = splat(s.inverses[b]);
      uint8_t* qs = reinterpret_cast<uint8_t*>(y[b].qs);
      y[b].d = s.ds[b];
      store_bytes(qs, round_away(load(x + b * kBlock) * inverse));
      store_bytes(qs + 16, round_away(load(x + b * kBlock + 16) * inverse));
    }
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(block.d.value());
    store(y, to_float(load_i8(block.qs)) * d);
    store(y + 16, to_float(load_i8(block.qs + 16)) * d);
  }

  // The levels of a block of another generation.
  template <class Other>
  FASTCONV_INLINE static void take_levels(const typename Other::Block& from, Block& to) {
    __builtin_memcpy(to.qs, from.qs, sizeof to.qs);
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_groups<Q8_0Family>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q8_0Family>(src, y, n); }
};

using Q8_0 = Q8_0Family<F16Field>;
using Q8_0_v1 = Q8_0Family<F32Field>;
static_assert(sizeof(Q8_0::Block) == 34 && sizeof(Q8_0_v1::Block) == 36);

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
