#if defined(__x86_64__)
#include "isa/avx512/simd.hpp"
#include "isa/shell_iq3.hpp"
#endif
