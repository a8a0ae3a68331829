#if defined(__aarch64__)
#include "isa/k_quants_shell.hpp"
#include "isa/neon/simd.hpp"
#endif
