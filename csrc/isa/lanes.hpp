// Sixteen f32 or i32 lanes on any instruction set: the vocabulary that every kernel is written in.
// Included by isa/<isa>/simd.hpp after it has defined the register operations (namespace reg) that are lifted here.
// Everything lives in the namespace of one instruction set, with internal linkage: no code can leak into another.
#pragma once

#include <cstddef>
#include <cstdint>

#ifndef FASTCONV_ISA_NAMESPACE
#error "include isa/<isa>/simd.hpp first"
#endif

#define FASTCONV_INLINE inline __attribute__((always_inline))

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr int kLanes = 16;
constexpr int kRegs = kLanes / reg::kWidth;

struct F32 {
  reg::F r[kRegs];
};
struct I32 {
  reg::I r[kRegs];
};
struct Mask {
  reg::M r[kRegs];
};

#define FASTCONV_LIFT(Result, expression)                                        \
  Result out;                                                                    \
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegs; ++i) out.r[i] = expression; \
  return out

FASTCONV_INLINE F32 load(const float* p) { FASTCONV_LIFT(F32, reg::load(p + i * reg::kWidth)); }
FASTCONV_INLINE void store(float* p, F32 a) {
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) reg::store(p + i * reg::kWidth, a.r[i]);
}
FASTCONV_INLINE I32 load(const int32_t* p) { FASTCONV_LIFT(I32, reg::load(p + i * reg::kWidth)); }
FASTCONV_INLINE void store(int32_t* p, I32 a) {
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) reg::store(p + i * reg::kWidth, a.r[i]);
}
FASTCONV_INLINE F32 splat(float x) { FASTCONV_LIFT(F32, reg::splat(x)); }
FASTCONV_INLINE I32 splat(int32_t x) { FASTCONV_LIFT(I32, reg::splat(x)); }

FASTCONV_INLINE F32 operator+(F32 a, F32 b) { FASTCONV_LIFT(F32, reg::add(a.r[i], b.r[i])); }
FASTCONV_INLINE F32 operator-(F32 a, F32 b) { FASTCONV_LIFT(F32, reg::sub(a.r[i], b.r[i])); }
FASTCONV_INLINE F32 operator*(F32 a, F32 b) { FASTCONV_LIFT(F32, reg::mul(a.r[i], b.r[i])); }
FASTCONV_INLINE F32 operator/(F32 a, F32 b) { FASTCONV_LIFT(F32, reg::div(a.r[i], b.r[i])); }
FASTCONV_INLINE F32 sqrt(F32 a) { FASTCONV_LIFT(F32, reg::sqrt(a.r[i])); }
FASTCONV_INLINE I32 operator+(I32 a, I32 b) { FASTCONV_LIFT(I32, reg::add(a.r[i], b.r[i])); }
FASTCONV_INLINE I32 operator-(I32 a, I32 b) { FASTCONV_LIFT(I32, reg::sub(a.r[i], b.r[i])); }
FASTCONV_INLINE I32 operator&(I32 a, I32 b) { FASTCONV_LIFT(I32, reg::bit_and(a.r[i], b.r[i])); }
FASTCONV_INLINE I32 operator|(I32 a, I32 b) { FASTCONV_LIFT(I32, reg::bit_or(a.r[i], b.r[i])); }
FASTCONV_INLINE Mask operator&(Mask a, Mask b) { FASTCONV_LIFT(Mask, reg::mask_and(a.r[i], b.r[i])); }

// a < b ? a : b and a > b ? a : b, on every instruction set: b where either is NaN, b where both are zero.
FASTCONV_INLINE F32 min(F32 a, F32 b) { FASTCONV_LIFT(F32, reg::min(a.r[i], b.r[i])); }
FASTCONV_INLINE F32 max(F32 a, F32 b) { FASTCONV_LIFT(F32, reg::max(a.r[i], b.r[i])); }
// Signed.
FASTCONV_INLINE I32 min(I32 a, I32 b) { FASTCONV_LIFT(I32, reg::min(a.r[i], b.r[i])); }
FASTCONV_INLINE I32 max(I32 a, I32 b) { FASTCONV_LIFT(I32, reg::max(a.r[i], b.r[i])); }

template <int N>
FASTCONV_INLINE I32 shift_left(I32 a) {
  FASTCONV_LIFT(I32, reg::shift_left<N>(a.r[i]));
}
// Zeros come in from the left.
template <int N>
FASTCONV_INLINE I32 shift_right(I32 a) {
  FASTCONV_LIFT(I32, reg::shift_right<N>(a.r[i]));
}

FASTCONV_INLINE I32 bits(F32 a) { FASTCONV_LIFT(I32, reg::bits(a.r[i])); }
FASTCONV_INLINE F32 from_bits(I32 a) { FASTCONV_LIFT(F32, reg::from_bits(a.r[i])); }
FASTCONV_INLINE F32 abs(F32 a) { return from_bits(bits(a) & splat(0x7FFFFFFF)); }
FASTCONV_INLINE F32 negate(F32 a) { FASTCONV_LIFT(F32, reg::negate(a.r[i])); }

// Towards zero; INT32_MIN for NaN and for what an int32 cannot hold, as x86 does it.
FASTCONV_INLINE I32 truncate(F32 a) { FASTCONV_LIFT(I32, reg::truncate(a.r[i])); }
FASTCONV_INLINE F32 to_float(I32 a) { FASTCONV_LIFT(F32, reg::to_float(a.r[i])); }
// To the nearest integer, ties to even, for |a| < 2^22. The sign of a zero is not specified.
FASTCONV_INLINE F32 round_even(F32 a) { FASTCONV_LIFT(F32, reg::round_even(a.r[i])); }

// As truncate(round_even(a)), for |a| < 2^22. Beyond, what ggml's nearest_int makes of the bits: 0 for NaN, -2^22 for
// infinity.
FASTCONV_INLINE I32 nearest_int(F32 a) { return (bits(a + splat(0x1.8p23f)) & splat(0x007FFFFF)) - splat(0x00400000); }

// False where either is NaN.
FASTCONV_INLINE Mask less(F32 a, F32 b) { FASTCONV_LIFT(Mask, reg::less(a.r[i], b.r[i])); }
FASTCONV_INLINE Mask equal(F32 a, F32 b) { FASTCONV_LIFT(Mask, reg::equal(a.r[i], b.r[i])); }
FASTCONV_INLINE Mask less(I32 a, I32 b) { FASTCONV_LIFT(Mask, reg::less(a.r[i], b.r[i])); }
FASTCONV_INLINE Mask equal(I32 a, I32 b) { FASTCONV_LIFT(Mask, reg::equal(a.r[i], b.r[i])); }
FASTCONV_INLINE F32 select(Mask m, F32 yes, F32 no) { FASTCONV_LIFT(F32, reg::select(m.r[i], yes.r[i], no.r[i])); }
FASTCONV_INLINE I32 select(Mask m, I32 yes, I32 no) { FASTCONV_LIFT(I32, reg::select(m.r[i], yes.r[i], no.r[i])); }

// Lane i: table[index i]; of an index only the low bits count, as many as the table needs.
FASTCONV_INLINE F32 lookup(const float (&table)[16], I32 index) {
  FASTCONV_LIFT(F32, reg::lookup16(table, index.r[i]));
}
FASTCONV_INLINE F32 lookup(const float (&table)[8], I32 index) { FASTCONV_LIFT(F32, reg::lookup8(table, index.r[i])); }
FASTCONV_INLINE F32 lookup(const float (&table)[4], I32 index) { FASTCONV_LIFT(F32, reg::lookup4(table, index.r[i])); }

// Bit i is lane i.
FASTCONV_INLINE uint32_t lane_bits(Mask m) {
  uint32_t out = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) out |= reg::lane_bits(m.r[i]) << (i * reg::kWidth);
  return out;
}
// Bit i is the sign bit of lane i.
FASTCONV_INLINE uint32_t sign_bits(I32 a) {
  uint32_t out = 0;
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) out |= reg::sign_bits(a.r[i]) << (i * reg::kWidth);
  return out;
}

#undef FASTCONV_LIFT

// The least and the largest lane; no lane is NaN. The sign of a zero is not specified.
FASTCONV_INLINE float lowest(F32 a) {
  reg::F least = a.r[0];
#pragma GCC unroll 4
  for (int i = 1; i < kRegs; ++i) least = reg::min(least, a.r[i]);
  return reg::lowest(least);
}
FASTCONV_INLINE float highest(F32 a) { return -lowest(negate(a)); }

struct Min {
  FASTCONV_INLINE reg::F operator()(reg::F a, reg::F b) const { return reg::min(a, b); }
};
struct Max {
  FASTCONV_INLINE reg::F operator()(reg::F a, reg::F b) const { return reg::max(a, b); }
};
// Of the bits, as integers with a sign and without; of words, both halves of a lane for themselves.
struct MaxSignedWords {
  FASTCONV_INLINE reg::F operator()(reg::F a, reg::F b) const {
    return reg::from_bits(reg::max_words(reg::bits(a), reg::bits(b)));
  }
};
struct MaxUnsignedWords {
  FASTCONV_INLINE reg::F operator()(reg::F a, reg::F b) const {
    return reg::from_bits(reg::max_unsigned_words(reg::bits(a), reg::bits(b)));
  }
};
struct MaxSigned {
  using OfWords = MaxSignedWords;
  FASTCONV_INLINE reg::F operator()(reg::F a, reg::F b) const {
    return reg::from_bits(reg::max(reg::bits(a), reg::bits(b)));
  }
};
struct MaxUnsigned {
  using OfWords = MaxUnsignedWords;
  FASTCONV_INLINE reg::F operator()(reg::F a, reg::F b) const {
    return reg::from_bits(reg::max_unsigned(reg::bits(a), reg::bits(b)));
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
