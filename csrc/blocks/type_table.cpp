#include "blocks/type_table.hpp"

#include <array>
#include <limits>

namespace fastconv {
namespace {

constexpr double kF32Max = std::numeric_limits<float>::max();
constexpr double kF16Max = 65504.0;
// The largest f32 that rounds to a finite bf16: 0x7F7F7FFF.
constexpr double kBf16Max = 0x1.fefffep+127;

// max_abs of a block type is where its f16 scale or min reaches kF16Max: |d| = max / -8 for q4_0, max / -16 for q5_0,
// max / 127 for q8_0; the min itself for q4_1 and q5_1; for q6_k the super-scale is at most max / 128 of a sub-scale;
// the largest magnitude itself for tq1_0 and tq2_0.
// For iq4_nl the scale is a weighted mean of x / value over elements of which each lies next to its value in one try:
// most where value 1 stands for 7, all weight is there, and the try has the least inverse scale, 120 / max_abs: 7 /
// 120. iq4_xs divides by 32. For iq3 it is a weighted mean of x / value with values of 1 and more, times 1.0125 / 31
// for iq3_xxs and 1.033 / 31 for iq3_s.
// On the grids of iq2 and iq1 a scale is sum(w * x * q) / sum(w * q * q), at most max / min|q|. That is max for iq2,
// whose d is the largest of them / 31; 8 max for iq1, whose d is 1.125 / 15 of that for iq1_s, and for iq1_m such a
// ratio itself, times 1.1125.
// q3_k: a scale of a sub-block is a mean of x / level, all of one sign, and d one of scale / level: both at most max.
// q2_k, q4_k, q5_k: the first fit of a sub-block has a scale and a min of at most max, and a fifteenth or a 63rd of the
// largest is stored; a later try only wins by a smaller error, but its sums may cancel: blocks made for that came to
// 2.7 max at most, a fifth of what would overflow.
constexpr std::array<TypeInfo, kTypeCount> kTypes = {{
    {"f32", 0, 1, 4, kF32Max, true, false},
    {"f16", 1, 1, 2, kF16Max, true, false},
    {"bf16", 30, 1, 2, kBf16Max, true, false},
    {"f64", 28, 1, 8, 0, true, false},
    {"f8_e4m3", -1, 1, 1, 0, true, false},
    {"f8_e5m2", -1, 1, 1, 0, true, false},
    {"q8_0", 8, 32, 34, 127 * kF16Max, true, false},
    {"q5_1", 7, 32, 24, kF16Max, true, false},
    {"q5_0", 6, 32, 22, 16 * kF16Max, true, false},
    {"q4_1", 3, 32, 20, kF16Max, true, false},
    {"q4_0", 2, 32, 18, 8 * kF16Max, true, false},
    {"q6_k", 14, 256, 210, 32 * kF16Max, true, false},
    {"q5_k", 13, 256, 176, kF16Max, true, false},
    {"q4_k", 12, 256, 144, kF16Max, true, false},
    {"q3_k", 11, 256, 110, kF16Max, true, false},
    {"q2_k", 10, 256, 84, kF16Max, true, false},
    {"iq4_nl", 20, 32, 18, 17 * kF16Max, true, false},
    {"iq4_xs", 23, 256, 136, 32 * 17 * kF16Max, true, false},
    {"iq3_s", 21, 256, 110, 30 * kF16Max, true, false},
    {"iq3_xxs", 18, 256, 98, 30 * kF16Max, true, false},
    {"iq2_s", 22, 256, 82, 31 * kF16Max, true, false},
    {"iq2_xs", 17, 256, 74, 31 * kF16Max, true, true},
    {"iq2_xxs", 16, 256, 66, 31 * kF16Max, true, true},
    {"iq1_m", 29, 256, 56, kF16Max / 8.9, true, false},
    {"iq1_s", 19, 256, 50, kF16Max / 0.6, true, true},
    {"tq2_0", 35, 256, 66, kF16Max, true, false},
    {"tq1_0", 34, 256, 54, kF16Max, true, false},
    {"q4_0_v1", -1, 32, 20, kF32Max, true, false},
    {"q4_1_v1", -1, 32, 24, kF32Max / 2, true, false},
    {"q5_0_v1", -1, 32, 22, 16 * kF16Max, true, false},
    {"q5_1_v1", -1, 32, 24, kF16Max, true, false},
    {"q8_0_v1", -1, 32, 36, kF32Max, true, false},
    {"q4_0_v2", -1, 32, 20, kF32Max, true, false},
    {"q4_1_v2", -1, 32, 24, kF32Max / 2, true, false},
    {"q4_2", -1, 16, 10, 0, true, false},
    {"q4_3", -1, 16, 12, 0, true, false},
    {"q4_0_planar", -1, 32, 20, 0, true, false},
    {"q4_1_planar", -1, 32, 24, 0, true, false},
    {"i8", 24, 1, 1, 0, false, false},
    {"i16", 25, 1, 2, 0, false, false},
    {"i32", 26, 1, 4, 0, false, false},
    {"i64", 27, 1, 8, 0, false, false},
    {"u8", -1, 1, 1, 0, false, false},
    {"bool", -1, 1, 1, 0, false, false},
    {"mxfp4", 39, 32, 17, 0, false, false},
    {"nvfp4", 40, 64, 36, 0, false, false},
    {"q2_0", 42, 64, 18, 0, false, false},
    {"q1_0", 41, 128, 18, 0, false, false},
}};

}  // namespace

const TypeInfo& type_info(Type type) { return kTypes[static_cast<size_t>(type)]; }

bool is_planar(Type type) { return type == Type::q4_0_planar || type == Type::q4_1_planar; }

Type todays_type(Type type) {
  switch (type) {
    case Type::q4_0_v1:
    case Type::q4_0_v2:
      return Type::q4_0;
    case Type::q4_1_v1:
    case Type::q4_1_v2:
      return Type::q4_1;
    case Type::q5_0_v1:
      return Type::q5_0;
    case Type::q5_1_v1:
      return Type::q5_1;
    case Type::q8_0_v1:
      return Type::q8_0;
    default:
      return type;
  }
}

Type type_from_name(std::string_view name) {
  for (size_t i = 0; i < kTypeCount; ++i)
    if (kTypes[i].name == name) return static_cast<Type>(i);
  return Type::count;
}

}  // namespace fastconv
