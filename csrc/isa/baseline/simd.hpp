// The oldest x86-64: SSE2 alone, four 128-bit registers for the sixteen lanes.
#pragma once

#include <emmintrin.h>

#include <cstdint>

#define FASTCONV_ISA_NAMESPACE baseline

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {
namespace reg {

#define FASTCONV_REG inline __attribute__((always_inline))

constexpr int kWidth = 4;
using F = __m128;
using I = __m128i;
using M = __m128i;

FASTCONV_REG F load(const float* p) { return _mm_loadu_ps(p); }
FASTCONV_REG void store(float* p, F a) { _mm_storeu_ps(p, a); }
FASTCONV_REG I load(const int32_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
FASTCONV_REG void store(int32_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), a); }
FASTCONV_REG F splat(float x) { return _mm_set1_ps(x); }
FASTCONV_REG I splat(int32_t x) { return _mm_set1_epi32(x); }
FASTCONV_REG F add(F a, F b) { return _mm_add_ps(a, b); }
FASTCONV_REG F sub(F a, F b) { return _mm_sub_ps(a, b); }
FASTCONV_REG F mul(F a, F b) { return _mm_mul_ps(a, b); }
FASTCONV_REG F div(F a, F b) { return _mm_div_ps(a, b); }
// 1 / a to within 2^-11 of it.
FASTCONV_REG F rough_inverse(F a) { return _mm_rcp_ps(a); }
FASTCONV_REG F sqrt(F a) { return _mm_sqrt_ps(a); }
FASTCONV_REG F min(F a, F b) { return _mm_min_ps(a, b); }
FASTCONV_REG F max(F a, F b) { return _mm_max_ps(a, b); }
FASTCONV_REG F negate(F a) { return _mm_xor_ps(a, _mm_set1_ps(-0.0f)); }
FASTCONV_REG I add(I a, I b) { return _mm_add_epi32(a, b); }
FASTCONV_REG I sub(I a, I b) { return _mm_sub_epi32(a, b); }
FASTCONV_REG I bit_and(I a, I b) { return _mm_and_si128(a, b); }
FASTCONV_REG I bit_or(I a, I b) { return _mm_or_si128(a, b); }
template <int N>
FASTCONV_REG I shift_left(I a) {
  return _mm_slli_epi32(a, N);
}
template <int N>
FASTCONV_REG I shift_right(I a) {
  return _mm_srli_epi32(a, N);
}
FASTCONV_REG I bits(F a) { return _mm_castps_si128(a); }
FASTCONV_REG F from_bits(I a) { return _mm_castsi128_ps(a); }
FASTCONV_REG I truncate(F a) { return _mm_cvttps_epi32(a); }
FASTCONV_REG F to_float(I a) { return _mm_cvtepi32_ps(a); }
// 0 where the sign bit is set, that of NaN too; of a NaN without, unspecified.
FASTCONV_REG F positive_or_zero(F a) { return max(a, splat(0.0f)); }
// 1.5 * 2^23 pushes the fraction out of the significand; SSE2 has no rounding instruction.
FASTCONV_REG F round_even(F a) { return _mm_sub_ps(_mm_add_ps(a, _mm_set1_ps(0x1.8p23f)), _mm_set1_ps(0x1.8p23f)); }
FASTCONV_REG M less(F a, F b) { return _mm_castps_si128(_mm_cmplt_ps(a, b)); }
FASTCONV_REG M equal(F a, F b) { return _mm_castps_si128(_mm_cmpeq_ps(a, b)); }
FASTCONV_REG M less(I a, I b) { return _mm_cmplt_epi32(a, b); }
FASTCONV_REG M equal(I a, I b) { return _mm_cmpeq_epi32(a, b); }
FASTCONV_REG M mask_and(M a, M b) { return _mm_and_si128(a, b); }
FASTCONV_REG M mask_or(M a, M b) { return _mm_or_si128(a, b); }
FASTCONV_REG I select(M m, I yes, I no) { return _mm_or_si128(_mm_and_si128(m, yes), _mm_andnot_si128(m, no)); }
FASTCONV_REG F select(M m, F yes, F no) {
  return _mm_castsi128_ps(select(m, _mm_castps_si128(yes), _mm_castps_si128(no)));
}
FASTCONV_REG I min(I a, I b) { return select(less(a, b), a, b); }
FASTCONV_REG I max(I a, I b) { return select(less(b, a), a, b); }
FASTCONV_REG I max_unsigned(I a, I b) {
  const I sign = splat(INT32_MIN);
  return select(less(_mm_xor_si128(b, sign), _mm_xor_si128(a, sign)), a, b);
}
FASTCONV_REG I max_words(I a, I b) { return _mm_max_epi16(a, b); }
// a - b where that is above 0, else 0; and b.
FASTCONV_REG I max_unsigned_words(I a, I b) { return _mm_add_epi16(_mm_subs_epu16(a, b), b); }
template <int kEntries>
FASTCONV_REG F lookup(const float* table, I index) {
  alignas(16) uint32_t at[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(at), _mm_and_si128(index, _mm_set1_epi32(kEntries - 1)));
  return _mm_setr_ps(table[at[0]], table[at[1]], table[at[2]], table[at[3]]);
}
// Two selections among the entries by either bit of the index.
FASTCONV_REG F lookup4(const float* table, I index) {
  const I odd = _mm_srai_epi32(_mm_slli_epi32(index, 31), 31), upper = _mm_srai_epi32(_mm_slli_epi32(index, 30), 31);
  const F low = select(odd, splat(table[1]), splat(table[0])), high = select(odd, splat(table[3]), splat(table[2]));
  return select(upper, high, low);
}
FASTCONV_REG float lowest(F a) {
  const F two = _mm_min_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_shuffle_ps(two, two, 1)));
}
FASTCONV_REG F lookup16(const float* table, I index) { return lookup<16>(table, index); }
FASTCONV_REG F lookup8(const float* table, I index) { return lookup<8>(table, index); }
FASTCONV_REG uint32_t lane_bits(M m) { return static_cast<uint32_t>(_mm_movemask_ps(_mm_castsi128_ps(m))); }
FASTCONV_REG uint32_t sign_bits(I a) { return lane_bits(a); }

}  // namespace reg
}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Integers compare more slowly than floats here.
constexpr bool kIntegerBounds = false;
// How many rows and vectors of 16 a low-rank update holds in registers: 8 of 16 for the sums.
constexpr int kUpdateRows = 2;
constexpr int kUpdateVectors = 1;
// From how many rows on it pays to copy the columns in work together.
constexpr int kUpdateCopyRows = 16;

// The low byte of each lane.
FASTCONV_INLINE void store_bytes(uint8_t* p, I32 a) {
  const I32 low = a & splat(0xFF);
  const __m128i words0 = _mm_packs_epi32(low.r[0], low.r[1]), words1 = _mm_packs_epi32(low.r[2], low.r[3]);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words0, words1));
}
FASTCONV_INLINE void store_u16(void* p, I32 a) {
  // The signed pack keeps 16 bits that were sign-extended first.
  const auto extend = [](__m128i x) { return _mm_srai_epi32(_mm_slli_epi32(x, 16), 16); };
  __m128i* out = static_cast<__m128i*>(p);
  _mm_storeu_si128(out, _mm_packs_epi32(extend(a.r[0]), extend(a.r[1])));
  _mm_storeu_si128(out + 1, _mm_packs_epi32(extend(a.r[2]), extend(a.r[3])));
}
FASTCONV_INLINE I32 load_u8(const uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), zero = _mm_setzero_si128();
  const __m128i lo = _mm_unpacklo_epi8(x, zero), hi = _mm_unpackhi_epi8(x, zero);
  return {{_mm_unpacklo_epi16(lo, zero), _mm_unpackhi_epi16(lo, zero), _mm_unpacklo_epi16(hi, zero),
           _mm_unpackhi_epi16(hi, zero)}};
}
FASTCONV_INLINE I32 load_i8(const int8_t* p) {
  I32 x = load_u8(reinterpret_cast<const uint8_t*>(p));
#pragma GCC unroll 4
  for (__m128i& r : x.r) r = _mm_srai_epi32(_mm_slli_epi32(r, 24), 24);
  return x;
}
FASTCONV_INLINE I32 load_u16(const void* p) {
  const __m128i* in = static_cast<const __m128i*>(p);
  const __m128i lo = _mm_loadu_si128(in), hi = _mm_loadu_si128(in + 1), zero = _mm_setzero_si128();
  return {{_mm_unpacklo_epi16(lo, zero), _mm_unpackhi_epi16(lo, zero), _mm_unpacklo_epi16(hi, zero),
           _mm_unpackhi_epi16(hi, zero)}};
}

// The exponent is rebased by a product with 2^112, exact for denormals too.
FASTCONV_INLINE F32 f32_of_f16(I32 h) {
  const I32 magnitude = h & splat(0x7FFF), sign = shift_left<16>(h & splat(0x8000));
  const F32 finite = from_bits(shift_left<13>(magnitude)) * splat(0x1p112f);
  const Mask special = less(splat(0x7BFF), magnitude), nan = less(splat(0x7C00), magnitude);
  const I32 zero = splat(0);
  const I32 extra = select(special, splat(0x7F800000), zero) | select(nan, splat(0x00400000), zero);
  return from_bits(bits(finite) | sign | extra);
}
FASTCONV_INLINE F32 load_f16(const void* p) { return f32_of_f16(load_u16(p)); }

// Ties to even; every NaN becomes 0x7E00 with its sign.
FASTCONV_INLINE void store_f16(void* p, F32 a) {
  const I32 all = bits(a), sign = shift_right<16>(all) & splat(0x8000), magnitude = all & splat(0x7FFFFFFF);
  // Normal results: round the 13 lost bits by adding just under or exactly one half, then rebase the exponent. A carry
  // out of the largest finite value gives infinity by itself.
  const I32 odd = shift_right<13>(magnitude) & splat(1);
  const I32 normal = shift_right<13>(magnitude + odd + splat(0xFFF - ((127 - 15) << 23)));
  // Denormal results: the f32 adder rounds at 2^-24 if 0.5 is added, whose last place that is.
  const I32 denormal = bits(from_bits(magnitude) + splat(0.5f)) - splat(0x3F000000);
  const Mask is_denormal = less(magnitude, splat(0x38800000));  // 2^-14
  const Mask is_huge = less(splat(0x477FFFFF), magnitude);      // 2^16 and above
  const Mask is_nan = less(splat(0x7F800000), magnitude);
  I32 h = select(is_denormal, denormal, normal);
  h = select(is_huge, splat(0x7C00), h);
  h = select(is_nan, splat(0x7E00), h);
  store_u16(p, h | sign);
}
FASTCONV_INLINE float f16_to_f32(uint16_t h) { return _mm_cvtss_f32(f32_of_f16(splat(static_cast<int32_t>(h))).r[0]); }

// Lane i of the result is op over the lanes of row(i).
template <class Row, class Op>
FASTCONV_INLINE F32 fold_rows(Row row, Op op) {
  const auto pairs = [op](__m128 a, __m128 b) { return op(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a)); };
  F32 out;
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    __m128 u[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const F32 all = row(4 * g + k);
      u[k] = op(op(all.r[0], all.r[1]), op(all.r[2], all.r[3]));
    }
    const __m128 v = pairs(u[0], u[1]), w = pairs(u[2], u[3]);
    out.r[g] = op(_mm_shuffle_ps(v, w, 0x88), _mm_shuffle_ps(v, w, 0xDD));
  }
  return out;
}

// m[i] lane j <-> m[j] lane i.
FASTCONV_INLINE void transpose(F32 (&m)[16]) {
  F32 out[16];
  for (int g = 0; g < 4; ++g)
    for (int k = 0; k < 4; ++k) {
      __m128 a = m[4 * g].r[k], b = m[4 * g + 1].r[k], c = m[4 * g + 2].r[k], d = m[4 * g + 3].r[k];
      _MM_TRANSPOSE4_PS(a, b, c, d);
      out[4 * k].r[g] = a;
      out[4 * k + 1].r[g] = b;
      out[4 * k + 2].r[g] = c;
      out[4 * k + 3].r[g] = d;
    }
  for (int i = 0; i < 16; ++i) m[i] = out[i];
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
