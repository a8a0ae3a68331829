// Q4_1: 32 elements as a step d, a minimum m and sixteen levels, x = q * d + m.
// d = (max - min) / 15; q = trunc((x - m) / d + 0.5) from the unrounded d and m. ggml takes the lesser of q and 15, we
// need not: 1 / d is finite only for d >= 2^-128, which holds 21 bits or more, so (x - m) / d < 15.5 after all
// roundings; and where 1 / d or max - min overflows, truncation gives 0. Source: quantize_row_q4_1_ref in ggml-quants.c
// of llama.cpp b11434; older files: llama.cpp pull requests 193, 1405, 1508.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct TruncateQ4_1 {
  FASTCONV_INLINE static I32 level(F32 scaled) { return truncate(scaled + splat(0.5f)); }
};
struct RoundQ4_1 {
  FASTCONV_INLINE static I32 level(F32 scaled) { return round_away(scaled); }
};

// Step and minimum of a type T from the range of each block, as Q4_1 and Q5_1 have them.
template <class T, class Field, int kTop>
struct FromRange {
  struct Scales {
    Field ds[kGroup], ms[kGroup];
    alignas(64) float inverses[kGroup], mins[kGroup];
  };

  template <class X>
  FASTCONV_INLINE static I32 find_scales(const X* x, int n_blocks, Scales& s) {
    const Range range = first_range(x, n_blocks);
    const F32 d = steps_of(range, static_cast<float>(kTop));
    store(s.ds, d);
    store(s.ms, range.min);
    store(s.inverses, inverse_or_zero(d));
    store(s.mins, range.min);
    return range.most;
  }

  template <class X, class Block>
  FASTCONV_INLINE static void write_blocks(const X* x, int n_blocks, const Scales& s, Block* y) {
    for (int b = 0; b < n_blocks; ++b) {
      const F32 inverse = splat(s.inverses[b]), m = splat(s.mins[b]);
      y[b].d = s.ds[b];
      y[b].m = s.ms[b];
      T::put_levels(y[b], T::levels(x + b * kBlock, m, inverse), T::levels(x + b * kBlock + 16, m, inverse));
    }
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_groups<T>(x, dst, n); }
};

template <class Field, class Order, class Rounding>
struct Q4_1Family : FromRange<Q4_1Family<Field, Order, Rounding>, Field, 15> {
  using Nibbles = Order;
  static constexpr bool kHasMin = true;
  struct __attribute__((packed)) Block {
    Field d, m;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 2 * sizeof(Field) + 16);

  template <class X>
  FASTCONV_INLINE static I32 levels(const X* x, F32 m, F32 inverse) {
    return Rounding::level((load(x) - m) * inverse);
  }

  FASTCONV_INLINE static void put_levels(Block& y, I32 q0, I32 q1) { Order::pack(y.qs, q0, q1); }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(block.d.value()), m = splat(block.m.value());
    I32 q0, q1;
    Order::unpack(block.qs, q0, q1);
    store(y, to_float(q0) * d + m);
    store(y + 16, to_float(q1) * d + m);
  }

  // The levels of a block of another generation.
  template <class Other>
  FASTCONV_INLINE static void take_levels(const typename Other::Block& from, Block& to) {
    reorder<typename Other::Nibbles, Order>(from.qs, to.qs);
  }

  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q4_1Family>(src, y, n); }
};

using Q4_1 = Q4_1Family<F16Field, HalfOrder, TruncateQ4_1>;
using Q4_1_v2 = Q4_1Family<F32Field, HalfOrder, TruncateQ4_1>;
using Q4_1_v1 = Q4_1Family<F32Field, PairOrder, RoundQ4_1>;
static_assert(sizeof(Q4_1::Block) == 20 && sizeof(Q4_1_v2::Block) == 24);

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
