#include "engine/converter.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "engine/scratch.hpp"
#include "io/mapped_file.hpp"

namespace fastconv {
namespace {

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
    map_ahead(job, chunk, tile);
    Fits fits = look_at(job, tile);
    if (job.needs_rows) prefetch_after(job, chunk, tile);
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

// Decodes the tile, if an output needs that, and finds out whether it fits, unless recoding will tell.
Converter::Fits Converter::look_at(const PreparedJob& job, const Tile& tile) {
  if (job.needs_rows) return read(job, tile);
  if (!job.decodes || policy_ == NonFinite::keep) return Fits::yes;
  if (std::none_of(job.encodings.begin(), job.encodings.end(), [](const Encoding& e) { return e.copies; }))
    return Fits::unknown;
  const double largest = job.source.stored_max(tile);
  return largest <= job.max_abs ? Fits::yes : read(job, tile);
}

// Decodes and merges the tile into rows_. Throws NonFiniteValue where the policy says so.
Converter::Fits Converter::read(const PreparedJob& job, const Tile& tile) {
  float* rows = grown(rows_, tile.elements());
  double largest = 0;
  if (!job.merger && policy_ != NonFinite::keep) {
    largest = job.source.read_max(tile, rows);
  } else {
    job.source.read(tile, rows);
    if (job.merger) job.merger->apply(tile.r0, tile.r1, rows, scratch_);
    if (policy_ != NonFinite::keep) largest = kernels_.max_abs(rows, tile.elements());
  }
  // NaN compares false.
  if (policy_ == NonFinite::keep || largest <= job.max_abs) return Fits::yes;
  if (policy_ == NonFinite::error) report(job, tile);
  return Fits::no;
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

void Converter::encode(const PreparedJob& job, const Tile& tile, size_t output, Fits& fits) {
  if (job.encodings[output].carries_over()) return carry_over(job, tile, output, fits);
  const Type type = job.job.outputs[output].type;
  const float* src = rows_.data();
  if (fits == Fits::no) {
    float* clamped = grown(clamped_, tile.elements());
    clamp(src, clamped, tile.elements(), type_info(type).max_abs);
    src = clamped;
  }
  const auto room = [&](int64_t n) {
    prefetcher_.advance(n * job.element_bytes);
    return pending_[output]->append(row_bytes(type, n));
  };
  encoder_.encode(job, tile, output, src, room, [&] { flush_if_full(output); });
}

void Converter::carry_over(const PreparedJob& job, const Tile& tile, size_t output, Fits& fits) {
  const Type type = job.job.outputs[output].type;
  std::byte* dst = pending_[output]->append(row_bytes(type, tile.elements()));
  const Recoded carried = job.carry_over(tile, output, dst);
  rounded_blocks_ += carried.rounded_blocks;
  if (fits == Fits::unknown && !(static_cast<double>(carried.largest) <= job.max_abs)) fits = read(job, tile);
  if (fits == Fits::no) encode_clamped(job, tile, type, dst);
  flush_if_full(output);
}

// Of the tile, which is in rows_ and encoded in dst, what does not fit. Nothing else: what becomes of a block must not
// depend on its tile.
void Converter::encode_clamped(const PreparedJob& job, const Tile& tile, Type type, std::byte* dst) {
  if (kernels_.of(type).encode == nullptr) report(job, tile);
  const TypeInfo& info = type_info(type);
  const int64_t group = info.block_size > 1 ? info.block_size : kCopyGroup;
  float* clamped = grown(clamped_, group);
  for (int64_t i = 0; i < tile.elements(); i += group) {
    const int64_t n = std::min(group, tile.elements() - i);
    if (holds(rows_.data() + i, n, info.max_abs)) continue;
    clamp(rows_.data() + i, clamped, n, info.max_abs);
    kernels_.of(type).encode(clamped, dst + row_bytes(type, i), n);
  }
}

void Converter::clamp(const float* src, float* dst, int64_t n, double max_abs) const {
  const float limit = static_cast<float>(max_abs);
  for (int64_t i = 0; i < n; ++i) dst[i] = std::isnan(src[i]) ? 0.0f : std::clamp(src[i], -limit, limit);
}

// Touches what will be needed soon, so that it is mapped when it is fetched ahead: what is not, a prefetch passes over.
void Converter::map_ahead(const PreparedJob& job, const Tile& chunk, const Tile& tile) const {
  const std::byte* next = job.source.contiguous(tile);
  const std::byte* begin = job.source.contiguous(chunk);
  if (next == nullptr || begin == nullptr) return;
  const int64_t left = job.source.stored_bytes(chunk) - (next - begin);
  constexpr int64_t kAhead = MappedFile::kFaultAround;
  if (left > kAhead) static_cast<void>(*static_cast<const volatile std::byte*>(next + kAhead));
}

void Converter::prefetch_after(const PreparedJob& job, const Tile& chunk, const Tile& tile) {
  const Tile next = next_tile(chunk, job.division.tile, tile);
  ranges_.clear();
  job.source.memory_ranges(next, ranges_);
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
