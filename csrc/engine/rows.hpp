// Rows of a source outside of a run, for whoever looks at a tensor beforehand: decoded, their pages given back.
#pragma once

#include <cstdint>

#include "engine/job.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv {

// Throws std::invalid_argument for rows that the source has not got and for types that cannot be decoded.
void check_rows(const Source& source, int64_t start, int64_t stop);

// Both: of checked rows [start, stop) of a validated source. Throw InputChanged where a page of a file is gone.

// To dst, rows one after the other.
void read_rows(const Source& source, int64_t start, int64_t stop, float* dst, const KernelTable& kernels);

// Whether all elements are zero, of any sign.
bool is_zero(const Source& source, int64_t start, int64_t stop, const KernelTable& kernels);

}  // namespace fastconv
