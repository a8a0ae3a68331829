#if defined(__x86_64__)
#include "isa/baseline/simd.hpp"
#include "isa/k_quants_shell.hpp"
#endif
