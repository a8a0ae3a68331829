#if defined(__x86_64__)
#include "isa/baseline/simd.hpp"
#include "isa/shell.hpp"

namespace fastconv::baseline {
constexpr KernelTable kTable = make_table("baseline");
}
#endif
