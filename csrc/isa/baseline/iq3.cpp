#if defined(__x86_64__)
#include "isa/baseline/simd.hpp"
#include "isa/shell_iq3.hpp"
#endif
