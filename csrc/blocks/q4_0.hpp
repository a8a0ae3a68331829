// Q4_0: 32 elements as a scale d and sixteen levels, x = (q - 8) * d. The element of largest magnitude is level 0.
// d = max / -8; q = trunc(x / d + 8.5), at most 15, with the quotient as x * (1 / d) from the unrounded d.
// Source: quantize_row_q4_0_ref in ggml-quants.c of llama.cpp b11434; older files: llama.cpp pull requests 729, 1405,
// 1508.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct TruncateQ4_0 {
  FASTCONV_INLINE static I32 level(F32 scaled) { return truncate(scaled + splat(8.5f)); }
};
struct RoundQ4_0 {
  FASTCONV_INLINE static I32 level(F32 scaled) { return round_away(scaled) + splat(8); }
};

template <class Field, class Order, class Rounding>
struct Q4_0Family {
  using Nibbles = Order;
  static constexpr bool kHasMin = false;
  struct __attribute__((packed)) Block {
    Field d;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == sizeof(Field) + 16);

  template <class X>
  FASTCONV_INLINE static I32 levels(const X* x, F32 inverse) {
    return min(Rounding::level(load(x) * inverse), splat(15));
  }

  struct Scales {
    Field ds[kGroup];
    alignas(64) float inverses[kGroup];
  };

  template <class X>
  FASTCONV_INLINE static I32 find_scales(const X* x, int n_blocks, Scales& s) {
    const Largest first = first_largest(x, n_blocks);
    const F32 d = first.value * splat(-0.125f);
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
  FASTCONV_INLINE static void put_levels(Block& y, I32 q0, I32 q1) { Order::pack(y.qs, q0, q1); }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(block.d.value());
    I32 q0, q1;
    Order::unpack(block.qs, q0, q1);
    store(y, to_float(q0 - splat(8)) * d);
    store(y + 16, to_float(q1 - splat(8)) * d);
  }

  // The levels of a block of another generation.
  template <class Other>
  FASTCONV_INLINE static void take_levels(const typename Other::Block& from, Block& to) {
    reorder<typename Other::Nibbles, Order>(from.qs, to.qs);
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_groups<Q4_0Family>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q4_0Family>(src, y, n); }
};

using Q4_0 = Q4_0Family<F16Field, HalfOrder, TruncateQ4_0>;
using Q4_0_v2 = Q4_0Family<F32Field, HalfOrder, TruncateQ4_0>;
using Q4_0_v1 = Q4_0Family<F32Field, PairOrder, RoundQ4_0>;
static_assert(sizeof(Q4_0::Block) == 18 && sizeof(Q4_0_v2::Block) == 20);

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
