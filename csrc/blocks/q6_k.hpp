// Q6_K: 256 elements as sixteen sub-blocks of sixteen, x = d * scale * (q - 32).
// Each sub-block's scale is the best of 19 by weighted least squares, with x * x or the importance as weight.
// Source: quantize_row_q6_K_ref and quantize_row_q6_K_impl in ggml-quants.c of llama.cpp b11434.
#pragma once

#include "blocks/affine_search.hpp"
#include "blocks/signed_search.hpp"
#include "blocks/super_block.hpp"

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

  using Search = SignedSearch<16, 32>;  // lane s: sub-block s
  // Super-blocks whose scales are put together, one in each lane.
  static constexpr int64_t kAtOnce = kLanes * kSuperBlock;

  FASTCONV_INLINE static I32 level(I32 q) { return max(min(q, splat(31)), splat(-32)) + splat(32); }

  // Lane s of row i: element i of sub-block s.
  FASTCONV_INLINE static void transpose_sub_blocks(const float* x, F32 (&rows)[16]) {
    for (int s = 0; s < 16; ++s) rows[s] = load(x + 16 * s);
    transpose(rows);
  }

  // What the search found for up to sixteen super-blocks; the levels of the search are needed but where a scale rounds
  // to zero.
  struct Fits {
    F32 scale[kLanes];
    alignas(64) float inverse[kLanes][16];
    uint32_t zero[kLanes];

    FASTCONV_INLINE void take(int b, const Search::Found& found) {
      scale[b] = found.scale;
      store(inverse[b], found.inverse);
      zero[b] = lane_bits(found.zero);
    }
  };

  static void write_blocks(const float* x, int n, Fits& fits, Block* y) {
    F32* scale = fits.scale;  // lane b, from here on: of super-block b
    for (int b = n; b < kLanes; ++b) scale[b] = scale[0];
    transpose(fits.scale);
    const F32 zero = splat(0.0f);
    F32 most = zero, first = zero;  // the first of the largest magnitude, NaN apart
    for (int s = 0; s < 16; ++s) {
      const Mask larger = less(most, abs(scale[s]));
      first = select(larger, scale[s], first);
      most = select(larger, abs(scale[s]), most);
    }
    const uint32_t nothing = lane_bits(less(most, splat(Search::kTiny)));
    const F32 inverse = splat(-128.0f) / first;
    uint16_t halves[kLanes];
    store_f16(halves, splat(1.0f) / inverse);
    const F32 d = load_f16(halves);
    F32 step[16], inverse_step[16];
    uint8_t bytes[16][kLanes];
    for (int s = 0; s < 16; ++s) {
      store_bytes(bytes[s], min(nearest_int(nan_to_zero(inverse * scale[s])), splat(127)));
      step[s] = d * to_float(load_i8(reinterpret_cast<const int8_t*>(bytes[s])));
      inverse_step[s] = splat(1.0f) / step[s];
    }
    transpose(step);
    transpose(inverse_step);
#pragma GCC unroll 1
    for (int b = 0; b < n; ++b, x += kSuperBlock) {
      if ((nothing >> b & 1) != 0) {
        __builtin_memset(y + b, 0, sizeof *y);
        continue;
      }
      y[b].d = halves[b];
      for (int s = 0; s < 16; ++s) y[b].scales[s] = static_cast<int8_t>(bytes[s][b]);
      alignas(64) float steps[16], inverses[16];
      store(steps, step[b]);
      store(inverses, inverse_step[b]);
      uint8_t q[kSuperBlock];
      for (int s = 0; s < 16; ++s)
        store_bytes(q + 16 * s, level(nearest_quotient(load(x + 16 * s), steps[s], inverses[s])));
      // A scale that rounds to zero keeps the levels of the search.
      const uint32_t kept = lane_bits(equal(step[b], zero));
      if (__builtin_expect(kept != 0, 0)) {
        for (int s = 0; s < 16; ++s) {
          if ((kept >> s & 1) == 0) continue;
          const I32 searched = level(nearest_int(nan_to_zero(splat(fits.inverse[b][s]) * load(x + 16 * s))));
          store_bytes(q + 16 * s, (fits.zero[b] >> s & 1) != 0 ? splat(0) : searched);
        }
      }
      pack(q, y[b]);
    }
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

  // search(x, at) finds the scales of the super-block at x, which `at` elements come before.
  template <class SearchOf>
  FASTCONV_INLINE static void encode_blocks(const float* x, void* dst, int64_t n, SearchOf search) {
    Block* y = static_cast<Block*>(dst);
    for (int64_t at = 0; at < n; at += kAtOnce, x += kAtOnce, y += kLanes) {
      const int64_t left = (n - at) / kSuperBlock;
      const int n_blocks = left < kLanes ? static_cast<int>(left) : kLanes;
      Fits fits;
#pragma GCC unroll 1
      for (int b = 0; b < n_blocks; ++b) fits.take(b, search(x + b * kSuperBlock, at + b * kSuperBlock));
      write_blocks(x, n_blocks, fits, y);
    }
  }

  static void encode(const float* x, void* dst, int64_t n) {
    encode_blocks(
        x, dst, n, [](const float* of, int64_t) __attribute__((always_inline)) {
          F32 v[16];
          transpose_sub_blocks(of, v);
          return Search::search(v, [&v](int e) { return v[e] * v[e]; });
        });
  }
  static void encode_weighted(const float* x, void* dst, int64_t n_rows, int64_t n_cols, const float* importance) {
    encode_blocks(
        x, dst, n_rows * n_cols, [=](const float* of, int64_t at) __attribute__((always_inline)) {
          F32 v[16], weights[16];
          transpose_sub_blocks(of, v);
          transpose_sub_blocks(importance + at % n_cols, weights);
          return Search::search(v, [&weights](int e) { return weights[e]; });
        });
  }
  static void decode(const void* src, float* y, int64_t n) { decode_super_blocks<Q6_K>(src, y, n); }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
