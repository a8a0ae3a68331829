#include "engine/comparer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/scratch.hpp"

namespace fastconv {
namespace {

// Elements of a type without blocks that are told of together.
constexpr int64_t kGroup = 32;
// Blocks of a chunk that are tried for another rounding: where more differ, it is no matter of single roundings. The
// tries move values by at most two last bits of the largest.
constexpr int64_t kTriedBlocks = 64;
constexpr int kTries = 32;
constexpr float kLastBit = 0x1p-23f;
// An encoder that weighs columns, or rounds on its way, errs more than the plain one in some blocks: by less than this
// factor, or by less than this part of the block's largest value.
constexpr double kFarFactor = 4, kFarPart = 1.0 / 64;

void subtract(const float* x, const float* y, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = y[i] - x[i];
}

}  // namespace

void ComparisonStats::add(const ComparisonStats& next) {
  elements += next.elements;
  blocks += next.blocks;
  differing_blocks += next.differing_blocks;
  far_blocks += next.far_blocks;
  rounded_blocks += next.rounded_blocks;
  base_blocks += next.base_blocks;
  not_finite += next.not_finite;
  source_not_finite += next.source_not_finite;
  if (first_differing < 0) first_differing = next.first_differing;
  if (first_far < 0) first_far = next.first_far;
  if (first_not_finite < 0) first_not_finite = next.first_not_finite;
  if (next.max_error > max_error) {
    max_error = next.max_error;
    max_error_at = next.max_error_at;
  }
  source += next.source;
  stored += next.stored;
  error += next.error;
  own_error += next.own_error;
  base_error += next.base_error;
  delta += next.delta;
}

ComparisonStats Comparer::compare(const ComparedTensor& tensor, const Tile& chunk, const std::atomic<bool>& cancelled) {
  ComparisonStats found;
  const PreparedJob& job = *tensor.job;
  for_each_tile(chunk, job.division.tile, [&](const Tile& tile) {
    if (cancelled.load(std::memory_order_relaxed)) return false;
    const int64_t at = tile.r0 * job.source.n_cols() + tile.c0;
    if (job.decodes) read(job, tile);
    found.elements += tile.elements();
    if (tensor.stored == nullptr)
      look_through(tile, at, found);
    else
      compare_tile(tensor, tile, at, found);
    return true;
  });
  return found;
}

// Decodes and merges the tile into source_, and leaves what it was before the merge in base_.
void Comparer::read(const PreparedJob& job, const Tile& tile) {
  float* source = grown(source_, tile.elements());
  job.source.read(tile, source);
  if (!job.merger) return;
  std::memcpy(grown(base_, tile.elements()), source, static_cast<size_t>(tile.elements()) * sizeof(float));
  job.merger->apply(tile.r0, tile.r1, source, scratch_);
}

void Comparer::encode(const PreparedJob& job, const Tile& tile, const float* rows, std::byte* dst) {
  if (job.encodings[0].carries_over()) {
    job.carry_over(tile, 0, dst);
    return;
  }
  const Type type = job.job.outputs[0].type;
  const auto room = [&](int64_t n) { return std::exchange(dst, dst + row_bytes(type, n)); };
  encoder_.encode(job, tile, 0, rows, room, [] {});
}

void Comparer::look_through(const Tile& tile, int64_t at, ComparisonStats& found) {
  const int64_t n = tile.elements();
  int64_t first = -1;
  found.not_finite += drop_not_finite(source_.data(), n, first);
  if (first >= 0 && found.first_not_finite < 0) found.first_not_finite = at + first;
  found.stored += kernels_.square_norm(source_.data(), n);
}

void Comparer::compare_tile(const ComparedTensor& tensor, const Tile& tile, int64_t at, ComparisonStats& found) {
  const PreparedJob& job = *tensor.job;
  const int64_t n = tile.elements(), bytes = row_bytes(tensor.type, n);
  const std::byte* in_file = tensor.stored->contiguous({0, 1, at, at + n});
  bool is_equal = false;
  if (tensor.encodes) {
    encode(job, tile, source_.data(), grown(encoded_, bytes));
    is_equal = std::memcmp(encoded_.data(), in_file, static_cast<size_t>(bytes)) == 0;
    const int64_t block = std::max<int64_t>(type_info(tensor.type).block_size, kGroup);
    found.blocks += (n + block - 1) / block;
  }
  if (!job.decodes) {
    if (!is_equal && found.differing_blocks++ == 0) found.first_differing = at;
    return;
  }
  float* source = source_.data();
  float* stored = grown(stored_, n);
  kernels_.of(tensor.type).decode(in_file, stored, n);
  // A value that is not finite is counted, and left out of all sums.
  int64_t first = -1, ignored = -1;
  const int64_t not_finite = drop_not_finite(stored, n, first);
  found.not_finite += not_finite;
  if (first >= 0 && found.first_not_finite < 0) found.first_not_finite = at + first;
  found.source_not_finite += drop_not_finite(source, n, ignored);

  float* difference = grown(difference_, n);
  subtract(source, stored, difference, n);
  const double error = kernels_.square_norm(difference, n);
  const double largest = kernels_.max_abs(difference, n);
  if (largest > found.max_error) {
    found.max_error = largest;
    found.max_error_at =
        at + (std::max_element(difference, difference + n, [](float x, float y) { return std::abs(x) < std::abs(y); }) -
              difference);
  }
  found.source += kernels_.square_norm(source, n);
  found.stored += kernels_.square_norm(stored, n);
  found.error += error;
  if (is_equal)
    found.own_error += error;
  else if (tensor.encodes)
    compare_blocks(tensor, tile, in_file, at, found);
  if (job.merger) {
    // <y - W, dW> comes out of these three; in f64, for dW may be far smaller than what rounding does.
    subtract(base_.data(), stored, difference, n);
    found.base_error += kernels_.sum_of_squares(difference, n);
    subtract(base_.data(), source, difference, n);
    found.delta += kernels_.sum_of_squares(difference, n);
  }
}

void Comparer::compare_blocks(const ComparedTensor& tensor, const Tile& tile, const std::byte* in_file, int64_t at,
                              ComparisonStats& found) {
  const int64_t n = tile.elements();
  const bool has_base = tensor.job->merger != nullptr;
  if (has_base) encode(*tensor.job, tile, base_.data(), grown(base_encoded_, row_bytes(tensor.type, n)));
  const int64_t block = std::max<int64_t>(type_info(tensor.type).block_size, kGroup);
  float* own = grown(own_, n);
  kernels_.of(tensor.type).decode(encoded_.data(), own, n);
  int64_t ignored = -1;
  drop_not_finite(own, n, ignored);
  for (int64_t i = 0; i < n; i += block) {
    const int64_t size = std::min(block, n - i), begin = row_bytes(tensor.type, i);
    const auto bytes = static_cast<size_t>(row_bytes(tensor.type, size));
    const bool differs = std::memcmp(encoded_.data() + begin, in_file + begin, bytes) != 0;
    double own_error = 0, error = 0, largest = 0;
    for (int64_t j = i; j < i + size; ++j) {
      const double x = source_[j], of_own = own[j] - x, of_stored = stored_[j] - x;
      own_error += of_own * of_own;
      error += of_stored * of_stored;
      largest = std::max(largest, std::abs(x));
    }
    found.own_error += own_error;
    if (!differs) continue;
    if (found.differing_blocks++ == 0) found.first_differing = at + i;
    const bool is_few = found.differing_blocks <= kTriedBlocks && !tensor.job->importance;
    if (is_few && is_rounding(tensor.type, source_.data() + i, in_file + begin, size, static_cast<float>(largest)))
      ++found.rounded_blocks;
    if (has_base && std::memcmp(base_encoded_.data() + begin, in_file + begin, bytes) == 0) ++found.base_blocks;
    const double part = kFarPart * largest;
    if (error <= kFarFactor * kFarFactor * own_error + static_cast<double>(size) * part * part) continue;
    if (found.far_blocks++ == 0) found.first_far = at + i;
  }
}

// Whether the block is one that the source encodes to when its values went through f16, or were computed in another
// order: where a level lies between two, the last bit decides.
bool Comparer::is_rounding(Type type, const float* source, const std::byte* in_file, int64_t n, float largest) {
  const auto bytes = static_cast<size_t>(row_bytes(type, n));
  const TypeKernels& kernels = kernels_.of(type);
  if (kernels.encode == nullptr) return false;
  float* near = grown(near_, n);
  std::byte* tried = grown(tried_, static_cast<int64_t>(bytes));
  const auto matches = [&] {
    kernels.encode(near, tried, n);
    return std::memcmp(tried, in_file, bytes) == 0;
  };
  const TypeKernels& f16 = kernels_.of(Type::f16);
  std::byte* halves = grown(halves_, row_bytes(Type::f16, n));
  f16.encode(source, halves, n);
  f16.decode(halves, near, n);
  if (matches()) return true;
  uint32_t state = 1;  // a linear congruential generator's (Numerical Recipes): every run tries the same
  for (int k = 0; k < kTries; ++k) {
    for (int64_t j = 0; j < n; ++j) {
      state = state * 1664525u + 1013904223u;
      near[j] = source[j] + static_cast<float>(static_cast<int>(state >> 30) - 1) * kLastBit * largest;
    }
    if (matches()) return true;
  }
  return false;
}

// Zeroes what is NaN or infinite. Returns how many, and the place of the first.
int64_t Comparer::drop_not_finite(float* values, int64_t n, int64_t& first) const {
  if (std::isfinite(kernels_.max_abs(values, n))) return 0;
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isfinite(values[i])) continue;
    if (count++ == 0) first = i;
    values[i] = 0;
  }
  return count;
}

}  // namespace fastconv
