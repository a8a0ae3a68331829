#if defined(__x86_64__)
#include "isa/avx512/simd.hpp"
#include "isa/shell.hpp"

namespace fastconv::avx512 {
constexpr KernelTable kTable = make_table("avx512");
}
#endif
