#if defined(__aarch64__)
#include "isa/neon/simd.hpp"
#include "isa/shell.hpp"

namespace fastconv::neon {
constexpr KernelTable kTable = make_table("neon");
}
#endif
