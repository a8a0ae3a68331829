#if defined(__x86_64__)
#include "isa/avx2/simd.hpp"
#include "isa/shell.hpp"

namespace fastconv::avx2 {
constexpr KernelTable kTable = make_table("avx2");
}
#endif
