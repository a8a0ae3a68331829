// Q5_1: 32 elements as a step d, a minimum m and 32 levels, x = q * d + m; the fifth bits stand in a word of their own.
// d = (max - min) / 31; q = trunc((x - m) / d + 0.5) from the unrounded d and m, never above 31.
// Source: quantize_row_q5_1_ref in ggml-quants.c of llama.cpp b11434; GGJT v1 differs in the order of the low bits
// alone.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

template <class Order>
struct Q5_1Family {
  using Nibbles = Order;
  static constexpr bool kHasMin = true;
  struct __attribute__((packed)) Block {
    F16Field d, m;
    uint32_t qh;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 24);

  FASTCONV_INLINE static I32 levels(const float* x, F32 m, F32 inverse) {
    return truncate((load(x) - m) * inverse + splat(0.5f));
  }

  struct Scales {
    F16Field ds[kGroup], ms[kGroup];
    alignas(64) float inverses[kGroup], mins[kGroup];
  };

  FASTCONV_INLINE static void find_scales(const float* x, int n_blocks, Scales& s) {
    const Range range = first_range(x, n_blocks);
    const F32 d = steps_of(range, 31.0f);
    store(s.ds, d);
    store(s.ms, range.min);
    store(s.inverses, inverse_or_zero(d));
    store(s.mins, range.min);
  }

  FASTCONV_INLINE static void write_blocks(const float* x, int n_blocks, const Scales& s, Block* y) {
    for (int b = 0; b < n_blocks; ++b) {
      const F32 inverse = splat(s.inverses[b]), m = splat(s.mins[b]);
      y[b].d = s.ds[b];
      y[b].m = s.ms[b];
      put_levels(y[b], levels(x + b * kBlock, m, inverse), levels(x + b * kBlock + 16, m, inverse));
    }
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

  static void encode(const float* x, void* dst, int64_t n) { encode_groups<Q5_1Family>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q5_1Family>(src, y, n); }
};

using Q5_1 = Q5_1Family<HalfOrder>;
using Q5_1_v1 = Q5_1Family<PairOrder>;

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
