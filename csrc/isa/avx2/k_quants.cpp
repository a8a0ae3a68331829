#if defined(__x86_64__)
#include "isa/avx2/simd.hpp"
#include "isa/k_quants_shell.hpp"
#endif
