// Adds one job's deltas to tiles of its rows, in f32, and keeps account of how much they changed.
// It must not know where the rows come from or go to.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/job.hpp"
#include "engine/source_reader.hpp"

namespace fastconv {

// Frobenius norms before the output types round, to within 1e-6 of their values.
struct DeltaStats {
  double delta_norm, base_norm;
};

class Merger {
 public:
  // deltas: validated against n_rows x n_cols, not empty; must outlive the merger.
  Merger(const std::vector<Delta>& deltas, int64_t n_rows, int64_t n_cols, const KernelTable& kernels);

  // What it allocates while it is at work: Scratch for tiles of n_rows, and what all threads share.
  int64_t thread_bytes(int64_t n_rows) const;
  int64_t shared_bytes() const;

  // One thread's working memory.
  struct Scratch {
    std::vector<float> b, base, alone, magnitude;
  };

  // Applies every delta, one after the other, to `rows`, the base rows [r0, r1). Each row is merged once in a run;
  // any number of threads may be at it.
  void apply(int64_t r0, int64_t r1, float* rows, Scratch& scratch);

  // |sB A|^2 and |W|^2 of rows [r0, r1), which have been merged.
  struct Squares {
    double delta, base;
  };
  Squares squares(int64_t r0, int64_t r1) const;
  // Takes over what another run found of rows [r0, r1), instead of apply().
  void restore(int64_t r0, int64_t r1, const Squares& squares);

  // What all rows together changed, summed in row order; then frees what the rows needed. Call once, after the last.
  DeltaStats finish();

 private:
  struct Part {
    SourceReader b, a;
    std::unique_ptr<SourceReader> magnitude;
    float scale;
    std::vector<float> a_rows;  // rank x n_cols, decoded
    Part(const Delta& delta, const KernelTable& kernels);
  };

  void make_room();
  void prepare();
  void account(int64_t r0, int64_t r1, const float* rows, Scratch& scratch);

  const KernelTable& kernels_;
  int64_t n_rows_, n_cols_, rank_ = 0;
  // |sB A|^2 of a row b is b (A A^T) b^T with the scales inside: rank^2 products instead of another pass over the row.
  // Not for DoRA, whose rows change by more than the product, and not where the rank is too large for it to pay.
  bool uses_gram_ = true;
  std::vector<std::unique_ptr<Part>> parts_;
  std::once_flag roomy_, prepared_;
  std::vector<double> gram_;  // rank x rank, all deltas one after the other; above the diagonal nothing, below it both
  std::vector<double> delta_squares_, base_squares_;  // per row
};

}  // namespace fastconv
