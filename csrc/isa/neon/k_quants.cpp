#if defined(__aarch64__)
#include "isa/neon/simd.hpp"
#include "isa/shell_k_quants.hpp"
#endif
