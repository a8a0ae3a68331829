// The kernels of the 3-bit IQ types: the last include of isa/<isa>/iq3.cpp, a shell as isa/shell.hpp says.
#pragma once

#include "blocks/iq3.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

extern constexpr TypeKernels kIQ3_XXS{IQ3_XXS::decode, nullptr, IQ3_XXS::encode, IQ3_XXS::encode_weighted};
extern constexpr TypeKernels kIQ3_S{IQ3_S::decode, nullptr, IQ3_S::encode, IQ3_S::encode_weighted};

}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
