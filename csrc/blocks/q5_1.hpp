// Q5_1: 32 elements as a step d, a minimum m and 32 levels, x = q * d + m; the fifth bits stand in a word of their own.
// d = (max - min) / 31; q = trunc((x - m) / d + 0.5) from the unrounded d and m, never above 31.
// Source: quantize_row_q5_1_ref in ggml-quants.c of llama.cpp b11434; GGJT v1 differs in the order of the low bits
// alone.
#pragma once

#include "blocks/q4_1.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <class Order>
struct Q5_1Family : FromRange<Q5_1Family<Order>, F16Field, 31> {
  using Nibbles = Order;
  static constexpr bool kHasMin = true;
  struct __attribute__((packed)) Block {
    F16Field d, m;
    uint32_t qh;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 24);

  template <class X>
  FASTCONV_INLINE static I32 levels(const X* x, F32 m, F32 inverse) {
    return truncate((load(x) - m) * inverse + splat(0.5f));
  }

  FASTCONV_INLINE static void put_levels(Block& y, I32 q0, I32 q1) {
    y.qh = fifth_bits(q0, q1);
    Order::pack(y.qs, q0 & splat(15), q1);
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(block.d.value()), m = splat(block.m.value());
    I32 q0, q1;
    Order::unpack(block.qs, q0, q1);
    store(y, to_float(with_fifth_bits(q0, block.qh & 0xFFFF)) * d + m);
    store(y + 16, to_float(with_fifth_bits(q1, block.qh >> 16)) * d + m);
  }

  // The levels of a block of another generation.
  template <class Other>
  FASTCONV_INLINE static void take_levels(const typename Other::Block& from, Block& to) {
    to.qh = from.qh;
    reorder<typename Other::Nibbles, Order>(from.qs, to.qs);
  }

  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q5_1Family>(src, y, n); }
};

using Q5_1 = Q5_1Family<HalfOrder>;
using Q5_1_v1 = Q5_1Family<PairOrder>;

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
