#include "isa/cpu_features.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace fastconv {

#if defined(__x86_64__)

namespace {

// The register states that the operating system saves on a task switch. Virtual machines are seen whose processor
// reports what their system has not enabled: CPUID alone is not an answer.
uint64_t saved_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace

// Bits as in the Intel SDM, volume 2A, CPUID leaves 1 and 7; volume 1, section 13.2 for XCR0.
uint32_t cpu_features() {
  uint32_t a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return 0;
  constexpr uint32_t kOsXsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kNeeded = kOsXsave | kAvx | kF16c;
  if ((c & kNeeded) != kNeeded) return 0;
  const uint64_t saved = saved_states();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xE6;  // SSE and AVX; with opmask and both halves of ZMM
  if ((saved & kYmm) != kYmm || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return 0;
  constexpr uint32_t kAvx2Bit = 1u << 5;
  constexpr uint32_t kAvx512Bits = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  if ((b & kAvx2Bit) == 0) return 0;
  const bool wide = (b & kAvx512Bits) == kAvx512Bits && (saved & kZmm) == kZmm;
  return wide ? kCpuAvx2 | kCpuAvx512 : static_cast<uint32_t>(kCpuAvx2);
}

#else

uint32_t cpu_features() { return 0; }

#endif

}  // namespace fastconv
