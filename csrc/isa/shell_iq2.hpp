// The kernels of IQ2 and IQ1 of one instruction set: the last include of isa/<isa>/iq2.cpp, which takes longer to
// compile than isa/<isa>/kernels.cpp. No function of the standard library at run time, as in shell.hpp.
#pragma once

#include "blocks/iq1_m.hpp"
#include "blocks/iq1_s.hpp"
#include "blocks/iq2_s.hpp"
#include "blocks/iq2_xs.hpp"
#include "blocks/iq2_xxs.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

extern constexpr TypeKernels kIQ2_XXS{IQ2_XXS::decode, nullptr, nullptr, IQ2_XXS::encode_weighted};
extern constexpr TypeKernels kIQ2_XS{IQ2_XS::decode, nullptr, nullptr, IQ2_XS::encode_weighted};
extern constexpr TypeKernels kIQ2_S{IQ2_S::decode, nullptr, IQ2_S::encode, IQ2_S::encode_weighted};
extern constexpr TypeKernels kIQ1_S{IQ1_S::decode, nullptr, nullptr, IQ1_S::encode_weighted};
extern constexpr TypeKernels kIQ1_M{IQ1_M::decode, nullptr, IQ1_M::encode, IQ1_M::encode_weighted};

}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
