#if defined(__x86_64__)
#include "isa/baseline/simd.hpp"
#include "isa/kernels.hpp"

namespace fastconv::baseline {
constexpr KernelTable kTable = make_table("baseline");
}  // namespace fastconv::baseline
#endif
