// The one table of element and block types: name, ggml id, size, range. Everything else looks types up here.
// A row states facts of the format; the code that encodes and decodes a type is found through isa/kernel_table.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fastconv {

// clang-format off
enum class Type : uint8_t {
  f32, f16, bf16, f64, f8_e4m3, f8_e5m2,
  q8_0, q5_1, q5_0, q4_1, q4_0,
  q6_k, q5_k, q4_k, q3_k, q2_k,
  iq4_nl, iq4_xs, iq3_s, iq3_xxs, iq2_s, iq2_xs, iq2_xxs, iq1_m, iq1_s, tq2_0, tq1_0,
  // Blocks of the files that llama.cpp wrote before GGJT v3; source: llama.cpp pull requests 1405 and 1508 (May 2023),
  // 1046 and 1082 (q4_2 and q4_3, of April 2023).
  q4_0_v1, q4_1_v1, q5_0_v1, q5_1_v1, q8_0_v1, q4_0_v2, q4_1_v2, q4_2, q4_3,
  // The first of all, of March 2023: a row holds its scales, then its levels.
  q4_0_planar, q4_1_planar,
  // Held by checkpoints, never converted: copied at most.
  i8, i16, i32, i64, u8, boolean, mxfp4, nvfp4, q2_0, q1_0,
  count
};
// clang-format on

inline constexpr size_t kTypeCount = static_cast<size_t>(Type::count);

struct TypeInfo {
  std::string_view name;  // as spelled on the command line and in Python
  int ggml_type;          // id in GGUF and GGJT tensor records, -1: never stored there by today's ggml
  int block_size;         // elements
  int block_bytes;
  double max_abs;         // a finite element no larger than this never overflows the type; 0: cannot be encoded
  bool decodes;           // to f32
  bool needs_importance;  // to be encoded: there is no quantizer without
};

const TypeInfo& type_info(Type type);

// Whether blocks are not contiguous: the parts of one lie apart in their row, so only whole rows can be decoded.
bool is_planar(Type type);

// Today's type of the same levels: that of a block which differs in the order of its levels or the width of its scales
// alone. Every other type is its own. Between types that share it, blocks are repacked (blocks/repack.hpp).
Type todays_type(Type type);

// Type::count where no type has that name.
Type type_from_name(std::string_view name);

// Bytes of `n` elements, a multiple of block_size.
inline int64_t row_bytes(Type type, int64_t n) {
  const TypeInfo& info = type_info(type);
  return n / info.block_size * info.block_bytes;
}

}  // namespace fastconv
