// AVX2 with F16C: two 256-bit registers for the sixteen lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define FASTCONV_ISA_NAMESPACE avx2

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {
namespace reg {

#define FASTCONV_REG inline __attribute__((always_inline))

constexpr int kWidth = 8;
using F = __m256;
using I = __m256i;
using M = __m256;

FASTCONV_REG F load(const float* p) { return _mm256_loadu_ps(p); }
FASTCONV_REG void store(float* p, F a) { _mm256_storeu_ps(p, a); }
FASTCONV_REG I load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
FASTCONV_REG void store(int32_t* p, I a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
FASTCONV_REG F splat(float x) { return _mm256_set1_ps(x); }
FASTCONV_REG I splat(int32_t x) { return _mm256_set1_epi32(x); }
FASTCONV_REG F add(F a, F b) { return _mm256_add_ps(a, b); }
FASTCONV_REG F sub(F a, F b) { return _mm256_sub_ps(a, b); }
FASTCONV_REG F mul(F a, F b) { return _mm256_mul_ps(a, b); }
FASTCONV_REG F div(F a, F b) { return _mm256_div_ps(a, b); }
// 1 / a to within 2^-11 of it.
FASTCONV_REG F rough_inverse(F a) { return _mm256_rcp_ps(a); }
FASTCONV_REG F sqrt(F a) { return _mm256_sqrt_ps(a); }
FASTCONV_REG F min(F a, F b) { return _mm256_min_ps(a, b); }
FASTCONV_REG F max(F a, F b) { return _mm256_max_ps(a, b); }
FASTCONV_REG F negate(F a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0f)); }
FASTCONV_REG I add(I a, I b) { return _mm256_add_epi32(a, b); }
FASTCONV_REG I sub(I a, I b) { return _mm256_sub_epi32(a, b); }
FASTCONV_REG I bit_and(I a, I b) { return _mm256_and_si256(a, b); }
FASTCONV_REG I bit_or(I a, I b) { return _mm256_or_si256(a, b); }
FASTCONV_REG I min(I a, I b) { return _mm256_min_epi32(a, b); }
FASTCONV_REG I max(I a, I b) { return _mm256_max_epi32(a, b); }
FASTCONV_REG I max_unsigned(I a, I b) { return _mm256_max_epu32(a, b); }
FASTCONV_REG I max_words(I a, I b) { return _mm256_max_epi16(a, b); }
FASTCONV_REG I max_unsigned_words(I a, I b) { return _mm256_max_epu16(a, b); }
template <int N>
FASTCONV_REG I shift_left(I a) {
  return _mm256_slli_epi32(a, N);
}
template <int N>
FASTCONV_REG I shift_right(I a) {
  return _mm256_srli_epi32(a, N);
}
FASTCONV_REG I bits(F a) { return _mm256_castps_si256(a); }
FASTCONV_REG F from_bits(I a) { return _mm256_castsi256_ps(a); }
FASTCONV_REG I truncate(F a) { return _mm256_cvttps_epi32(a); }
FASTCONV_REG F to_float(I a) { return _mm256_cvtepi32_ps(a); }
// 0 where the sign bit is set, that of NaN too; of a NaN without, unspecified. Integers compare on more ports than
// floats.
FASTCONV_REG F positive_or_zero(F a) { return from_bits(max(bits(a), splat(0))); }
FASTCONV_REG F round_even(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTCONV_REG M less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
FASTCONV_REG M equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
FASTCONV_REG M less(I a, I b) { return from_bits(_mm256_cmpgt_epi32(b, a)); }
FASTCONV_REG M equal(I a, I b) { return from_bits(_mm256_cmpeq_epi32(a, b)); }
FASTCONV_REG M mask_and(M a, M b) { return _mm256_and_ps(a, b); }
FASTCONV_REG M mask_or(M a, M b) { return _mm256_or_ps(a, b); }
FASTCONV_REG F select(M m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
FASTCONV_REG I select(M m, I yes, I no) { return bits(select(m, from_bits(yes), from_bits(no))); }
FASTCONV_REG F lookup4(const float* table, I index) {
  return _mm256_permutevar_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(table)), index);
}
FASTCONV_REG float lowest(F a) {
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}
FASTCONV_REG F lookup8(const float* table, I index) { return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), index); }
FASTCONV_REG F lookup16(const float* table, I index) {
  const M upper = from_bits(_mm256_slli_epi32(index, 28));  // bit 3 as the sign that a blend goes by
  return select(upper, lookup8(table + 8, index), lookup8(table, index));
}
FASTCONV_REG uint32_t lane_bits(M m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }
FASTCONV_REG uint32_t sign_bits(I a) { return lane_bits(from_bits(a)); }

}  // namespace reg
}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Integers compare on more ports than floats, or in fewer steps.
constexpr bool kIntegerBounds = true;
// How many rows and vectors of 16 a low-rank update holds in registers: 8 of 16 for the sums.
constexpr int kUpdateRows = 4;
constexpr int kUpdateVectors = 1;
// From how many rows on it pays to copy the columns in work together.
constexpr int kUpdateCopyRows = 16;

// Four words of 16 lanes in the order of memory after a pack of two registers, which works on 128-bit halves.
FASTCONV_INLINE __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xD8); }

// The low byte of each lane.
FASTCONV_INLINE void store_bytes(uint8_t* p, I32 a) {
  const I32 low = a & splat(0xFF);
  const __m256i words = in_order(_mm256_packs_epi32(low.r[0], low.r[1]));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
FASTCONV_INLINE void store_u16(void* p, I32 a) {
  const I32 low = a & splat(0xFFFF);
  _mm256_storeu_si256(static_cast<__m256i*>(p), in_order(_mm256_packus_epi32(low.r[0], low.r[1])));
}
FASTCONV_INLINE I32 load_u8(const uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {{_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))}};
}
FASTCONV_INLINE I32 load_i8(const int8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {{_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))}};
}
FASTCONV_INLINE I32 load_u16(const void* p) {
  const __m128i* in = static_cast<const __m128i*>(p);
  return {{_mm256_cvtepu16_epi32(_mm_loadu_si128(in)), _mm256_cvtepu16_epi32(_mm_loadu_si128(in + 1))}};
}

FASTCONV_INLINE F32 load_f16(const void* p) {
  const __m128i* in = static_cast<const __m128i*>(p);
  return {{_mm256_cvtph_ps(_mm_loadu_si128(in)), _mm256_cvtph_ps(_mm_loadu_si128(in + 1))}};
}
// Ties to even; every NaN becomes 0x7E00 with its sign.
FASTCONV_INLINE void store_f16(void* p, F32 a) {
  __m128i* out = static_cast<__m128i*>(p);
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const __m256 nan = _mm256_cmp_ps(a.r[i], a.r[i], _CMP_UNORD_Q);
    const __m256 quiet =
        _mm256_or_ps(_mm256_and_ps(a.r[i], _mm256_set1_ps(-0.0f)), _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000)));
    _mm_storeu_si128(
        out + i, _mm256_cvtps_ph(_mm256_blendv_ps(a.r[i], quiet, nan), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
}
FASTCONV_INLINE float f16_to_f32(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }

// Lane i of the result is op over the lanes of row(i).
template <class Row, class Op>
FASTCONV_INLINE F32 fold_rows(Row row, Op op) {
  const auto pairs = [op](__m256 a, __m256 b) {
    const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
    return op(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)), _mm256_castpd_ps(_mm256_unpackhi_pd(x, y)));
  };
  F32 out;
#pragma GCC unroll 2
  for (int g = 0; g < 2; ++g) {
    __m256 u[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const F32 top = row(8 * g + k), low = row(8 * g + 4 + k);
      const __m256 a = op(top.r[0], top.r[1]), b = op(low.r[0], low.r[1]);
      u[k] = op(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    const __m256 v = pairs(u[0], u[1]), w = pairs(u[2], u[3]);
    out.r[g] = op(_mm256_shuffle_ps(v, w, 0x88), _mm256_shuffle_ps(v, w, 0xDD));
  }
  return out;
}

// m[i] lane j <-> m[j] lane i.
FASTCONV_INLINE void transpose(F32 (&m)[16]) {
  F32 out[16];
#pragma GCC unroll 2
  for (int g = 0; g < 2; ++g)
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      const F32* in = m + 8 * g;
      __m256 u[8];  // u[4 h + c] half q: column 4 q + c of rows 4 h ... 4 h + 3
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256 r0 = in[4 * h].r[k], r1 = in[4 * h + 1].r[k], r2 = in[4 * h + 2].r[k], r3 = in[4 * h + 3].r[k];
        const __m256 t0 = _mm256_unpacklo_ps(r0, r1), t1 = _mm256_unpackhi_ps(r0, r1);
        const __m256 t2 = _mm256_unpacklo_ps(r2, r3), t3 = _mm256_unpackhi_ps(r2, r3);
        u[4 * h] = _mm256_shuffle_ps(t0, t2, 0x44);
        u[4 * h + 1] = _mm256_shuffle_ps(t0, t2, 0xEE);
        u[4 * h + 2] = _mm256_shuffle_ps(t1, t3, 0x44);
        u[4 * h + 3] = _mm256_shuffle_ps(t1, t3, 0xEE);
      }
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        out[8 * k + c].r[g] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
        out[8 * k + 4 + c].r[g] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
      }
    }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) m[i] = out[i];
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
