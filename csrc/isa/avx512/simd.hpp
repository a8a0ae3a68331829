// AVX-512 (F, BW, DQ, VL): one 512-bit register holds the sixteen lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define FASTCONV_ISA_NAMESPACE avx512

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {
namespace reg {

#define FASTCONV_REG inline __attribute__((always_inline))

constexpr int kWidth = 16;
using F = __m512;
using I = __m512i;
using M = __mmask16;

FASTCONV_REG F load(const float* p) { return _mm512_loadu_ps(p); }
FASTCONV_REG void store(float* p, F a) { _mm512_storeu_ps(p, a); }
FASTCONV_REG I load(const int32_t* p) { return _mm512_loadu_si512(p); }
FASTCONV_REG void store(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
FASTCONV_REG F splat(float x) { return _mm512_set1_ps(x); }
FASTCONV_REG I splat(int32_t x) { return _mm512_set1_epi32(x); }
FASTCONV_REG F add(F a, F b) { return _mm512_add_ps(a, b); }
FASTCONV_REG F sub(F a, F b) { return _mm512_sub_ps(a, b); }
FASTCONV_REG F mul(F a, F b) { return _mm512_mul_ps(a, b); }
FASTCONV_REG F div(F a, F b) { return _mm512_div_ps(a, b); }
// 1 / a to within 2^-11 of it.
FASTCONV_REG F rough_inverse(F a) { return _mm512_rcp14_ps(a); }
FASTCONV_REG F sqrt(F a) { return _mm512_sqrt_ps(a); }
FASTCONV_REG F min(F a, F b) { return _mm512_min_ps(a, b); }
FASTCONV_REG F max(F a, F b) { return _mm512_max_ps(a, b); }
FASTCONV_REG F negate(F a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
FASTCONV_REG I add(I a, I b) { return _mm512_add_epi32(a, b); }
FASTCONV_REG I sub(I a, I b) { return _mm512_sub_epi32(a, b); }
FASTCONV_REG I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
FASTCONV_REG I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
FASTCONV_REG I min(I a, I b) { return _mm512_min_epi32(a, b); }
FASTCONV_REG I max(I a, I b) { return _mm512_max_epi32(a, b); }
FASTCONV_REG I max_unsigned(I a, I b) { return _mm512_max_epu32(a, b); }
FASTCONV_REG I max_words(I a, I b) { return _mm512_max_epi16(a, b); }
FASTCONV_REG I max_unsigned_words(I a, I b) { return _mm512_max_epu16(a, b); }
template <int N>
FASTCONV_REG I shift_left(I a) {
  return _mm512_slli_epi32(a, N);
}
template <int N>
FASTCONV_REG I shift_right(I a) {
  return _mm512_srli_epi32(a, N);
}
FASTCONV_REG I bits(F a) { return _mm512_castps_si512(a); }
FASTCONV_REG F from_bits(I a) { return _mm512_castsi512_ps(a); }
FASTCONV_REG I truncate(F a) { return _mm512_cvttps_epi32(a); }
FASTCONV_REG F to_float(I a) { return _mm512_cvtepi32_ps(a); }
// 0 where the sign bit is set, that of NaN too; of a NaN without, unspecified. Integers compare on more ports than
// floats.
FASTCONV_REG F positive_or_zero(F a) { return from_bits(max(bits(a), splat(0))); }
FASTCONV_REG F round_even(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
FASTCONV_REG M less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FASTCONV_REG M equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
FASTCONV_REG M less(I a, I b) { return _mm512_cmplt_epi32_mask(a, b); }
FASTCONV_REG M equal(I a, I b) { return _mm512_cmpeq_epi32_mask(a, b); }
FASTCONV_REG M mask_and(M a, M b) { return static_cast<M>(a & b); }
FASTCONV_REG M mask_or(M a, M b) { return static_cast<M>(a | b); }
FASTCONV_REG F select(M m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
FASTCONV_REG I select(M m, I yes, I no) { return _mm512_mask_blend_epi32(m, no, yes); }
FASTCONV_REG F lookup16(const float* table, I index) { return _mm512_permutexvar_ps(index, _mm512_loadu_ps(table)); }
FASTCONV_REG F lookup4(const float* table, I index) {
  return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_loadu_ps(table)), index);
}
FASTCONV_REG float lowest(F a) { return _mm512_reduce_min_ps(a); }
FASTCONV_REG F lookup8(const float* table, I index) {
  return _mm512_permutexvar_ps(index, _mm512_broadcast_f32x8(_mm256_loadu_ps(table)));
}
FASTCONV_REG uint32_t lane_bits(M m) { return m; }
FASTCONV_REG uint32_t sign_bits(I a) { return _mm512_movepi32_mask(a); }

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
constexpr int kUpdateVectors = 4;
// From how many rows on it pays to copy the columns in work together.
constexpr int kUpdateCopyRows = 64;

// The low byte of each lane.
FASTCONV_INLINE void store_bytes(uint8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.r[0]));
}
FASTCONV_INLINE void store_u16(void* p, I32 a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.r[0]));
}
FASTCONV_INLINE I32 load_u8(const uint8_t* p) {
  return {{_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}};
}
FASTCONV_INLINE I32 load_i8(const int8_t* p) {
  return {{_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}};
}
FASTCONV_INLINE I32 load_u16(const void* p) {
  return {{_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}};
}

FASTCONV_INLINE F32 load_f16(const void* p) {
  return {{_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}};
}
// Ties to even; every NaN becomes 0x7E00 with its sign.
FASTCONV_INLINE void store_f16(void* p, F32 a) {
  const __mmask16 nan = _mm512_cmp_ps_mask(a.r[0], a.r[0], _CMP_UNORD_Q);
  const __m512 quiet =
      _mm512_or_ps(_mm512_and_ps(a.r[0], _mm512_set1_ps(-0.0f)), _mm512_castsi512_ps(_mm512_set1_epi32(0x7FC00000)));
  const __m512 clean = _mm512_mask_mov_ps(a.r[0], nan, quiet);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(clean, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FASTCONV_INLINE float f16_to_f32(uint16_t h) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h))); }

// Lane i of the result is op over the lanes of row(i).
template <class Row, class Op>
FASTCONV_INLINE F32 fold_rows(Row row, Op op) {
  __m512 u[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512 a = row(k).r[0], b = row(4 + k).r[0], c = row(8 + k).r[0], d = row(12 + k).r[0];
    const __m512 ab = op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    const __m512 cd = op(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
    // Quarter q now belongs to row 4 q + k.
    u[k] = op(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  }
  const auto pairs = [op](__m512 a, __m512 b) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return op(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  };
  const __m512 v = pairs(u[0], u[1]), w = pairs(u[2], u[3]);
  return {{op(_mm512_shuffle_ps(v, w, 0x88), _mm512_shuffle_ps(v, w, 0xDD))}};
}

// m[i] lane j <-> m[j] lane i.
FASTCONV_INLINE void transpose(F32 (&m)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(m[i].r[0], m[i + 1].r[0]);
    t[i + 1] = _mm512_unpackhi_ps(m[i].r[0], m[i + 1].r[0]);
  }
  __m512 u[16];  // u[4 g + c] quarter q: column 4 q + c of rows 4 g ... 4 g + 3
#pragma GCC unroll 4
  for (int g = 0; g < 16; g += 4) {
    const auto lo = [](__m512 a, __m512 b) {
      return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    };
    const auto hi = [](__m512 a, __m512 b) {
      return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
    };
    u[g] = lo(t[g], t[g + 2]);
    u[g + 1] = hi(t[g], t[g + 2]);
    u[g + 2] = lo(t[g + 1], t[g + 3]);
    u[g + 3] = hi(t[g + 1], t[g + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 a = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x44), b = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x44);
    const __m512 d = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xEE), e = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xEE);
    m[c].r[0] = _mm512_shuffle_f32x4(a, b, 0x88);
    m[4 + c].r[0] = _mm512_shuffle_f32x4(a, b, 0xDD);
    m[8 + c].r[0] = _mm512_shuffle_f32x4(d, e, 0x88);
    m[12 + c].r[0] = _mm512_shuffle_f32x4(d, e, 0xDD);
  }
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
