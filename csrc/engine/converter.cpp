#include "engine/converter.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace fastconv {
namespace {

// Elements encoded at a time, a multiple of every block. Between two such steps as much of the next tile is prefetched:
// few enough lines to be fetched meanwhile. More only for encoders that gain more from it than waiting for lines costs.
constexpr int64_t kEncodeElements = 1024;
// Rows of importance encoded at a time, at least: sums over whole rows advance side by side.
constexpr int64_t kWeightedRows = 8;
// Elements of a type without blocks that are encoded anew around a value that does not fit.
constexpr int64_t kCopyGroup = 256;

}  // namespace

Converter::Converted Converter::convert(const PreparedJob& job, const Tile& chunk, const std::atomic<bool>& cancelled) {
  const size_t n_outputs = job.job.outputs.size();
  while (pending_.size() < n_outputs) pending_.push_back(writer_.take());
  for (size_t i = 0; i < n_outputs; ++i) {
    const Output& output = job.job.outputs[i];
    pending_[i]->begin(output.file, job.offset_of(output, chunk.r0, chunk.c0));
  }
  checksums_.assign(n_outputs, {});
  rounded_blocks_ = 0;
  for_each_tile(chunk, job.division.tile, [&](const Tile& tile) {
    if (cancelled.load(std::memory_order_relaxed)) return false;
    const bool fits = look_at(job, tile);
    if (!fits && policy_ == NonFinite::error) report(job, tile);
    prefetch_after(job, chunk, tile);
    for (size_t i = 0; i < n_outputs; ++i) encode(job, tile, i, fits);
    return true;
  });
  if (cancelled.load(std::memory_order_relaxed)) return {};
  Xxh64 whole;
  for (size_t i = 0; i < n_outputs; ++i) {
    put(i, writer_.take());
    const uint64_t digest = checksums_[i].digest();
    whole.add(reinterpret_cast<const std::byte*>(&digest), sizeof digest);
  }
  return {sums_ ? whole.digest() : 0, rounded_blocks_};
}

// True if every element fits the outputs, or need not. If not, or if an output needs it, the tile is in rows_.
bool Converter::look_at(const PreparedJob& job, const Tile& tile) {
  if (!job.decodes) return true;
  if (!job.needs_rows) {
    if (policy_ == NonFinite::keep) return true;
    // NaN compares false.
    if (static_cast<double>(job.source.stored_max(tile.r0, tile.r1, tile.c0, tile.c1)) <= job.max_abs) return true;
  }
  return read(job, tile);
}

// Decodes and merges the tile into rows_. True if every element fits the outputs, or need not.
bool Converter::read(const PreparedJob& job, const Tile& tile) {
  rows_.resize(std::max(rows_.size(), static_cast<size_t>(tile.elements())));
  float* rows = rows_.data();
  // NaN compares false.
  if (!job.merger && policy_ != NonFinite::keep)
    return static_cast<double>(job.source.read_max(tile.r0, tile.r1, tile.c0, tile.c1, rows)) <= job.max_abs;
  job.source.read(tile.r0, tile.r1, tile.c0, tile.c1, rows);
  if (job.merger) job.merger->apply(tile.r0, tile.r1, rows, scratch_);
  return policy_ == NonFinite::keep || holds(rows, tile.elements(), job.max_abs);
}

bool Converter::holds(const float* x, int64_t n, double max_abs) const {
  return static_cast<double>(kernels_.max_abs(x, n)) <= max_abs;
}

void Converter::report(const PreparedJob& job, const Tile& tile) const {
  const int64_t n_cols = job.job.source.n_cols;
  for (int64_t i = 0; i < tile.elements(); ++i) {
    if (std::abs(rows_[i]) <= job.max_abs) continue;
    const auto& outputs = job.job.outputs;
    const auto failing = std::find_if(outputs.begin(), outputs.end(), [&](const Output& output) {
      return !(std::abs(rows_[i]) <= type_info(output.type).max_abs);
    });
    const int64_t at = tile.r0 * job.source.n_cols() + tile.c0 + i;
    throw NonFiniteValue(job.index, at / n_cols, at % n_cols, rows_[i], failing->type);
  }
  throw std::logic_error("max_abs disagrees with the elements");
}

void Converter::encode(const PreparedJob& job, const Tile& tile, size_t output, bool fits) {
  const Type type = job.job.outputs[output].type;
  const TypeKernels& kernels = kernels_.of(type);
  const int64_t n = tile.elements();
  if (job.copies[output] || job.recodes[output] != nullptr) return carry_over(job, tile, output, fits);
  const float* src = rows_.data();
  if (!fits) {
    clamped_.resize(std::max(clamped_.size(), static_cast<size_t>(n)));
    clamp(src, clamped_.data(), n, type_info(type).max_abs);
    src = clamped_.data();
  }
  if (job.importance && kernels.encode_weighted != nullptr) return encode_weighted(job, tile, src, output);
  const int64_t step = std::max(kEncodeElements, kernels.encode_at_once);
  for (int64_t i = 0; i < n; i += step) {
    const int64_t slice = std::min(step, n - i);
    prefetcher_.advance(slice * job.element_bytes);
    kernels.encode(src + i, pending_[output]->append(row_bytes(type, slice)), slice);
    flush_if_full(output);
  }
}

// Whole rows, those of one matrix at a time.
void Converter::encode_weighted(const PreparedJob& job, const Tile& tile, const float* src, size_t output) {
  const Type type = job.job.outputs[output].type;
  const int64_t n_cols = job.source.n_cols(), most_rows = std::max(kEncodeElements / n_cols, kWeightedRows);
  for (int64_t row = tile.r0; row < tile.r1;) {
    const int64_t n_rows = std::min({most_rows, tile.r1 - row, job.importance->rows_left(row)});
    const float* importance = job.importance->read(row, importance_);
    prefetcher_.advance(n_rows * n_cols * job.element_bytes);
    kernels_.of(type).encode_weighted(src + (row - tile.r0) * n_cols,
                                      pending_[output]->append(row_bytes(type, n_rows * n_cols)), n_rows, n_cols,
                                      importance);
    flush_if_full(output);
    row += n_rows;
  }
}

// As it is stored, or recoded from that.
void Converter::carry_over(const PreparedJob& job, const Tile& tile, size_t output, bool fits) {
  const Type type = job.job.outputs[output].type;
  const int64_t n = tile.elements();
  if (!fits && kernels_.of(type).encode == nullptr) report(job, tile);
  if (job.copies[output]) {
    std::byte* dst = pending_[output]->append(row_bytes(type, n));
    job.source.copy(tile.r0, tile.r1, tile.c0, tile.c1, dst);
    if (!fits) encode_clamped(0, n, type, dst);
    return flush_if_full(output);
  }
  const Type from = job.job.source.pieces[0].type;
  const std::byte* stored = job.source.contiguous(tile.r0, tile.r1, tile.c0, tile.c1);
  if (stored == nullptr) {
    stored_.resize(std::max(stored_.size(), static_cast<size_t>(row_bytes(from, n))));
    job.source.copy(tile.r0, tile.r1, tile.c0, tile.c1, stored_.data());
    stored = stored_.data();
  }
  for (int64_t i = 0; i < n; i += kEncodeElements) {
    const int64_t slice = std::min(kEncodeElements, n - i);
    prefetcher_.advance(slice * job.element_bytes);
    std::byte* dst = pending_[output]->append(row_bytes(type, slice));
    rounded_blocks_ += job.recodes[output](stored + row_bytes(from, i), dst, slice);
    if (!fits) encode_clamped(i, slice, type, dst);
    flush_if_full(output);
  }
}

// Of n elements of rows_ from `first` on, which are in dst, those that do not fit. No others: what becomes of a block
// must not depend on its tile.
void Converter::encode_clamped(int64_t first, int64_t n, Type type, std::byte* dst) {
  const TypeInfo& info = type_info(type);
  const int64_t group = info.block_size > 1 ? info.block_size : kCopyGroup;
  clamped_.resize(std::max<size_t>(clamped_.size(), group));
  for (int64_t i = 0; i < n; i += group) {
    const float* x = rows_.data() + first + i;
    const int64_t size = std::min(group, n - i);
    if (holds(x, size, info.max_abs)) continue;
    clamp(x, clamped_.data(), size, info.max_abs);
    kernels_.of(type).encode(clamped_.data(), dst + row_bytes(type, i), size);
  }
}

void Converter::clamp(const float* src, float* dst, int64_t n, double max_abs) const {
  const float limit = static_cast<float>(max_abs);
  for (int64_t i = 0; i < n; ++i) dst[i] = std::isnan(src[i]) ? 0.0f : std::clamp(src[i], -limit, limit);
}

void Converter::prefetch_after(const PreparedJob& job, const Tile& chunk, const Tile& tile) {
  const Tile next = next_tile(chunk, job.division.tile, tile);
  ranges_.clear();
  job.source.memory_ranges(next.r0, next.r1, next.c0, next.c1, ranges_);
  prefetcher_.aim(ranges_);
}

void Converter::flush_if_full(size_t output) {
  if (pending_[output]->size() < writer_.full()) return;
  std::unique_ptr<WriteBuffer> next = writer_.take();
  pending_[output]->carry_to(*next);
  put(output, std::move(next));
}

void Converter::put(size_t output, std::unique_ptr<WriteBuffer> next) {
  std::unique_ptr<WriteBuffer> full = std::exchange(pending_[output], std::move(next));
  if (sums_) checksums_[output].add(full->data(), full->size());
  writer_.put(std::move(full));
}

}  // namespace fastconv
