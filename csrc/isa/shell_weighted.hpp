// The kernels of Q4_0 to Q5_1 and Q6_K of one instruction set: the last include of isa/<isa>/weighted.cpp. Their
// searches where columns have an importance take longer to compile than isa/<isa>/kernels.cpp. No function of the
// standard library at run time, as in shell.hpp.
#pragma once

#include "blocks/q6_k.hpp"
#include "blocks/weighted_q4_0.hpp"
#include "blocks/weighted_q4_1.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

extern constexpr TypeKernels kQ4_0{Q4_0::decode, nullptr, Q4_0::encode, WeightedScale<Q4_0, 8>::encode};
extern constexpr TypeKernels kQ4_1{Q4_1::decode, nullptr, Q4_1::encode, WeightedScaleMin<Q4_1, 15>::encode};
extern constexpr TypeKernels kQ5_0{Q5_0::decode, nullptr, Q5_0::encode, WeightedScale<Q5_0, 16>::encode};
extern constexpr TypeKernels kQ5_1{Q5_1::decode, nullptr, Q5_1::encode, WeightedScaleMin<Q5_1, 31>::encode};
extern constexpr TypeKernels kQ6_K{Q6_K::decode, nullptr, Q6_K::encode, Q6_K::encode_weighted, Q6_K::kAtOnce};

}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
