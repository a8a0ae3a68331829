// What this processor can run, and the operating system lets it run, as capability bits.
#pragma once

#include <cstdint>

namespace fastconv {

enum CpuFeature : uint32_t {
  kCpuAvx2 = 1u << 0,    // AVX2 and F16C, 256-bit registers saved by the system
  kCpuAvx512 = 1u << 1,  // AVX-512 F, BW, DQ and VL, 512-bit and mask registers saved by the system
};

uint32_t cpu_features();

}  // namespace fastconv
