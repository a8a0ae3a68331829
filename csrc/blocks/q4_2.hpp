// Q4_2 and Q4_3, which GGJT v1 files of April and May 2023 hold: 16 elements as a scale d (and a minimum m, q4_3) in
// f16 and sixteen levels in pairs, x = (q - 8) * d, or q * d + m. Decoded only: no file has them today. Source:
// llama.cpp pull requests 1046 (q4_2) and 1082 (q4_3).
#pragma once

#include "blocks/groups_of_32.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {
namespace {

// Byte i = q[2 i] | q[2 i + 1] << 4.
FASTCONV_INLINE I32 sixteen_levels(const uint8_t* qs) {
  uint8_t levels[kLanes];
  for (int i = 0; i < 8; ++i) {
    levels[2 * i] = qs[i] & 15;
    levels[2 * i + 1] = qs[i] >> 4;
  }
  return load_u8(levels);
}

struct Q4_2 {
  struct __attribute__((packed)) Block {
    F16Field d;
    uint8_t qs[8];
  };
  static_assert(sizeof(Block) == 10);

  static void decode(const void* src, float* y, int64_t n) {
    const auto* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n; i += kLanes, ++block)
      store(y + i, to_float(sixteen_levels(block->qs) - splat(8)) * splat(block->d.value()));
  }
};

struct Q4_3 {
  struct __attribute__((packed)) Block {
    F16Field d, m;
    uint8_t qs[8];
  };
  static_assert(sizeof(Block) == 12);

  static void decode(const void* src, float* y, int64_t n) {
    const auto* block = static_cast<const Block*>(src);
    for (int64_t i = 0; i < n; i += kLanes, ++block)
      store(y + i, to_float(sixteen_levels(block->qs)) * splat(block->d.value()) + splat(block->m.value()));
  }
};

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
