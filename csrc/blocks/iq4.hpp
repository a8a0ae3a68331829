// IQ4_NL: 32 elements, x = d * kValues[level]; IQ4_XS: 256 elements as eight such blocks, x = d * (scale - 32) *
// kValues[level]. The scale of a block is the best of sixteen by weighted least squares; the weight is x * x, or
// importance * sqrt(sigma2 + x * x).
// Source: quantize_row_iq4_nl_impl and best_index_int8 in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/columns.hpp"
#include "blocks/super_block.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// The next f32 after a positive one.
constexpr float just_above(float x) {
  float last_place = 0x1p-23f;
  while (last_place * 0x1p24f <= x) last_place *= 2;
  return x + last_place;
}

struct IQ4 {
  static constexpr int kBlock = 32;
  static constexpr float kTiny = 1e-15f;  // GROUP_MAX_EPS

  alignas(64) static constexpr float kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                    1,    13,   25,  38,  53,  69,  89,  113};

  // The level whose value is nearest, the upper one in the middle of two.
  //
  // ggml compares x - low with high - x. Both are monotone in x, equal in the middle (which is an f32), and one f32
  // below the middle still apart, since that difference is exact: so it compares x with the middle. NaN gives 15.
  //
  // Cut into sixteen strips of 14.18 from -125.866 on, the outer ones without end, the line has at most one middle in
  // each strip. All lie 1.2 inside, so how the strip is rounded does not matter. The second strip has none.
  alignas(64) static constexpr float kMiddles[16] = {
      -115.5f, __builtin_inff(), -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};
  FASTCONV_INLINE static I32 nearest_level(F32 x) {
    const F32 along = x * splat(1 / 14.18f) + splat(125.866f / 14.18f);
    const I32 strip = truncate(max(min(along, splat(15.0f)), splat(0.0f)));
    const I32 below = max(strip - splat(1), min(strip, splat(1)));
    return select(less(x, lookup(kMiddles, strip)), below, below + splat(1));
  }

  // The scales of sixteen blocks, block b in lane b.
  //
  // The first try has 127 / first as its inverse scale (first: the first element of the largest magnitude), the others
  // (step - 127) / first with |step| <= 7. Of those, the one with step -7 has the largest magnitude, 134 / |first|, and
  // all are within a factor of 134 / 120 = 1.117 of one another, give or take roundings of 2^-22. Two neighbouring
  // middles of one sign are at least a factor of 101 / 79 = 1.278 or 115.5 / 93.5 = 1.235 apart, and inverse * x is
  // monotone in the inverse: so an element meets at most one middle between step -7 and step 7, the inner one of its
  // first level, and each of its levels is one of two. A comparison with that middle says which. The four terms are
  // rounded as ggml rounds them and each sum adds its 32 in ggml's order, so the sums, and all that follows from them,
  // are ggml's to the bit, overflow and underflow included.
  //
  // Infinity or NaN among the elements make the sums NaN, and no try of NaN is taken.
  struct Terms {
    F32 qx, q2;  // weight * value * x, weight * value * value
  };
  struct Element {
    F32 magnitude;
    F32 bound;  // of inverse * magnitude, below which the level is the inner one
    Terms outer, inner;
  };

  // By the level at step -7: the value one level nearer to zero, and the bound where it takes over. In the middle of
  // two counts as the upper one, which for negative x is the inner one. Level 8 is the innermost.
  alignas(64) static constexpr float kInnerValues[16] = {-104, -83, -65, -49, -35, -22, -10, 1,
                                                         1,    1,   13,  25,  38,  53,  69,  89};
  alignas(64) static constexpr float kBounds[16] = {just_above(115.5f),
                                                    just_above(93.5f),
                                                    just_above(74),
                                                    just_above(57),
                                                    just_above(42),
                                                    just_above(28.5f),
                                                    just_above(16),
                                                    just_above(4.5f),
                                                    0,
                                                    7,
                                                    19,
                                                    31.5f,
                                                    45.5f,
                                                    61,
                                                    79,
                                                    101};

  static constexpr int kSteps = 7;
  static constexpr int kTogether = 5;  // tries that share the loads of an element
  static_assert((2 * kSteps + 1) % kTogether == 0);

  FASTCONV_INLINE static Terms terms(F32 weight, F32 value, F32 x) {
    const F32 product = weight * value;
    return {product * x, product * value};
  }

  // A register at a time, so that all sums stay in registers.
  FASTCONV_INLINE static void add_up(const Element* elements, const F32* inverse, Terms* sums) {
    for (int r = 0; r < kRegs; ++r) {
      reg::F qx[kTogether], q2[kTogether];
      for (int k = 0; k < kTogether; ++k) qx[k] = q2[k] = reg::splat(0.0f);
#pragma GCC unroll 2
      for (int i = 0; i < kBlock; ++i) {
        const Element& e = elements[i];
#pragma GCC unroll 5
        for (int k = 0; k < kTogether; ++k) {
          const reg::M is_inner = reg::less(reg::mul(inverse[k].r[r], e.magnitude.r[r]), e.bound.r[r]);
          qx[k] = reg::add(qx[k], reg::select(is_inner, e.inner.qx.r[r], e.outer.qx.r[r]));
          q2[k] = reg::add(q2[k], reg::select(is_inner, e.inner.q2.r[r], e.outer.q2.r[r]));
        }
      }
      for (int k = 0; k < kTogether; ++k) {
        sums[k].qx.r[r] = qx[k];
        sums[k].q2.r[r] = q2[k];
      }
    }
  }

  // v[i] lane b: element i of block b; weights alike.
  static F32 best_scales(const F32 (&v)[kBlock], const F32 (&weights)[kBlock]) {
    const F32 zero = splat(0.0f);
    F32 amax = zero, first = zero;
    for (const F32& x : v) amax = max(abs(x), amax);
    for (int i = kBlock - 1; i >= 0; --i) first = select(equal(abs(v[i]), amax), v[i], first);

    const F32 first_inverse = splat(1.0f) / (first / splat(127.0f)), outermost = splat(-127.0f - kSteps) / first;
    Element elements[kBlock];
    Terms sums{zero, zero};
    for (int i = 0; i < kBlock; ++i) {
      const F32 x = v[i], w = weights[i];
      const Terms first_terms = terms(w, lookup(kValues, nearest_level(first_inverse * x)), x);
      sums.qx = sums.qx + first_terms.qx;
      sums.q2 = sums.q2 + first_terms.q2;
      const I32 level = nearest_level(outermost * x);
      elements[i] = {abs(x), lookup(kBounds, level), terms(w, lookup(kValues, level), x),
                     terms(w, lookup(kInnerValues, level), x)};
    }
    F32 scale = select(less(zero, sums.q2), sums.qx / sums.q2, zero);
    F32 best = scale * sums.qx;
    for (int step = -kSteps; step <= kSteps; step += kTogether) {
      F32 inverse[kTogether];
      Terms tries[kTogether];
      for (int k = 0; k < kTogether; ++k) inverse[k] = splat(static_cast<float>(127 - step - k)) / amax;
      add_up(elements, inverse, tries);
      for (const Terms& sum : tries) {
        const Mask better = less(zero, sum.q2) & less(best * sum.q2, sum.qx * sum.qx);
        const F32 ratio = sum.qx / sum.q2;
        scale = select(better, ratio, scale);
        best = select(better, ratio * sum.qx, best);
      }
    }
    scale = select(less(amax, splat(kTiny)), zero, scale);
    // One NaN for all, x86's: its sign shows in the bytes, and instruction sets differ.
    return select(equal(scale, scale), scale, from_bits(splat(static_cast<int32_t>(0xFFC00000))));
  }

  FASTCONV_INLINE static F32 inverse_or_zero(F32 a) {
    return select(equal(a, splat(0.0f)), splat(0.0f), splat(1.0f) / a);
  }

  // Byte i: the level of element i, and of element i + 16 above it.
  FASTCONV_INLINE static void write_levels(const float* x, float inverse, uint8_t* qs) {
    const F32 scale = splat(inverse);
    store_bytes(qs, nearest_level(scale * load(x)) | shift_left<4>(nearest_level(scale * load(x + 16))));
  }

  FASTCONV_INLINE static void decode_levels(const uint8_t* qs, float d, float* y) {
    const I32 both = load_u8(qs);
    store(y, splat(d) * lookup(kValues, both));
    store(y + 16, splat(d) * lookup(kValues, shift_right<4>(both)));
  }

  // sigma2 of each of `n` runs of n_elements, one per lane: twice the mean of the squares.
  FASTCONV_INLINE static F32 sigma2(const float* x, int64_t n, int n_elements) {
    return sums_of_squares(x, n, n_elements) * splat(2.0f / static_cast<float>(n_elements));
  }

  // The blocks of whole rows of n_cols, in groups of one per lane.
  struct Rows {
    const float* x;
    int64_t n_blocks;
    const float* importance;  // nullptr: the weight is x * x
    int64_t n_cols;

    // The scales of the blocks from `first` on, one per lane; lanes past the last block repeat it.
    FASTCONV_INLINE F32 scales(int64_t first, F32 sigma2) const {
      const float* blocks[kLanes];
      for (int b = 0; b < kLanes; ++b) blocks[b] = x + (first + b < n_blocks ? first + b : n_blocks - 1) * kBlock;
      F32 v[kBlock], weights[kBlock];
      load_columns(blocks, 0, v);
      load_columns(blocks, 16, v + 16);
      if (importance == nullptr) {
        for (int i = 0; i < kBlock; ++i) weights[i] = v[i] * v[i];
      } else {
        const float* of_block[kLanes];
        int64_t column = first * kBlock % n_cols;
        for (int b = 0; b < kLanes; ++b) {
          of_block[b] = importance + column;
          column = column + kBlock == n_cols ? 0 : column + kBlock;
        }
        load_columns(of_block, 0, weights);
        load_columns(of_block, 16, weights + 16);
        for (int i = 0; i < kBlock; ++i) weights[i] = weights[i] * sqrt(sigma2 + v[i] * v[i]);
      }
      return best_scales(v, weights);
    }
  };
};

// T::encode_rows writes the blocks of rows.
template <class T>
struct IQ4Encoders {
  static void encode(const float* x, void* dst, int64_t n) {
    T::encode_rows({x, n / IQ4::kBlock, nullptr, 0}, static_cast<typename T::Block*>(dst));
  }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    T::encode_rows({x, n_rows * n_cols / IQ4::kBlock, importance, n_cols}, static_cast<typename T::Block*>(dst));
  }
};

struct IQ4_NL : IQ4Encoders<IQ4_NL> {
  struct __attribute__((packed)) Block {
    uint16_t d;      // f16
    uint8_t qs[16];  // byte i: elements i and i + 16
  };
  static_assert(sizeof(Block) == 18);

  static void encode_rows(const IQ4::Rows& rows, Block* y) {
    for (int64_t first = 0; first < rows.n_blocks; first += kLanes) {
      const int64_t n_left = rows.n_blocks - first, n = n_left < kLanes ? n_left : kLanes;
      const float* x = rows.x + first * IQ4::kBlock;
      const F32 sigma2 = rows.importance == nullptr ? splat(0.0f) : IQ4::sigma2(x, n, IQ4::kBlock);
      const F32 scales = rows.scales(first, sigma2);
      alignas(64) float inverses[kLanes];
      uint16_t d[kLanes];
      store(inverses, IQ4::inverse_or_zero(scales));
      store_f16(d, scales);
      for (int64_t b = 0; b < n; ++b) {
        y[first + b].d = d[b];
        IQ4::write_levels(x + b * IQ4::kBlock, inverses[b], y[first + b].qs);
      }
    }
  }

  static void decode(const void* src, float* y, int64_t n) {
    const Block* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n / IQ4::kBlock; ++i)
      IQ4::decode_levels(block[i].qs, f16_to_f32(block[i].d), y + i * IQ4::kBlock);
  }
};

struct IQ4_XS : IQ4Encoders<IQ4_XS> {
  static constexpr int kBlocks = 8;  // of a super-block
  static constexpr int kPair = kLanes / kBlocks;

  struct __attribute__((packed)) Block {
    uint16_t d;           // f16
    uint16_t scales_h;    // bits 2 b, 2 b + 1: high bits of the scale of block b
    uint8_t scales_l[4];  // low 4 bits
    uint8_t qs[128];      // of each block as in IQ4_NL
  };
  static_assert(sizeof(Block) == 136);

  // The first scale of the largest magnitude, NaN apart; 0 where all are NaN.
  FASTCONV_INLINE static float first_largest(const float* scales) {
    float largest = 0;
    for (int b = 0; b < kBlocks; ++b)
      if (__builtin_fabsf(scales[b]) > __builtin_fabsf(largest)) largest = scales[b];
    return largest;
  }

  // n of two super-blocks, whose sixteen scales are given.
  FASTCONV_INLINE static void write_pair(const float* x, F32 found, int64_t n, Block* y) {
    alignas(64) float scales[kLanes], steps[kLanes], inverses[kLanes];
    store(scales, found);
    for (int s = 0; s < kPair; ++s)
      for (int b = 0; b < kBlocks; ++b) steps[s * kBlocks + b] = -first_largest(scales + s * kBlocks) / 32;
    const F32 d = load(steps);
    uint16_t d16[kLanes];
    store_f16(d16, d);
    const I32 level = max(min(nearest_int(IQ4::inverse_or_zero(d) * found), splat(31)), splat(-32));
    store(inverses, IQ4::inverse_or_zero(d * to_float(level)));
    uint8_t levels[kLanes];
    store_bytes(levels, level + splat(32));
    for (int64_t s = 0; s < n; ++s) {
      Block& block = y[s];
      const int first = static_cast<int>(s) * kBlocks;
      uint32_t high = 0;
      for (int b = 0; b < kBlocks; ++b) high |= static_cast<uint32_t>(levels[first + b] >> 4) << (2 * b);
      block.d = d16[first];
      block.scales_h = static_cast<uint16_t>(high);
      for (int b = 0; b < kBlocks; b += 2)
        block.scales_l[b / 2] = static_cast<uint8_t>((levels[first + b] & 15) | levels[first + b + 1] << 4);
      for (int b = 0; b < kBlocks; ++b)
        IQ4::write_levels(x + (first + b) * IQ4::kBlock, inverses[first + b], block.qs + 16 * b);
    }
  }

  static void encode_rows(const IQ4::Rows& rows, Block* y) {
    const int64_t n_super = rows.n_blocks / kBlocks;
    alignas(64) float sigma2[kLanes];
    for (int64_t first = 0; first < n_super; first += kPair) {
      const int64_t n_left = n_super - first;
      const int64_t at = first % kLanes;
      if (rows.importance != nullptr && at == 0)
        store(sigma2, IQ4::sigma2(rows.x + first * kSuperBlock, n_left, kSuperBlock));
      alignas(64) float of_block[kLanes] = {};
      if (rows.importance != nullptr)
        for (int b = 0; b < kLanes; ++b) of_block[b] = sigma2[at + b / kBlocks];
      const F32 scales = rows.scales(first * kBlocks, load(of_block));
      write_pair(rows.x + first * kSuperBlock, scales, n_left < kPair ? n_left : kPair, y + first);
    }
  }

  FASTCONV_INLINE static void decode_block(const Block& block, float* y) {
    const float d = f16_to_f32(block.d);
    for (int b = 0; b < kBlocks; ++b) {
      const int low = block.scales_l[b / 2] >> 4 * (b % 2) & 15, high = block.scales_h >> 2 * b & 3;
      const float scale = d * static_cast<float>((low | high << 4) - 32);
      IQ4::decode_levels(block.qs + 16 * b, scale, y + b * IQ4::kBlock);
    }
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<IQ4_XS>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
