// What the types of 32 elements a block share: the scales of sixteen blocks at a time, one block per lane, and the two
// orders of 4-bit values. Knows no block type. Everything is f32, one rounding per operation, as in ggml-quants.c of
// llama.cpp b11434 (quantize_row_*_ref).
#pragma once

#include "blocks/plain.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

constexpr int kBlock = 32;
constexpr int kGroup = kLanes;  // blocks whose scales are found together
// Halves come from memory, elsewhere than f32: so far ahead they are fetched. The processor's own prefetching stops at
// the end of every page.
constexpr int64_t kAheadBytes = 8 << 10;

template <class X>
FASTCONV_INLINE void fetch_group(const X* x) {
  if constexpr (kIsHalf<X>) {
    const auto* from = reinterpret_cast<const char*>(x);
    for (int b = 0; b < kGroup; ++b) __builtin_prefetch(from + b * kBlock * sizeof(X) + kAheadBytes, 0, 2);
  }
}

// T::find_scales looks at a group of blocks, T::write_blocks quantizes it. The scales of the next group are found
// before this one is written: the long chain of folds and divisions then runs beside the work on elements. Returns
// magnitudes: the largest of halves is among them, as bits.
template <class T, class X>
FASTCONV_INLINE I32 encode_groups(const X* x, void* dst, int64_t n) {
  auto* y = static_cast<typename T::Block*>(dst);
  typename T::Scales scales[2];
  int64_t n_groups = n / (kGroup * kBlock);
  const int n_rest = static_cast<int>(n / kBlock % kGroup);
  I32 most = splat(0);
  if (n_groups > 0) most = T::find_scales(x, kGroup, scales[0]);
  for (int turn = 0; n_groups > 0; --n_groups, turn ^= 1, x += kGroup * kBlock, y += kGroup) {
    fetch_group(x);
    if (n_groups > 1) most = max(most, T::find_scales(x + kGroup * kBlock, kGroup, scales[turn ^ 1]));
    T::write_blocks(x, kGroup, scales[turn], y);
  }
  if (n_rest > 0) {
    most = max(most, T::find_scales(x, n_rest, scales[0]));
    T::write_blocks(x, n_rest, scales[0], y);
  }
  return most;
}

template <class Half, class T>
Recoded encode_halves(const void* src, void* dst, int64_t n) {
  return {0, largest_lane(encode_groups<T>(static_cast<const Half*>(src), dst, n))};
}

template <class T>
FASTCONV_INLINE void decode_blocks(const void* src, float* y, int64_t n) {
  const auto* block = static_cast<const typename T::Block*>(src);
  for (int64_t i = 0; i < n / kBlock; ++i) T::decode_block(block[i], y + i * kBlock);
}

struct Range {
  F32 min, max;  // lane b: of block b
  I32 most;      // the bits of its largest magnitude, NaN above all others; of f32 not always told
};

// op over the 32 elements of sixteen blocks. Their order as f32 is that of their own bits: two of them share a lane.
template <class Half, class Op>
FASTCONV_INLINE F32 fold_halves(const Half* x, Op op) {
  const auto row = [=](int b) __attribute__((always_inline)) { return from_bits(load_pairs(x + b * kBlock)); };
  F32 pairs = fold_rows(row, op);
#pragma GCC unroll 4
  for (reg::F& r : pairs.r) r = op(r, reg::from_bits(reg::shift_left<16>(reg::bits(r))));
  return upper_values(x, bits(pairs));
}

// op over the 32 elements of each block. Each bound reads the blocks for itself: that is cheaper than to keep sixteen
// vectors of the other.
template <class X, class Op>
FASTCONV_INLINE F32 fold_blocks(const X* x, int n_blocks, Op op) {
  if constexpr (kIsHalf<X>)
    if (n_blocks == kGroup) return fold_halves(x, typename Op::OfWords());
  const auto row = [=](int b) __attribute__((always_inline)) {
    if (b >= n_blocks) return splat(0.0f);
    const F32 v = load(x + b * kBlock), w = load(x + b * kBlock + 16);
    F32 out;
#pragma GCC unroll 4
    for (int r = 0; r < kRegs; ++r) out.r[r] = op(v.r[r], w.r[r]);
    return out;
  };
  return fold_rows(row, op);
}

// The bounds of the bits of each block as integers. The largest with a sign belongs to the largest element, unless all
// are negative; the largest without one to the smallest element, unless none is. NaN comes out on either side.
struct BitBounds {
  I32 with_sign, without, most;               // lane b: of block b; most: of the largest magnitude
  uint32_t nan, all_negative, none_negative;  // bit b: of block b, -0 being negative

  template <class X>
  FASTCONV_INLINE BitBounds(const X* x, int n_blocks) {
    const uint32_t present = (1u << n_blocks) - 1;
    with_sign = bits(fold_blocks(x, n_blocks, MaxSigned()));
    without = bits(fold_blocks(x, n_blocks, MaxUnsigned()));
    most = max(with_sign, without & splat(0x7FFFFFFF));
    nan = lane_bits(less(splat(0x7F800000), most)) & present;
    all_negative = sign_bits(with_sign) & present;
    none_negative = ~sign_bits(without) & present;
  }
};

// As `if (v < min) min = v; if (v > max) max = v;` from the given starts, up to the sign of a zero: NaN is passed over.
template <class X>
FASTCONV_INLINE Range block_ranges(const X* x, int n_blocks, float min_start, float max_start) {
  const auto low = [=](int b) __attribute__((always_inline)) {
    if (b >= n_blocks) return splat(0.0f);
    return min(load(x + b * kBlock + 16), min(load(x + b * kBlock), splat(min_start)));
  };
  const auto high = [=](int b) __attribute__((always_inline)) {
    if (b >= n_blocks) return splat(0.0f);
    return max(load(x + b * kBlock + 16), max(load(x + b * kBlock), splat(max_start)));
  };
  return {fold_rows(low, Min()), fold_rows(high, Max()), splat(0)};
}

template <class X>
__attribute__((noinline)) inline Range odd_ranges(const X* x, int n_blocks, float min_start, float max_start,
                                                  I32 most) {
  Range range = block_ranges(x, n_blocks, min_start, max_start);
  range.most = most;
  return range;
}

// From starts of zero, so min <= 0 <= max.
template <class X>
FASTCONV_INLINE Range ranges_with_zero(const X* x, int n_blocks) {
  if (!kIntegerBounds && !kIsHalf<X>) return block_ranges(x, n_blocks, 0.0f, 0.0f);
  const BitBounds bounds(x, n_blocks);
  if (__builtin_expect(bounds.nan != 0, 0)) return odd_ranges(x, n_blocks, 0.0f, 0.0f, bounds.most);
  return {from_bits(min(bounds.without, splat(0))), from_bits(max(bounds.with_sign, splat(0))), bounds.most};
}

// From no start. Elements that are all NaN give the minimum FLT_MAX and the maximum -FLT_MAX.
template <class X>
FASTCONV_INLINE Range ranges(const X* x, int n_blocks) {
  constexpr float kMax = 3.40282346638528859811704183484516925e+38f;
  if (!kIntegerBounds && !kIsHalf<X>) return block_ranges(x, n_blocks, kMax, -kMax);
  const BitBounds bounds(x, n_blocks);
  if (__builtin_expect((bounds.nan | bounds.all_negative | bounds.none_negative) != 0, 0))
    return odd_ranges(x, n_blocks, kMax, -kMax, bounds.most);
  return {from_bits(bounds.without), from_bits(bounds.with_sign), bounds.most};
}

struct Largest {
  F32 value;
  I32 most;  // as in Range
};

// The largest magnitude of each block; 0 for a block of zeros.
template <class X>
FASTCONV_INLINE Largest largest_magnitudes(const X* x, int n_blocks) {
  I32 most = splat(0);
  if constexpr (kIsHalf<X>) {
    const BitBounds bounds(x, n_blocks);
    most = bounds.most;
    if (__builtin_expect(bounds.nan == 0, 1)) return {from_bits(most), most};
  }
  const auto row = [=](int b) __attribute__((always_inline)) {
    if (b >= n_blocks) return splat(0.0f);
    return max(abs(load(x + b * kBlock + 16)), max(abs(load(x + b * kBlock)), splat(0.0f)));
  };
  return {fold_rows(row, Max()), most};
}

// The signed value of each block's first element of largest magnitude; +0 for a block of zeros.
template <class X>
FASTCONV_INLINE Largest first_largest(const X* x, int n_blocks) {
  const Range range = ranges_with_zero(x, n_blocks);
  const F32 low = negate(range.min);
  F32 out = select(less(range.max, low), range.min, range.max);
  // Where +amax and -amax both occur, the first one counts: look.
  uint32_t ties = lane_bits(equal(range.max, low) & less(splat(0.0f), low));
  if (__builtin_expect(ties != 0, 0)) {
    alignas(64) float lanes[kLanes];
    store(lanes, out);
    for (; ties != 0; ties &= ties - 1) {
      const int b = __builtin_ctz(ties);
      const float amax = lanes[b];
      const X* v = x + b * kBlock;
      while (value(*v) != amax && value(*v) != -amax) ++v;
      lanes[b] = value(*v);
    }
    out = load(lanes);
  }
  return {out, range.most};
}

// Smallest and largest element; a zero minimum has the sign of the block's first zero.
template <class X>
FASTCONV_INLINE Range first_range(const X* x, int n_blocks) {
  Range range = ranges(x, n_blocks);
  uint32_t zeros = lane_bits(equal(range.min, splat(0.0f))) & ((1u << n_blocks) - 1);
  if (__builtin_expect(zeros != 0, 0)) {
    alignas(64) float lanes[kLanes];
    store(lanes, range.min);
    for (; zeros != 0; zeros &= zeros - 1) {
      const int b = __builtin_ctz(zeros);
      const X* v = x + b * kBlock;
      while (value(*v) != 0.0f) ++v;
      lanes[b] = value(*v);
    }
    range.min = load(lanes);
  }
  return range;
}

// (max - min) / levels. A difference of zeros of either sign is +0, as it is where ggml subtracts an element from
// itself.
FASTCONV_INLINE F32 steps_of(Range range, float levels) { return abs(range.max - range.min) / splat(levels); }

FASTCONV_INLINE F32 inverse_or_zero(F32 d) { return select(equal(d, splat(0.0f)), splat(0.0f), splat(1.0f) / d); }

// roundf, half away from zero, for |a| < 2^22. The addend is the largest f32 below one half: with one half itself,
// 0.49999997 would round up. All f32 magnitudes below 128 were once compared with roundf; the ties are in
// tests/kernels.
FASTCONV_INLINE I32 round_away(F32 a) {
  const I32 sign = bits(a) & splat(static_cast<int32_t>(0x80000000));
  return truncate(a + from_bits(sign | bits(splat(0x1.fffffep-2f))));
}

// A scale or a minimum as a block stores it.
struct F16Field {
  uint16_t bits;
  FASTCONV_INLINE float value() const { return f16_to_f32(bits); }
};
struct __attribute__((packed)) F32Field {
  float bits;
  FASTCONV_INLINE float value() const { return bits; }
};
FASTCONV_INLINE void store(F16Field (&out)[kGroup], F32 a) { store_f16(out, a); }
FASTCONV_INLINE void store(F32Field (&out)[kGroup], F32 a) {
  alignas(64) float lanes[kGroup];
  store(lanes, a);
  __builtin_memcpy(out, lanes, sizeof lanes);
}

// The order of the 4-bit values in the 16 bytes of a block.
// Half: byte i = q[i] | q[i + 16] << 4. Files of GGJT v2 and later, GGUF.
struct HalfOrder {
  FASTCONV_INLINE static void pack(uint8_t* out, I32 q0, I32 q1) { store_bytes(out, q0 | shift_left<4>(q1)); }
  FASTCONV_INLINE static void unpack(const uint8_t* in, I32& q0, I32& q1) {
    const I32 both = load_u8(in);
    q0 = both & splat(15);
    q1 = shift_right<4>(both);
  }
};

// Pair: byte i = q[2 i] | q[2 i + 1] << 4. Files before GGJT v2.
struct PairOrder {
  FASTCONV_INLINE static void pack(uint8_t* out, I32 q0, I32 q1) {
    uint8_t bytes[kBlock];
    store_bytes(bytes, q0);
    store_bytes(bytes + 16, q1);
    for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>((bytes[2 * i] & 15) | bytes[2 * i + 1] << 4);
  }
  FASTCONV_INLINE static void unpack(const uint8_t* in, I32& q0, I32& q1) {
    uint8_t bytes[kBlock];
    for (int i = 0; i < 16; ++i) {
      bytes[2 * i] = in[i] & 15;
      bytes[2 * i + 1] = in[i] >> 4;
    }
    q0 = load_u8(bytes);
    q1 = load_u8(bytes + 16);
  }
};

template <class From, class To>
FASTCONV_INLINE void reorder(const uint8_t* from, uint8_t* to) {
  I32 q0, q1;
  From::unpack(from, q0, q1);
  To::pack(to, q0, q1);
}

// The fifth bits: bit e of the little-endian word is bit 4 of element e, in every version.
FASTCONV_INLINE uint32_t fifth_bits(I32 q0, I32 q1) {
  return sign_bits(shift_left<27>(q0)) | sign_bits(shift_left<27>(q1)) << 16;
}
// 16 in lane i where bit i of the low half is set, else 0.
FASTCONV_INLINE I32 with_fifth_bits(I32 q, uint32_t half) {
  alignas(64) constexpr int32_t kBits[kLanes] = {1 << 0, 1 << 1, 1 << 2,  1 << 3,  1 << 4,  1 << 5,  1 << 6,  1 << 7,
                                                 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
  const I32 lane = load(kBits);
  const I32 hit = splat(static_cast<int32_t>(half)) & lane;
  return q | select(equal(hit, lane), splat(16), splat(0));
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
