// The kernels of the K-quants on one instruction set: the last include of isa/<isa>/k_quants.cpp. They are compiled by
// themselves, since their searches take the compiler as long as all other kernels together. As in shell.hpp, no
// function of the standard library is called at run time.
#pragma once

#include "blocks/q2_k.hpp"
#include "blocks/q3_k.hpp"
#include "blocks/q4_k.hpp"
#include "blocks/q5_k.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

namespace {

template <class T>
constexpr TypeKernels kAffine{AffineBlocks<T>::decode, nullptr, AffineBlocks<T>::encode,
                              AffineBlocks<T>::encode_weighted};

}  // namespace

extern constexpr TypeKernels kQ5_K = kAffine<Q5_K>;
extern constexpr TypeKernels kQ4_K = kAffine<Q4_K>;
extern constexpr TypeKernels kQ3_K{Q3_K::decode, nullptr, Q3_K::encode, Q3_K::encode_weighted, Q3_K::kAtOnce};
extern constexpr TypeKernels kQ2_K = kAffine<Q2_K>;

}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
