#if defined(__x86_64__)
#include "isa/avx512/simd.hpp"
#include "isa/kernels.hpp"

namespace fastconv::avx512 {
constexpr KernelTable kTable = make_table("avx512");
}  // namespace fastconv::avx512
#endif
