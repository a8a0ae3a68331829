// NEON of AArch64: four 128-bit registers for the sixteen lanes.
// The bytes are those of x86: minima, maxima and conversions are spelled out where the two differ on NaN and overflow.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#define FASTCONV_ISA_NAMESPACE neon

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {
namespace reg {

#define FASTCONV_REG inline __attribute__((always_inline))

constexpr int kWidth = 4;
using F = float32x4_t;
using I = int32x4_t;
using M = uint32x4_t;

FASTCONV_REG F load(const float* p) { return vld1q_f32(p); }
FASTCONV_REG void store(float* p, F a) { vst1q_f32(p, a); }
FASTCONV_REG I load(const int32_t* p) { return vld1q_s32(p); }
FASTCONV_REG void store(int32_t* p, I a) { vst1q_s32(p, a); }
FASTCONV_REG F splat(float x) { return vdupq_n_f32(x); }
FASTCONV_REG I splat(int32_t x) { return vdupq_n_s32(x); }
FASTCONV_REG F add(F a, F b) { return vaddq_f32(a, b); }
FASTCONV_REG F sub(F a, F b) { return vsubq_f32(a, b); }
FASTCONV_REG F mul(F a, F b) { return vmulq_f32(a, b); }
FASTCONV_REG F div(F a, F b) { return vdivq_f32(a, b); }
// 1 / a to within 2^-11 of it.
FASTCONV_REG F rough_inverse(F a) {
  const F guess = vrecpeq_f32(a);
  return vmulq_f32(guess, vrecpsq_f32(a, guess));
}
FASTCONV_REG F sqrt(F a) { return vsqrtq_f32(a); }
FASTCONV_REG M less(F a, F b) { return vcltq_f32(a, b); }
FASTCONV_REG M equal(F a, F b) { return vceqq_f32(a, b); }
FASTCONV_REG M less(I a, I b) { return vcltq_s32(a, b); }
FASTCONV_REG M equal(I a, I b) { return vceqq_s32(a, b); }
FASTCONV_REG M mask_and(M a, M b) { return vandq_u32(a, b); }
FASTCONV_REG M mask_or(M a, M b) { return vorrq_u32(a, b); }
FASTCONV_REG F select(M m, F yes, F no) { return vbslq_f32(m, yes, no); }
FASTCONV_REG I select(M m, I yes, I no) { return vbslq_s32(m, yes, no); }
// vminq_f32 would give NaN for NaN, and -0 for zeros of both signs.
FASTCONV_REG F min(F a, F b) { return select(less(a, b), a, b); }
FASTCONV_REG F max(F a, F b) { return select(less(b, a), a, b); }
FASTCONV_REG F negate(F a) { return vnegq_f32(a); }
FASTCONV_REG I add(I a, I b) { return vaddq_s32(a, b); }
FASTCONV_REG I sub(I a, I b) { return vsubq_s32(a, b); }
FASTCONV_REG I bit_and(I a, I b) { return vandq_s32(a, b); }
FASTCONV_REG I bit_or(I a, I b) { return vorrq_s32(a, b); }
FASTCONV_REG I min(I a, I b) { return vminq_s32(a, b); }
FASTCONV_REG I max(I a, I b) { return vmaxq_s32(a, b); }
FASTCONV_REG I max_unsigned(I a, I b) {
  return vreinterpretq_s32_u32(vmaxq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)));
}
FASTCONV_REG I max_words(I a, I b) {
  return vreinterpretq_s32_s16(vmaxq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
}
FASTCONV_REG I max_unsigned_words(I a, I b) {
  return vreinterpretq_s32_u16(vmaxq_u16(vreinterpretq_u16_s32(a), vreinterpretq_u16_s32(b)));
}
template <int N>
FASTCONV_REG I shift_left(I a) {
  return vshlq_n_s32(a, N);
}
template <int N>
FASTCONV_REG I shift_right(I a) {
  return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a), N));
}
FASTCONV_REG I bits(F a) { return vreinterpretq_s32_f32(a); }
FASTCONV_REG F from_bits(I a) { return vreinterpretq_f32_s32(a); }
// The conversion saturates and takes NaN to 0; x86 gives INT32_MIN for all of these.
FASTCONV_REG I truncate(F a) {
  const M in_range = vcaltq_f32(a, splat(0x1p31f));
  return select(in_range, vcvtq_s32_f32(a), splat(INT32_MIN));
}
FASTCONV_REG F to_float(I a) { return vcvtq_f32_s32(a); }
// 0 where the sign bit is set, that of NaN too; of a NaN without, unspecified.
FASTCONV_REG F positive_or_zero(F a) { return from_bits(max(bits(a), splat(0))); }
FASTCONV_REG F round_even(F a) { return vrndnq_f32(a); }
// The bytes 4 k, 4 k + 1, 4 k + 2, 4 k + 3 of a table for each index k below `entries`, a power of two.
FASTCONV_REG uint8x16_t bytes_at(I index, int entries) {
  const I first = vmulq_n_s32(vandq_s32(index, splat(entries - 1)), 0x04040404);
  return vreinterpretq_u8_s32(vaddq_s32(first, splat(0x03020100)));
}
FASTCONV_REG F lookup16(const float* table, I index) {
  return vreinterpretq_f32_u8(vqtbl4q_u8(vld1q_u8_x4(reinterpret_cast<const uint8_t*>(table)), bytes_at(index, 16)));
}
FASTCONV_REG F lookup4(const float* table, I index) {
  return vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(vld1q_f32(table)), bytes_at(index, 4)));
}
FASTCONV_REG float lowest(F a) { return vminvq_f32(a); }
FASTCONV_REG F lookup8(const float* table, I index) {
  return vreinterpretq_f32_u8(vqtbl2q_u8(vld1q_u8_x2(reinterpret_cast<const uint8_t*>(table)), bytes_at(index, 8)));
}
FASTCONV_REG uint32_t lane_bits(M m) {
  const uint32x4_t weights = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(m, weights));
}
FASTCONV_REG uint32_t sign_bits(I a) { return lane_bits(vcltq_s32(a, splat(0))); }

}  // namespace reg
}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Integers compare on more ports than floats, or in fewer steps.
constexpr bool kIntegerBounds = true;
// How many rows and vectors of 16 a low-rank update holds in registers: 16 of 32 for the sums.
constexpr int kUpdateRows = 4;
constexpr int kUpdateVectors = 1;
// From how many rows on it pays to copy the columns in work together.
constexpr int kUpdateCopyRows = 16;

// The low half of each lane.
FASTCONV_INLINE int16x8_t narrow(int32x4_t a, int32x4_t b) { return vcombine_s16(vmovn_s32(a), vmovn_s32(b)); }

// The low byte of each lane.
FASTCONV_INLINE void store_bytes(uint8_t* p, I32 a) {
  const int16x8_t low = narrow(a.r[0], a.r[1]), high = narrow(a.r[2], a.r[3]);
  vst1q_u8(p, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high))));
}
FASTCONV_INLINE void store_u16(void* p, I32 a) {
  auto* out = static_cast<uint8_t*>(p);
  vst1q_u8(out, vreinterpretq_u8_s16(narrow(a.r[0], a.r[1])));
  vst1q_u8(out + 16, vreinterpretq_u8_s16(narrow(a.r[2], a.r[3])));
}
FASTCONV_INLINE I32 widen(int16x8_t low, int16x8_t high) {
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
           vmovl_s16(vget_high_s16(high))}};
}
FASTCONV_INLINE I32 load_u8(const uint8_t* p) {
  const uint8x16_t x = vld1q_u8(p);
  return widen(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(x))), vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(x))));
}
FASTCONV_INLINE I32 load_i8(const int8_t* p) {
  const int8x16_t x = vld1q_s8(p);
  return widen(vmovl_s8(vget_low_s8(x)), vmovl_s8(vget_high_s8(x)));
}
FASTCONV_INLINE I32 load_u16(const void* p) {
  const auto* in = static_cast<const uint8_t*>(p);
  return widen(vreinterpretq_s16_u8(vld1q_u8(in)), vreinterpretq_s16_u8(vld1q_u8(in + 16))) & splat(0xFFFF);
}

FASTCONV_INLINE F32 load_f16(const void* p) {
  const auto* in = static_cast<const uint8_t*>(p);
  const float16x8_t low = vreinterpretq_f16_u8(vld1q_u8(in)), high = vreinterpretq_f16_u8(vld1q_u8(in + 16));
  return {{vcvt_f32_f16(vget_low_f16(low)), vcvt_f32_f16(vget_high_f16(low)), vcvt_f32_f16(vget_low_f16(high)),
           vcvt_f32_f16(vget_high_f16(high))}};
}
// Ties to even; every NaN becomes 0x7E00 with its sign.
FASTCONV_INLINE void store_f16(void* p, F32 a) {
  const Mask finite = equal(a, a);
  const I32 quiet = (bits(a) & splat(INT32_MIN)) | splat(0x7FC00000);
  const F32 clean = select(finite, a, from_bits(quiet));
  auto* out = static_cast<uint8_t*>(p);
  vst1q_u8(out, vreinterpretq_u8_f16(vcombine_f16(vcvt_f16_f32(clean.r[0]), vcvt_f16_f32(clean.r[1]))));
  vst1q_u8(out + 16, vreinterpretq_u8_f16(vcombine_f16(vcvt_f16_f32(clean.r[2]), vcvt_f16_f32(clean.r[3]))));
}
FASTCONV_INLINE float f16_to_f32(uint16_t h) {
  return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(h))), 0);
}

// Lane i of the result is op over the lanes of row(i).
template <class Row, class Op>
FASTCONV_INLINE F32 fold_rows(Row row, Op op) {
  const auto pairs = [op](float32x4_t a, float32x4_t b) { return op(vuzp1q_f32(a, b), vuzp2q_f32(a, b)); };
  F32 out;
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    float32x4_t u[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const F32 all = row(4 * g + k);
      u[k] = op(op(all.r[0], all.r[1]), op(all.r[2], all.r[3]));
    }
    out.r[g] = pairs(pairs(u[0], u[1]), pairs(u[2], u[3]));
  }
  return out;
}

// m[i] lane j <-> m[j] lane i.
FASTCONV_INLINE void transpose(F32 (&m)[16]) {
  F32 out[16];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const float32x4_t a = m[4 * g].r[k], b = m[4 * g + 1].r[k], c = m[4 * g + 2].r[k], d = m[4 * g + 3].r[k];
      const float64x2_t ab0 = vreinterpretq_f64_f32(vzip1q_f32(a, b)), ab1 = vreinterpretq_f64_f32(vzip2q_f32(a, b));
      const float64x2_t cd0 = vreinterpretq_f64_f32(vzip1q_f32(c, d)), cd1 = vreinterpretq_f64_f32(vzip2q_f32(c, d));
      out[4 * k].r[g] = vreinterpretq_f32_f64(vzip1q_f64(ab0, cd0));
      out[4 * k + 1].r[g] = vreinterpretq_f32_f64(vzip2q_f64(ab0, cd0));
      out[4 * k + 2].r[g] = vreinterpretq_f32_f64(vzip1q_f64(ab1, cd1));
      out[4 * k + 3].r[g] = vreinterpretq_f32_f64(vzip2q_f64(ab1, cd1));
    }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) m[i] = out[i];
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
