// The kernel table of one instruction set, made at compile time: the last include of isa/<isa>/kernels.cpp, the shell
// that the build compiles with that set's flags. No function of the standard library is called at run time from here:
// an inline one, compiled with these flags, could be the copy that the linker gives to everybody.
#pragma once

#include "blocks/plain.hpp"
#include "blocks/planar.hpp"
#include "blocks/q4_0.hpp"
#include "blocks/q4_1.hpp"
#include "blocks/q4_2.hpp"
#include "blocks/q5_0.hpp"
#include "blocks/q5_1.hpp"
#include "blocks/q8_0.hpp"
#include "blocks/repack.hpp"
#include "blocks/tq1_0.hpp"
#include "blocks/tq2_0.hpp"
#include "core/reductions.hpp"
#include "isa/kernel_table.hpp"
#include "merge/lora_rows.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

extern const KernelTable kTable;
extern const TypeKernels kIQ2_XXS, kIQ2_XS, kIQ2_S, kIQ1_S, kIQ1_M;  // isa/<isa>/iq2.cpp
extern const TypeKernels kIQ3_XXS, kIQ3_S;                           // isa/<isa>/iq3.cpp
extern const TypeKernels kIQ4_NL, kIQ4_XS;                           // isa/<isa>/iq4.cpp
extern const TypeKernels kQ5_K, kQ4_K, kQ3_K, kQ2_K;                 // isa/<isa>/k_quants.cpp
extern const TypeKernels kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ6_K;          // isa/<isa>/weighted.cpp

namespace {

constexpr TypeKernels kNothing{};
template <class T>
constexpr TypeKernels kBlocks{T::decode, nullptr, T::encode};
template <class T>
constexpr TypeKernels kElements{T::decode, T::decode_max, T::encode, nullptr, 0, T::stored_max};
constexpr TypeKernels kF32{PlainF32::decode, nullptr, PlainF32::encode, nullptr, 0, PlainF32::stored_max};
template <class T>
constexpr TypeKernels kDecoder{T::decode};

// Every pair of types that share todays_type(), and halves to Q4_0 ... Q8_0 of GGUF.
constexpr std::array<Recode, kRecodeCount> kRecodes = {{
    {Type::q4_0_v1, Type::q4_0, repack_blocks<Q4_0_v1, Q4_0>},
    {Type::q4_0_v2, Type::q4_0, repack_blocks<Q4_0_v2, Q4_0>},
    {Type::q4_0, Type::q4_0_v1, repack_blocks<Q4_0, Q4_0_v1>},
    {Type::q4_0_v2, Type::q4_0_v1, repack_blocks<Q4_0_v2, Q4_0_v1>},
    {Type::q4_0, Type::q4_0_v2, repack_blocks<Q4_0, Q4_0_v2>},
    {Type::q4_0_v1, Type::q4_0_v2, repack_blocks<Q4_0_v1, Q4_0_v2>},
    {Type::q4_1_v1, Type::q4_1, repack_blocks<Q4_1_v1, Q4_1>},
    {Type::q4_1_v2, Type::q4_1, repack_blocks<Q4_1_v2, Q4_1>},
    {Type::q4_1, Type::q4_1_v1, repack_blocks<Q4_1, Q4_1_v1>},
    {Type::q4_1_v2, Type::q4_1_v1, repack_blocks<Q4_1_v2, Q4_1_v1>},
    {Type::q4_1, Type::q4_1_v2, repack_blocks<Q4_1, Q4_1_v2>},
    {Type::q4_1_v1, Type::q4_1_v2, repack_blocks<Q4_1_v1, Q4_1_v2>},
    {Type::q5_0_v1, Type::q5_0, repack_blocks<Q5_0_v1, Q5_0>},
    {Type::q5_0, Type::q5_0_v1, repack_blocks<Q5_0, Q5_0_v1>},
    {Type::q5_1_v1, Type::q5_1, repack_blocks<Q5_1_v1, Q5_1>},
    {Type::q5_1, Type::q5_1_v1, repack_blocks<Q5_1, Q5_1_v1>},
    {Type::q8_0_v1, Type::q8_0, repack_blocks<Q8_0_v1, Q8_0>},
    {Type::q8_0, Type::q8_0_v1, repack_blocks<Q8_0, Q8_0_v1>},
    {Type::f16, Type::q4_0, encode_halves<F16, Q4_0>},
    {Type::bf16, Type::q4_0, encode_halves<BF16, Q4_0>},
    {Type::f16, Type::q4_1, encode_halves<F16, Q4_1>},
    {Type::bf16, Type::q4_1, encode_halves<BF16, Q4_1>},
    {Type::f16, Type::q5_0, encode_halves<F16, Q5_0>},
    {Type::bf16, Type::q5_0, encode_halves<BF16, Q5_0>},
    {Type::f16, Type::q5_1, encode_halves<F16, Q5_1>},
    {Type::bf16, Type::q5_1, encode_halves<BF16, Q5_1>},
    {Type::f16, Type::q8_0, encode_halves<F16, Q8_0>},
    {Type::bf16, Type::q8_0, encode_halves<BF16, Q8_0>},
}};

constexpr KernelTable make_table(std::string_view name) {
  KernelTable table{};
  table.name = name;
  table.max_abs = max_abs;
  table.lora_add = lora_add;
  table.sum_of_squares = sum_of_squares;
  table.square_norm = square_norm;
  const auto put = [&table](Type type, const TypeKernels& kernels) {
    table.types[static_cast<size_t>(type)] = &kernels;
  };
  for (size_t i = 0; i < kTypeCount; ++i) put(static_cast<Type>(i), kNothing);
  put(Type::f32, kF32);
  put(Type::f16, kElements<PlainF16>);
  put(Type::bf16, kElements<PlainBF16>);
  put(Type::f64, kDecoder<PlainF64>);
  put(Type::f8_e4m3, kDecoder<PlainF8E4M3>);
  put(Type::f8_e5m2, kDecoder<PlainF8E5M2>);
  put(Type::q8_0, kBlocks<Q8_0>);
  put(Type::q5_1, kQ5_1);
  put(Type::q5_0, kQ5_0);
  put(Type::q4_1, kQ4_1);
  put(Type::q4_0, kQ4_0);
  put(Type::q6_k, kQ6_K);
  put(Type::iq2_s, kIQ2_S);
  put(Type::iq2_xs, kIQ2_XS);
  put(Type::iq2_xxs, kIQ2_XXS);
  put(Type::iq1_m, kIQ1_M);
  put(Type::iq1_s, kIQ1_S);
  put(Type::iq3_s, kIQ3_S);
  put(Type::iq3_xxs, kIQ3_XXS);
  put(Type::iq4_nl, kIQ4_NL);
  put(Type::iq4_xs, kIQ4_XS);
  put(Type::q5_k, kQ5_K);
  put(Type::q4_k, kQ4_K);
  put(Type::q3_k, kQ3_K);
  put(Type::q2_k, kQ2_K);
  put(Type::tq2_0, kBlocks<TQ2_0>);
  put(Type::tq1_0, kBlocks<TQ1_0>);
  put(Type::q4_0_v1, kBlocks<Q4_0_v1>);
  put(Type::q4_1_v1, kBlocks<Q4_1_v1>);
  put(Type::q5_0_v1, kBlocks<Q5_0_v1>);
  put(Type::q5_1_v1, kBlocks<Q5_1_v1>);
  put(Type::q8_0_v1, kBlocks<Q8_0_v1>);
  put(Type::q4_0_v2, kBlocks<Q4_0_v2>);
  put(Type::q4_1_v2, kBlocks<Q4_1_v2>);
  put(Type::q4_2, kDecoder<Q4_2>);
  put(Type::q4_3, kDecoder<Q4_3>);
  put(Type::q4_0_planar, kDecoder<Q4_0_planar>);
  put(Type::q4_1_planar, kDecoder<Q4_1_planar>);
  table.recodes = kRecodes;
  return table;
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
