// Blocks of one generation as those of another: the same levels in the other's order, the scales as its fields hold
// them. A scale that f16 cannot hold exactly is rounded to nearest, half to even: by at most 2^-11 of itself above
// f16's subnormals, where to quantize anew could move every level. One that overflows f16 leaves no choice: such a
// block is decoded and encoded.
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// field[b] of up to kGroup blocks. Bit b of `changed`: rounded; of `lost`: no longer finite.
struct Moved {
  uint32_t changed, lost;
};
template <class To, class From, class Put>
FASTCONV_INLINE Moved move_fields(const From* fields, int n, Put put) {
  alignas(64) float values[kGroup] = {};
  for (int b = 0; b < n; ++b) values[b] = fields[b].value();
  To out[kGroup];
  store(out, load(values));
  Moved moved{0, 0};
  for (int b = 0; b < n; ++b) {
    const float kept = out[b].value();
    moved.changed |= static_cast<uint32_t>(kept != values[b]) << b;
    moved.lost |= static_cast<uint32_t>(!(__builtin_fabsf(kept) < __builtin_inff()) && kept != values[b]) << b;
    put(b, out[b]);
  }
  return moved;
}

// Rounded are blocks that did not keep their scales to the bit.
template <class From, class To>
Recoded repack_blocks(const void* src, void* dst, int64_t n) {
  using FromField = decltype(From::Block::d);
  using ToField = decltype(To::Block::d);
  const auto* from = static_cast<const typename From::Block*>(src);
  auto* to = static_cast<typename To::Block*>(dst);
  int64_t n_changed = 0;
  for (int64_t left = n / kBlock; left > 0; left -= kGroup, from += kGroup, to += kGroup) {
    const int n_blocks = left < kGroup ? static_cast<int>(left) : kGroup;
    FromField fields[kGroup];
    for (int b = 0; b < n_blocks; ++b) fields[b] = from[b].d;
    Moved moved = move_fields<ToField>(fields, n_blocks, [=](int b, ToField d) { to[b].d = d; });
    if constexpr (To::kHasMin) {
      for (int b = 0; b < n_blocks; ++b) fields[b] = from[b].m;
      const Moved mins = move_fields<ToField>(fields, n_blocks, [=](int b, ToField m) { to[b].m = m; });
      moved = {moved.changed | mins.changed, moved.lost | mins.lost};
    }
    for (int b = 0; b < n_blocks; ++b) {
      To::template take_levels<From>(from[b], to[b]);
      if (__builtin_expect(moved.lost >> b & 1, 0)) {
        alignas(64) float x[kBlock];
        From::decode_block(from[b], x);
        To::encode(x, to + b, kBlock);
      }
    }
    n_changed += __builtin_popcount(moved.changed);
  }
  return {n_changed, __builtin_nanf("")};
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
