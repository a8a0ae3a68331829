// Elements that stand alone: f32, f16, bf16, f64 and the two fp8. Runs of sixteen; what is left over goes through the
// same code in a padded buffer, so that there is no second way to round.
#pragma once

#include "core/reductions.hpp"
#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// IEEE binary16 and the upper half of an f32, as they are stored.
struct __attribute__((packed)) F16 {
  uint16_t bits;
};
struct __attribute__((packed)) BF16 {
  uint16_t bits;
};
FASTCONV_INLINE float value(float x) { return x; }
FASTCONV_INLINE float value(F16 x) { return f16_to_f32(x.bits); }
FASTCONV_INLINE float value(BF16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  __builtin_memcpy(&out, &bits, sizeof out);
  return out;
}
// Sixteen of them.
FASTCONV_INLINE F32 load(const F16* p) { return load_f16(p); }
FASTCONV_INLINE F32 load(const BF16* p) { return from_bits(shift_left<16>(load_u16(p))); }

// 32 of them, two in a lane: the first in its lower word.
FASTCONV_INLINE I32 load_pairs(const void* halves) { return load(static_cast<const int32_t*>(halves)); }

template <class X>
constexpr bool kIsHalf = false;
template <>
constexpr bool kIsHalf<F16> = true;
template <>
constexpr bool kIsHalf<BF16> = true;
// What the upper words of lanes stand for.
FASTCONV_INLINE F32 upper_values(const F16*, I32 words) {
  uint16_t upper[kLanes];
  store_u16(upper, shift_right<16>(words));
  return load_f16(upper);
}
FASTCONV_INLINE F32 upper_values(const BF16*, I32 words) {
  return from_bits(words & splat(static_cast<int32_t>(0xFFFF0000)));
}

template <class T, int kBytes>
FASTCONV_INLINE void decode_runs(const void* src, float* y, int64_t n) {
  const auto* in = static_cast<const uint8_t*>(src);
  for (; n >= kLanes; n -= kLanes, in += kLanes * kBytes, y += kLanes) store(y, T::decode_run(in));
  if (n > 0) {
    alignas(64) uint8_t padded[kLanes * kBytes] = {};
    alignas(64) float out[kLanes];
    __builtin_memcpy(padded, in, static_cast<size_t>(n) * kBytes);
    store(out, T::decode_run(padded));
    __builtin_memcpy(y, out, static_cast<size_t>(n) * sizeof(float));
  }
}

// The same, and the largest magnitude of it all while it is in registers.
template <class T, int kBytes>
FASTCONV_INLINE float decode_runs_max(const void* src, float* y, int64_t n) {
  constexpr int kChains = LargestMagnitude::kChains;
  const auto* in = static_cast<const uint8_t*>(src);
  LargestMagnitude largest;
  const auto run = [&](int chain, const uint8_t* from, float* to) __attribute__((always_inline)) {
    const F32 x = T::decode_run(from);
    store(to, x);
    largest.add(chain, x);
  };
  for (; n >= kChains * kLanes; n -= kChains * kLanes, in += kChains * kLanes * kBytes, y += kChains * kLanes)
    for (int k = 0; k < kChains; ++k) run(k, in + k * kLanes * kBytes, y + k * kLanes);
  for (; n >= kLanes; n -= kLanes, in += kLanes * kBytes, y += kLanes) run(0, in, y);
  if (n > 0) {
    alignas(64) uint8_t padded[kLanes * kBytes] = {};
    alignas(64) float out[kLanes];
    __builtin_memcpy(padded, in, static_cast<size_t>(n) * kBytes);
    run(0, padded, out);
    __builtin_memcpy(y, out, static_cast<size_t>(n) * sizeof(float));
  }
  return largest.value();
}

// The largest magnitude of n halves.
template <class Half>
FASTCONV_INLINE float largest_half(const void* src, int64_t n) {
  constexpr int kChains = LargestMagnitude::kChains, kRun = 2 * kLanes;
  const auto* in = static_cast<const Half*>(src);
  const MaxUnsignedWords op;
  F32 most[kChains] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
  const auto add = [&](int chain, const Half* from) __attribute__((always_inline)) {
    const F32 words = from_bits(load_pairs(from) & splat(0x7FFF7FFF));
    for (int r = 0; r < kRegs; ++r) most[chain].r[r] = op(most[chain].r[r], words.r[r]);
  };
  for (; n >= kChains * kRun; n -= kChains * kRun, in += kChains * kRun)
    for (int k = 0; k < kChains; ++k) add(k, in + k * kRun);
  for (; n >= kRun; n -= kRun, in += kRun) add(0, in);
  if (n > 0) {
    Half padded[kRun] = {};
    __builtin_memcpy(padded, in, static_cast<size_t>(n) * sizeof(Half));
    add(0, padded);
  }
  uint32_t largest = 0;
  for (const F32& pairs : most) {
    int32_t lanes[kLanes];
    store(lanes, bits(pairs));
    for (const int32_t lane : lanes) {
      const uint32_t words[] = {static_cast<uint32_t>(lane) & 0xFFFF, static_cast<uint32_t>(lane) >> 16};
      for (const uint32_t word : words) largest = word > largest ? word : largest;
    }
  }
  return value(Half{static_cast<uint16_t>(largest)});
}

template <class T, int kBytes>
FASTCONV_INLINE void encode_runs(const float* x, void* dst, int64_t n) {
  auto* out = static_cast<uint8_t*>(dst);
  for (; n >= kLanes; n -= kLanes, out += kLanes * kBytes, x += kLanes) T::encode_run(load(x), out);
  if (n > 0) {
    alignas(64) float padded[kLanes] = {};
    alignas(64) uint8_t encoded[kLanes * kBytes];
    __builtin_memcpy(padded, x, static_cast<size_t>(n) * sizeof(float));
    T::encode_run(load(padded), encoded);
    __builtin_memcpy(out, encoded, static_cast<size_t>(n) * kBytes);
  }
}

struct PlainF32 {
  static void encode(const float* x, void* dst, int64_t n) {
    __builtin_memcpy(dst, x, static_cast<size_t>(n) * sizeof(float));
  }
  static void decode(const void* src, float* y, int64_t n) {
    __builtin_memcpy(y, src, static_cast<size_t>(n) * sizeof(float));
  }
  static float stored_max(const void* src, int64_t n) { return max_abs(static_cast<const float*>(src), n); }
};

// IEEE binary16; ties to even; a NaN becomes 0x7E00 with its sign, as in ggml_compute_fp32_to_fp16.
struct PlainF16 {
  FASTCONV_INLINE static F32 decode_run(const uint8_t* in) { return load(reinterpret_cast<const F16*>(in)); }
  FASTCONV_INLINE static void encode_run(F32 x, uint8_t* out) { store_f16(out, x); }
  static void encode(const float* x, void* dst, int64_t n) { encode_runs<PlainF16, 2>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_runs<PlainF16, 2>(src, y, n); }
  static float decode_max(const void* src, float* y, int64_t n) { return decode_runs_max<PlainF16, 2>(src, y, n); }
  static float stored_max(const void* src, int64_t n) { return largest_half<F16>(src, n); }
};

// The upper half of an f32; ties to even; a NaN keeps its upper half and is made quiet, as in
// ggml_compute_fp32_to_bf16.
struct PlainBF16 {
  FASTCONV_INLINE static F32 decode_run(const uint8_t* in) { return load(reinterpret_cast<const BF16*>(in)); }
  FASTCONV_INLINE static void encode_run(F32 x, uint8_t* out) {
    const I32 all = bits(x), upper = shift_right<16>(all);
    const Mask nan = less(splat(0x7F800000), all & splat(0x7FFFFFFF));
    const I32 rounded = shift_right<16>(all + splat(0x7FFF) + (upper & splat(1)));
    store_u16(out, select(nan, upper | splat(0x40), rounded));
  }
  static void encode(const float* x, void* dst, int64_t n) { encode_runs<PlainBF16, 2>(x, dst, n); }
  static void decode(const void* src, float* y, int64_t n) { decode_runs<PlainBF16, 2>(src, y, n); }
  static float decode_max(const void* src, float* y, int64_t n) { return decode_runs_max<PlainBF16, 2>(src, y, n); }
  static float stored_max(const void* src, int64_t n) { return largest_half<BF16>(src, n); }
};

// To the nearest f32, ties to even; beyond its range infinity.
struct PlainF64 {
  static void decode(const void* src, float* y, int64_t n) {
    typedef double UnalignedDouble __attribute__((aligned(1), may_alias));
    const auto* in = static_cast<const UnalignedDouble*>(src);
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(in[i]);
  }
};

// e4m3fn: 4 exponent bits of bias 7, no infinity, NaN where all bits but the sign are set. Source: Micikevicius et al.
// 2022, arXiv:2209.05433, table 1. The exponent is rebased by a product with 2^120, exact for denormals too.
struct PlainF8E4M3 {
  FASTCONV_INLINE static F32 decode_run(const uint8_t* in) {
    const I32 byte = load_u8(in), magnitude = byte & splat(0x7F), sign = shift_left<24>(byte & splat(0x80));
    const I32 finite = bits(from_bits(shift_left<20>(magnitude)) * splat(0x1p120f));
    return from_bits(select(equal(magnitude, splat(0x7F)), splat(0x7FC00000), finite) | sign);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_runs<PlainF8E4M3, 1>(src, y, n); }
};

// e5m2: 5 exponent bits of bias 15, infinities and NaN as in IEEE 754: the upper byte of an f16.
struct PlainF8E5M2 {
  FASTCONV_INLINE static F32 decode_run(const uint8_t* in) {
    const I32 byte = load_u8(in), magnitude = byte & splat(0x7F), sign = shift_left<24>(byte & splat(0x80));
    const I32 finite = bits(from_bits(shift_left<21>(magnitude)) * splat(0x1p112f));
    const I32 special = select(equal(magnitude, splat(0x7C)), splat(0x7F800000), splat(0x7FC00000));
    return from_bits(select(less(splat(0x7B), magnitude), special, finite) | sign);
  }
  static void decode(const void* src, float* y, int64_t n) { decode_runs<PlainF8E5M2, 1>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
