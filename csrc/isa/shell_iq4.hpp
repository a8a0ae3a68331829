// The kernels of the 4-bit IQ types: the last include of isa/<isa>/iq4.cpp, a shell as isa/shell.hpp says.
#pragma once

#include "blocks/iq4.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

extern constexpr TypeKernels kIQ4_NL{IQ4_NL::decode, nullptr, IQ4_NL::encode, IQ4_NL::encode_weighted};
extern constexpr TypeKernels kIQ4_XS{IQ4_XS::decode, nullptr, IQ4_XS::encode, IQ4_XS::encode_weighted};

}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
