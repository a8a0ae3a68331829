// Q6_K: 256 elements as sixteen sub-blocks of sixteen, x = d * scale * (q - 32).
// Each sub-block's scale is the best of 19 by weighted least squares, with x * x as weight.
// Source: quantize_row_q6_K_ref and make_qx_quants in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "isa/lanes.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

struct Q6_K {
  struct __attribute__((packed)) Block {
    uint8_t ql[128];    // low 4 bits
    uint8_t qh[64];     // high 2 bits
    int8_t scales[16];  // of the sub-blocks
    uint16_t d;         // f16
  };
  static_assert(sizeof(Block) == 210);

  static constexpr int kSuperBlock = 256;
  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS

  // Lane s: sub-block s.
  struct Search {
    F32 scale;
    F32 inverse;  // of the try that won; its levels are round(inverse * x)
    Mask zero;    // no element above kTiny: all levels 0
  };

  static constexpr int kSteps = 9;     // tries on either side of the first
  static constexpr int kTogether = 3;  // tries that share the loads of an element

  // One element of each sub-block, and what it adds to the sums over x * x * x * level and x * x * level * level.
  //
  // The first try scales by 32 / |first| (first: the first element of the largest magnitude), the others by
  // (32 + step / 10) / |first| with |step| <= 9. No |x| exceeds |first|, so inverse * |x| is within 0.9 of that of the
  // first try, give or take roundings of 2^-18, and below 33. It moves by less than 1, so its nearest integer, ties to
  // even, moves by at most 1, and in the direction of the step, for a product of floats is monotone: on each side of
  // the first try a level is one of two, and a comparison with a threshold says which. The four terms are rounded as
  // ggml rounds them, and each sum adds its sixteen in ggml's order, so the sums, and all that follows from them, are
  // ggml's to the bit, overflow and underflow included.
  //
  // Signs play no part: every level has the sign of -x * first, so all terms of a sum have one sign, that of -first
  // for lx, and rounding is symmetric. Only the bound differs: 32 for the sign of first, 31 for the other.
  // NaN and infinity make the scale of the first try NaN, which no other try can beat.
  struct Other {
    F32 threshold;  // of inverse * |x|, strictly beyond which the level is the other one
    F32 lx, l2;
  };
  struct Element {
    F32 magnitude;
    F32 lx, l2;  // with the level of the first try
    Other below, above;
  };

  // The sums of kTogether tries above or below the first. One lane is one sub-block; a register at a time, so that all
  // sums stay in registers.
  template <bool kAbove>
  FASTCONV_INLINE static void add_up(const Element* elements, const F32* inverse, F32* lx, F32* l2) {
    for (int r = 0; r < kRegs; ++r) {
      reg::F sum_lx[kTogether], sum_l2[kTogether];
      for (int k = 0; k < kTogether; ++k) sum_lx[k] = sum_l2[k] = reg::splat(0.0f);
#pragma GCC unroll 4
      for (int i = 0; i < 16; ++i) {
        const Element& element = elements[i];
        const Other& other = kAbove ? element.above : element.below;
#pragma GCC unroll 3
        for (int k = 0; k < kTogether; ++k) {
          const reg::F scaled = reg::mul(inverse[k].r[r], element.magnitude.r[r]), threshold = other.threshold.r[r];
          const reg::M beyond = kAbove ? reg::less(threshold, scaled) : reg::less(scaled, threshold);
          sum_lx[k] = reg::add(sum_lx[k], reg::select(beyond, other.lx.r[r], element.lx.r[r]));
          sum_l2[k] = reg::add(sum_l2[k], reg::select(beyond, other.l2.r[r], element.l2.r[r]));
        }
      }
      for (int k = 0; k < kTogether; ++k) {
        lx[k].r[r] = sum_lx[k];
        l2[k].r[r] = sum_l2[k];
      }
    }
  }

  FASTCONV_INLINE static Search search(const float* x) {
    F32 v[16];
    Element elements[16];
    for (int s = 0; s < 16; ++s) v[s] = load(x + 16 * s);
    transpose(v);
    const F32 zero = splat(0.0f), one = splat(1.0f), half = splat(0.5f);
    F32 amax = zero, first = zero;
    for (int i = 0; i < 16; ++i) {
      elements[i].magnitude = abs(v[i]);
      amax = max(elements[i].magnitude, amax);
    }
#pragma GCC unroll 1
    for (int i = 15; i >= 0; --i) first = select(equal(elements[i].magnitude, amax), v[i], first);
    const auto inverse_of = [&](int step) { return splat(32 + 0.1f * static_cast<float>(step)) / amax; };

    const F32 inverse = inverse_of(0);
    F32 sum_lx = zero, sum_l2 = zero;
    for (int i = 0; i < 16; ++i) {
      Element& element = elements[i];
      const F32 magnitude = element.magnitude, w = magnitude * magnitude, wm = w * magnitude;
      const F32 limit = select(less(v[i] * first, zero), splat(31.0f), splat(32.0f));
      const F32 level = min(round_even(inverse * magnitude), limit);
      element.lx = wm * level;
      element.l2 = w * level * level;
      sum_lx = sum_lx + element.lx;
      sum_l2 = sum_l2 + element.l2;
      // A product on the half rounds to the even level: the threshold of an odd one is one float nearer.
      const I32 odd = truncate(level) & splat(1);
      const F32 lower = level - one, upper = min(level + one, limit);
      element.below = {from_bits(bits(level - half) + odd), wm * lower, w * lower * lower};
      element.above = {from_bits(bits(level + half) - odd), wm * upper, w * upper * upper};
    }
    Search found;
    found.zero = less(amax, splat(kTiny));
    found.inverse = inverse;
    found.scale = select(equal(sum_l2, zero), zero, sum_lx / sum_l2);
    F32 best = found.scale * sum_lx;
    const auto consider = [&](const F32* inverse, const F32* lx, const F32* l2) {
      for (int k = 0; k < kTogether; ++k) {
        const Mask better = less(zero, l2[k]) & less(best * l2[k], lx[k] * lx[k]);
        const F32 scale = lx[k] / l2[k];
        found.scale = select(better, scale, found.scale);
        found.inverse = select(better, inverse[k], found.inverse);
        best = select(better, scale * lx[k], best);
      }
    };
    F32 inverses[kTogether], lx[kTogether], l2[kTogether];
#pragma GCC unroll 3
    for (int step = -kSteps; step < 0; step += kTogether) {
      for (int k = 0; k < kTogether; ++k) inverses[k] = inverse_of(step + k);
      add_up<false>(elements, inverses, lx, l2);
      consider(inverses, lx, l2);
    }
#pragma GCC unroll 3
    for (int step = 1; step <= kSteps; step += kTogether) {
      for (int k = 0; k < kTogether; ++k) inverses[k] = inverse_of(step + k);
      add_up<true>(elements, inverses, lx, l2);
      consider(inverses, lx, l2);
    }
    const Mask positive = less(zero, first);
    found.inverse = select(positive, negate(found.inverse), found.inverse);
    found.scale = select(positive, negate(found.scale), found.scale);
    found.scale = select(found.zero, zero, found.scale);
    // One NaN for all: the payload would show in the bytes, and instruction sets pass on different ones.
    found.scale = select(equal(found.scale, found.scale), found.scale, splat(__builtin_nanf("")));
    return found;
  }

  FASTCONV_INLINE static I32 levels(F32 scaled) {
    return max(min(nearest_int(scaled), splat(31)), splat(-32)) + splat(32);
  }

  // The first of the largest magnitudes, NaN apart; 0 where all are NaN.
  FASTCONV_INLINE static float first_largest(const float* scales) {
    uint64_t largest = 0;
    for (uint32_t s = 0; s < 16; ++s) {
      uint32_t magnitude;
      __builtin_memcpy(&magnitude, scales + s, sizeof magnitude);
      magnitude &= 0x7FFFFFFF;
      if (magnitude > 0x7F800000) magnitude = 0;
      const uint64_t key = static_cast<uint64_t>(magnitude) << 4 | (15 - s);
      largest = key > largest ? key : largest;
    }
    return largest < 16 ? 0.0f : scales[15 - (largest & 15)];
  }

  FASTCONV_INLINE static void encode_block(const float* x, Block& y) {
    const Search found = search(x);
    alignas(64) float scales[16];
    store(scales, found.scale);
    const float max_scale = first_largest(scales);
    if (__builtin_fabsf(max_scale) < kTiny) {
      __builtin_memset(&y, 0, sizeof y);
      return;
    }
    const float inverse = -128.0f / max_scale;
    uint16_t d[16];
    store_f16(d, splat(1 / inverse));
    y.d = d[0];
    store_bytes(reinterpret_cast<uint8_t*>(y.scales), min(nearest_int(splat(inverse) * found.scale), splat(127)));
    const F32 step = splat(f16_to_f32(y.d)) * to_float(load_i8(y.scales));
    alignas(64) float steps[16];
    store(steps, step);

    uint8_t q[kSuperBlock];
    for (int s = 0; s < 16; ++s) store_bytes(q + 16 * s, levels(load(x + 16 * s) / splat(steps[s])));
    // A scale that rounds to zero keeps the levels of the search.
    const uint32_t kept = lane_bits(equal(step, splat(0.0f)));
    if (kept != 0) {
      alignas(64) float inverses[16];
      store(inverses, found.inverse);
      const uint32_t zeros = lane_bits(found.zero);
      for (int s = 0; s < 16; ++s) {
        if ((kept >> s & 1) == 0) continue;
        const I32 level = levels(splat(inverses[s]) * load(x + 16 * s));
        store_bytes(q + 16 * s, (zeros >> s & 1) != 0 ? splat(0) : level);
      }
    }
    pack(q, y);
  }

  // Half h of 128 elements, four runs of 32: ql[64 h + i] = low bits of runs 0 and 2, ql[64 h + 32 + i] of runs 1 and
  // 3, qh[32 h + i] = high bits of runs 0 to 3.
  FASTCONV_INLINE static void pack(const uint8_t* q, Block& y) {
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 32; i += 16) {
        const uint8_t* run = q + 128 * h + i;
        const I32 q0 = load_u8(run), q1 = load_u8(run + 32), q2 = load_u8(run + 64), q3 = load_u8(run + 96);
        const I32 low = splat(15), high = splat(0x30);
        store_bytes(y.ql + 64 * h + i, (q0 & low) | shift_left<4>(q2));
        store_bytes(y.ql + 64 * h + 32 + i, (q1 & low) | shift_left<4>(q3));
        store_bytes(y.qh + 32 * h + i,
                    shift_right<4>(q0) | shift_right<2>(q1 & high) | (q2 & high) | shift_left<2>(q3 & high));
      }
    }
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) {
      for (int i = 0; i < 2; ++i) {
        const I32 a = load_u8(block.ql + 64 * h + 16 * i), b = load_u8(block.ql + 64 * h + 32 + 16 * i);
        const I32 high = load_u8(block.qh + 32 * h + 16 * i);
        const int8_t* scales = block.scales + 8 * h + i;
        float* out = y + 128 * h + 16 * i;
        const auto put = [&](int run, I32 q) {
          store(out + 32 * run, splat(d * static_cast<float>(scales[2 * run])) * to_float(q - splat(32)));
        };
        put(0, (a & splat(15)) | (shift_left<4>(high) & splat(0x30)));
        put(1, (b & splat(15)) | (shift_left<2>(high) & splat(0x30)));
        put(2, shift_right<4>(a) | (high & splat(0x30)));
        put(3, shift_right<4>(b) | (shift_right<2>(high) & splat(0x30)));
      }
    }
  }

  static void encode(const float* x, void* dst, int64_t n) {
    Block* y = static_cast<Block*>(dst);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) encode_block(x + i * kSuperBlock, y[i]);
  }
  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / kSuperBlock; ++i) decode_block(block[i], y + i * kSuperBlock);
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
