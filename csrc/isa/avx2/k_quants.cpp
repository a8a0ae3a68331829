#if defined(__x86_64__)
#include "isa/avx2/simd.hpp"
#include "isa/shell_k_quants.hpp"
#endif
