// Q5_0: 32 elements as a scale d and 32 levels, x = (q - 16) * d; the fifth bits stand in a word of their own.
// d = max / -16; q = trunc(x / d + 16.5), at most 31, with the quotient as x * (1 / d) from the unrounded d.
// Source: quantize_row_q5_0_ref in ggml-quants.c of llama.cpp b11434; GGJT v1 differs in the order of the low bits
// alone.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <class Order>
struct Q5_0Family {
  using Nibbles = Order;
  static constexpr bool kHasMin = false;
  struct __attribute__((packed)) Block {
    F16Field d;
    uint32_t qh;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 22);

  template <class X>
  FASTCONV_INLINE static I32 levels(const X* x, F32 inverse) {
    return min(truncate(load(x) * inverse + splat(16.5f)), splat(31));
  }

  struct Scales {
    F16Field ds[kGroup];
    alignas(64) float inverses[kGroup];
  };

  template <class X>
  FASTCONV_INLINE static I32 find_scales(const X* x, int n_blocks, Scales& s) {
    const Largest first = first_largest(x, n_blocks);
    const F32 d = first.value * splat(-0.0625f);
    store(s.ds, d);
    store(s.inverses, inverse_or_zero(d));
    return first.most;
  }

  template <class X>
  FASTCONV_INLINE static void write_blocks(const X* x, int n_blocks, const Scales& s, Block* y) {
    for (int b = 0; b < n_blocks; ++b) {
      const F32 inverse = splat(s.inverses[b]);
      y[b].d = s.ds[b];
      put_levels(y[b], levels(x + b * kBlock, inverse), levels(x + b * kBlock + 16, inverse));
    }
  }
  FASTCONV_INLINE static void put_levels(Block& y, I32 q0, I32 q1) {
    y.qh = fifth_bits(q0, q1);
    Order::pack(y.qs, q0 & splat(15), q1);
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(block.d.value());
    I32 q0, q1;
    Order::unpack(block.qs, q0, q1);
    store(y, to_float(with_fifth_bits(q0, block.qh & 0xFFFF) - splat(16)) * d);
    store(y + 16, to_float(with_fifth_bits(q1, block.qh >> 16) - splat(16)) * d);
  }

  // The levels of a block of another generation.
  template <class Other>
  FASTCONV_INLINE static void take_levels(const typename Other::Block& from, Block& to) {
    to.qh = from.qh;
    reorder<typename Other::Nibbles, Order>(from.qs, to.qs);
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_groups<Q5_0Family>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q5_0Family>(src, y, n); }
};

using Q5_0 = Q5_0Family<HalfOrder>;
using Q5_0_v1 = Q5_0Family<PairOrder>;

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
