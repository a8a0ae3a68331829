// The kernels of one instruction set as plain function pointers, and the choice among the sets this machine can run.
// The engine calls kernels only through this table; it never knows which instruction set runs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/type_table.hpp"

namespace fastconv {

// n is a multiple of the type's block_size. Neither side need be aligned.
using DecodeFn = void (*)(const void* src, float* dst, int64_t n);
// The largest magnitude of stored elements, as max_abs has it.
using StoredMaxFn = float (*)(const void* src, int64_t n);
// Decodes, and returns the same.
using DecodeMaxFn = float (*)(const void* src, float* dst, int64_t n);
using EncodeFn = void (*)(const float* src, void* dst, int64_t n);
// Whole rows of n_cols, a multiple of the block, each weighted by the importance of its columns (n_cols of them,
// finite, none negative).
using EncodeWeightedFn = void (*)(const float* src, void* dst, int64_t n_rows, int64_t n_cols, const float* importance);

struct TypeKernels {
  DecodeFn decode = nullptr;                   // nullptr where type_info().decodes is false
  DecodeMaxFn decode_max = nullptr;            // nullptr where it would gain nothing
  EncodeFn encode = nullptr;                   // nullptr where type_info().max_abs is 0 or needs_importance
  EncodeWeightedFn encode_weighted = nullptr;  // nullptr where importance changes nothing
  int64_t encode_at_once = 0;                  // elements up to which encode gains from having more
  StoredMaxFn stored_max = nullptr;            // nullptr where elements must be decoded to be compared
};

// Stored elements straight to those of another type, with no f32 between: the same levels in blocks of another
// generation, or halves to blocks.
struct Recoded {
  int64_t rounded_blocks;  // whose scales had to be rounded to be kept
  float largest;           // magnitude of the stored elements, as max_abs has it; NaN too where that was not looked for
};
using RecodeFn = Recoded (*)(const void* src, void* dst, int64_t n);
struct Recode {
  Type from, to;
  RecodeFn run;
};
constexpr size_t kRecodeCount = 28;

struct KernelTable {
  std::string_view name;  // baseline, avx2, avx512, neon
  std::array<const TypeKernels*, kTypeCount> types;

  std::array<Recode, kRecodeCount> recodes;

  const TypeKernels& of(Type type) const { return *types[static_cast<size_t>(type)]; }
  // nullptr where there is none, and for a type and itself.
  RecodeFn recode(Type from, Type to) const {
    for (const Recode& entry : recodes)
      if (entry.from == from && entry.to == to) return entry.run;
    return nullptr;
  }

  // The largest magnitude in x[0..n); NaN if any element is NaN; +infinity if any is infinite and none is NaN.
  float (*max_abs)(const float* x, int64_t n);

  // rows[i][j] += scale * sum over r = 0 .. rank-1, in that order, of b[i][r] * a[r][j], all in f32, every product and
  // sum rounded on its own. rows: n_rows x n_cols with row_stride; b: n_rows x rank, contiguous; a: rank x n_cols with
  // a_stride.
  void (*lora_add)(float* rows, int64_t row_stride, int64_t n_rows, int64_t n_cols, const float* b, const float* a,
                   int64_t a_stride, int64_t rank, float scale);

  // The sum of squares of x[0..n) in f64, in one order fixed for all instruction sets (see the definition).
  double (*sum_of_squares)(const float* x, int64_t n);

  // The same to within 1e-6 of its value, in an order as fixed, at half the cost.
  double (*square_norm)(const float* x, int64_t n);
};

// The names this build holds and this machine can run, best first.
std::vector<std::string_view> runnable_isas();

// The table in use: the best runnable one, or the one that FASTCONV_ISA names. Throws std::invalid_argument, with the
// choices, if FASTCONV_ISA names one that is unknown or not runnable here.
const KernelTable& kernels();

// The table of one instruction set, for tests. Throws like kernels().
const KernelTable& kernels(std::string_view isa);

}  // namespace fastconv
