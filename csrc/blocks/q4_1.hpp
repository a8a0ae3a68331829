// Q4_1: 32 elements as a step d, a minimum m and sixteen levels, x = q * d + m.
// d = (max - min) / 15; q = trunc((x - m) / d + 0.5), at most 15, from the unrounded d and m.
// Source: quantize_row_q4_1_ref in ggml-quants.c of llama.cpp b11434; older files: llama.cpp pull requests 193, 1405,
// 1508.
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

template <class Field, class Order, class Rounding>
struct Q4_1Family {
  struct __attribute__((packed)) Block {
    Field d, m;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 2 * sizeof(Field) + 16);

  FASTCONV_INLINE static I32 levels(const float* x, F32 m, F32 inverse) {
    return min(Rounding::level((load(x) - m) * inverse), splat(15));
  }

  FASTCONV_INLINE static void encode_group(const float* x, Block* y, int n_blocks) {
    const Range range = first_range(x, n_blocks);
    const F32 d = steps_of(range, 15.0f);
    Field ds[kGroup], ms[kGroup];
    alignas(64) float inverses[kGroup], mins[kGroup];
    store(ds, d);
    store(ms, range.min);
    store(inverses, inverse_or_zero(d));
    store(mins, range.min);
    for (int b = 0; b < n_blocks; ++b) {
      const F32 inverse = splat(inverses[b]), m = splat(mins[b]);
      y[b].d = ds[b];
      y[b].m = ms[b];
      Order::pack(y[b].qs, levels(x + b * kBlock, m, inverse), levels(x + b * kBlock + 16, m, inverse));
    }
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const F32 d = splat(block.d.value()), m = splat(block.m.value());
    I32 q0, q1;
    Order::unpack(block.qs, q0, q1);
    store(y, to_float(q0) * d + m);
    store(y + 16, to_float(q1) * d + m);
  }

  static void encode(const float* x, void* dst, int64_t n) { encode_groups<Q4_1Family>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_blocks<Q4_1Family>(src, y, n); }
};

using Q4_1 = Q4_1Family<F16Field, HalfOrder, TruncateQ4_1>;
using Q4_1_v2 = Q4_1Family<F32Field, HalfOrder, TruncateQ4_1>;
using Q4_1_v1 = Q4_1Family<F32Field, PairOrder, RoundQ4_1>;
static_assert(sizeof(Q4_1::Block) == 20 && sizeof(Q4_1_v2::Block) == 24);

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
