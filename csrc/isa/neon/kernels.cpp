#if defined(__aarch64__)
#include "isa/neon/simd.hpp"
#include "isa/kernels.hpp"

namespace fastconv::neon {
constexpr KernelTable kTable = make_table("neon");
}  // namespace fastconv::neon
#endif
