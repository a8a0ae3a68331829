#if defined(__aarch64__)
#include "isa/neon/simd.hpp"
#include "isa/shell_iq3.hpp"
#endif
