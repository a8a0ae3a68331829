// The kernel table of one instruction set, made at compile time: the last include of isa/<isa>/kernels.cpp, the shell
// that the build compiles with that set's flags. No function of the standard library is called at run time from here:
// an inline one, compiled with these flags, could be the copy that the linker gives to everybody.
#pragma once

#include "blocks/plain.hpp"
#include "blocks/q4_0.hpp"
#include "blocks/q4_1.hpp"
#include "blocks/q5_0.hpp"
#include "blocks/q5_1.hpp"
#include "blocks/q6_k.hpp"
#include "blocks/q8_0.hpp"
#include "core/reductions.hpp"
#include "isa/kernel_table.hpp"
#include "merge/lora_rows.hpp"

namespace fastconv::FASTCONV_ISA_NAMESPACE {

extern const KernelTable kTable;

namespace {

constexpr KernelTable make_table(std::string_view name) {
  KernelTable table{};
  table.name = name;
  table.max_abs = max_abs;
  table.lora_add = lora_add;
  table.sum_of_squares = sum_of_squares;
  table.square_norm = square_norm;
  const auto put = [&table](Type type, DecodeFn decode, EncodeFn encode) {
    table.decode[static_cast<size_t>(type)] = decode;
    table.encode[static_cast<size_t>(type)] = encode;
  };
  put(Type::f32, PlainF32::decode, PlainF32::encode);
  put(Type::f16, PlainF16::decode, PlainF16::encode);
  put(Type::bf16, PlainBF16::decode, PlainBF16::encode);
  table.decode_max[static_cast<size_t>(Type::f16)] = PlainF16::decode_max;
  table.decode_max[static_cast<size_t>(Type::bf16)] = PlainBF16::decode_max;
  put(Type::f64, PlainF64::decode, nullptr);
  put(Type::f8_e4m3, PlainF8E4M3::decode, nullptr);
  put(Type::f8_e5m2, PlainF8E5M2::decode, nullptr);
  put(Type::q8_0, Q8_0::decode, Q8_0::encode);
  put(Type::q5_1, Q5_1::decode, Q5_1::encode);
  put(Type::q5_0, Q5_0::decode, Q5_0::encode);
  put(Type::q4_1, Q4_1::decode, Q4_1::encode);
  put(Type::q4_0, Q4_0::decode, Q4_0::encode);
  put(Type::q6_k, Q6_K::decode, Q6_K::encode);
  put(Type::q4_0_v1, Q4_0_v1::decode, Q4_0_v1::encode);
  put(Type::q4_1_v1, Q4_1_v1::decode, Q4_1_v1::encode);
  put(Type::q5_0_v1, Q5_0_v1::decode, Q5_0_v1::encode);
  put(Type::q5_1_v1, Q5_1_v1::decode, Q5_1_v1::encode);
  put(Type::q8_0_v1, Q8_0_v1::decode, Q8_0_v1::encode);
  put(Type::q4_0_v2, Q4_0_v2::decode, Q4_0_v2::encode);
  put(Type::q4_1_v2, Q4_1_v2::decode, Q4_1_v2::encode);
  return table;
}

}  // namespace
}  // namespace fastconv::FASTCONV_ISA_NAMESPACE
