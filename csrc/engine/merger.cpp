#include "engine/merger.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "io/mapped_file.hpp"

namespace fastconv {
namespace {

// In f64, in an order of its own that no instruction set changes.
double dot(const float* x, const float* y, int64_t n) {
  constexpr int64_t kLanes = 8;
  std::array<double, kLanes> sums{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane)
      sums[lane] += static_cast<double>(x[i + lane]) * static_cast<double>(y[i + lane]);
  for (; i < n; ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void give_back_pages(const SourceReader& reader) {
  for (const FileRange& range : reader.file_ranges(reader.whole())) range.release();
}

}  // namespace

Merger::Part::Part(const Delta& delta, const KernelTable& kernels)
    : b(delta.b, false, kernels), a(delta.a, false, kernels), scale(delta.scale) {
  if (!delta.magnitude.empty()) magnitude = std::make_unique<SourceReader>(delta.magnitude[0], false, kernels);
}

Merger::Merger(const std::vector<Delta>& deltas, int64_t n_rows, int64_t n_cols, const KernelTable& kernels)
    : kernels_(kernels), n_rows_(n_rows), n_cols_(n_cols) {
  for (const Delta& delta : deltas) {
    parts_.push_back(std::make_unique<Part>(delta, kernels));
    rank_ += parts_.back()->a.n_rows();
    if (parts_.back()->magnitude) uses_gram_ = false;
  }
  if (rank_ > 0 && rank_ > n_cols / rank_) uses_gram_ = false;
}

void Merger::make_room() {
  std::call_once(roomy_, [this] {
    delta_squares_.resize(n_rows_);
    base_squares_.resize(n_rows_);
  });
}

void Merger::prepare() {
  make_room();
  std::vector<const float*> a_rows;
  std::vector<float> scales;
  for (auto& part : parts_) {
    const int64_t rank = part->a.n_rows();
    part->a_rows.resize(rank * n_cols_);
    part->a.read(part->a.whole(), part->a_rows.data());
    for (int64_t r = 0; r < rank; ++r) {
      a_rows.push_back(part->a_rows.data() + r * n_cols_);
      scales.push_back(part->scale);
    }
  }
  if (!uses_gram_) return;
  gram_.resize(rank_ * rank_);
  for (int64_t i = 0; i < rank_; ++i)
    for (int64_t j = 0; j <= i; ++j)
      gram_[i * rank_ + j] = dot(a_rows[i], a_rows[j], n_cols_) * static_cast<double>(scales[i]) *
                             static_cast<double>(scales[j]) * (i == j ? 1 : 2);
}

void Merger::apply(int64_t r0, int64_t r1, float* rows, Scratch& scratch) {
  std::call_once(prepared_, [this] { prepare(); });
  const int64_t n = r1 - r0;
  if (!uses_gram_) scratch.base.assign(rows, rows + n * n_cols_);
  for (int64_t r = 0; r < n; ++r) base_squares_[r0 + r] = kernels_.square_norm(rows + r * n_cols_, n_cols_);

  scratch.b.resize(n * rank_);
  float* b = scratch.b.data();
  for (const auto& part : parts_) {
    const int64_t rank = part->a.n_rows();
    part->b.read({r0, r1, 0, rank}, b);
    kernels_.lora_add(rows, n_cols_, n, n_cols_, b, part->a_rows.data(), n_cols_, rank, part->scale);
    b += n * rank;
    if (!part->magnitude) continue;
    scratch.magnitude.resize(n);
    part->magnitude->read({r0, r1, 0, 1}, scratch.magnitude.data());
    // The norm is that of the base with this delta alone, whatever was merged before, as the adapter was trained.
    const float* alone = rows;
    if (part != parts_.front()) {
      scratch.alone = scratch.base;
      kernels_.lora_add(scratch.alone.data(), n_cols_, n, n_cols_, b - n * rank, part->a_rows.data(), n_cols_, rank,
                        part->scale);
      alone = scratch.alone.data();
    }
    for (int64_t r = 0; r < n; ++r) {
      float* row = rows + r * n_cols_;
      const double norm = std::sqrt(kernels_.sum_of_squares(alone + r * n_cols_, n_cols_));
      const float factor = static_cast<float>(static_cast<double>(scratch.magnitude[r]) / norm);
      for (int64_t c = 0; c < n_cols_; ++c) row[c] *= factor;
    }
  }
  account(r0, r1, rows, scratch);
}

void Merger::account(int64_t r0, int64_t r1, const float* rows, Scratch& scratch) {
  const int64_t n = r1 - r0;
  if (!uses_gram_) {
    for (int64_t i = 0; i < n * n_cols_; ++i) scratch.base[i] = rows[i] - scratch.base[i];
    for (int64_t r = 0; r < n; ++r)
      delta_squares_[r0 + r] = kernels_.square_norm(scratch.base.data() + r * n_cols_, n_cols_);
    return;
  }
  std::vector<double> b(rank_);
  for (int64_t r = 0; r < n; ++r) {
    const float* src = scratch.b.data();
    int64_t at = 0;
    for (const auto& part : parts_) {
      const int64_t rank = part->a.n_rows();
      for (int64_t i = 0; i < rank; ++i) b[at + i] = src[r * rank + i];
      src += n * rank;
      at += rank;
    }
    double squares = 0;
    for (int64_t i = 0; i < rank_; ++i)
      squares += b[i] * std::inner_product(b.begin(), b.begin() + i + 1, gram_.begin() + i * rank_, 0.0);
    delta_squares_[r0 + r] = squares;
  }
}

int64_t Merger::thread_bytes(int64_t n_rows) const {
  const int64_t copies = uses_gram_ ? 0 : parts_.size() > 1 ? 2 : 1;  // of the base rows
  return static_cast<int64_t>(sizeof(float)) * n_rows * (rank_ + copies * n_cols_ + 1) +
         static_cast<int64_t>(sizeof(double)) * rank_;
}

int64_t Merger::shared_bytes() const {
  const int64_t gram = uses_gram_ ? rank_ * rank_ : 0;
  return static_cast<int64_t>(sizeof(float)) * rank_ * n_cols_ +
         static_cast<int64_t>(sizeof(double)) * (gram + 2 * n_rows_);
}

Merger::Squares Merger::squares(int64_t r0, int64_t r1) const {
  return {std::accumulate(delta_squares_.begin() + r0, delta_squares_.begin() + r1, 0.0),
          std::accumulate(base_squares_.begin() + r0, base_squares_.begin() + r1, 0.0)};
}

void Merger::restore(int64_t r0, int64_t r1, const Squares& squares) {
  make_room();
  if (r0 == r1) return;
  delta_squares_[r0] = squares.delta;
  base_squares_[r0] = squares.base;
}

DeltaStats Merger::finish() {
  // A sum of cancelling deltas may come out a rounding error below zero.
  const double delta = std::accumulate(delta_squares_.begin(), delta_squares_.end(), 0.0);
  const double base = std::accumulate(base_squares_.begin(), base_squares_.end(), 0.0);
  for (const auto& part : parts_) {
    give_back_pages(part->a);
    give_back_pages(part->b);
  }
  parts_.clear();
  // Assigning {} would keep their memory.
  for (std::vector<double>* spent : {&gram_, &delta_squares_, &base_squares_}) *spent = std::vector<double>();
  return {std::sqrt(std::max(delta, 0.0)), std::sqrt(base)};
}

}  // namespace fastconv
