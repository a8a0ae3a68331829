#include "engine/comparison.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/validate.hpp"
#include "io/storage.hpp"

namespace fastconv {
namespace {

std::unique_ptr<SourceReader> stored_reader(const Comparand& tensor, const KernelTable& kernels) {
  if (!tensor.stored) return nullptr;
  const Source& stored = *tensor.stored;
  validate(stored);
  const int64_t n = stored.n_rows * stored.n_cols;
  if (n != tensor.job.source.n_rows * tensor.job.source.n_cols)
    throw std::invalid_argument("the tensor to compare has another size than its job");
  auto reader = std::make_unique<SourceReader>(stored, true, kernels);
  if (n > 0 && reader->contiguous({0, 1, 0, n}) == nullptr)
    throw std::invalid_argument("the rows of the tensor to compare do not lie one after the other");
  return reader;
}

}  // namespace

Comparison::Comparison(std::vector<Comparand> tensors, int n_threads, const KernelTable& kernels)
    : kernels_(kernels), tensors_(std::move(tensors)) {
  if (n_threads < 1) throw std::invalid_argument("a comparison needs at least one thread");
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Comparand& tensor = tensors_[i];
    if (tensor.job.outputs.size() != 1) throw std::invalid_argument("a comparison is with one output");
    inputs_.add(tensor.job);
    if (tensor.stored) inputs_.add(*tensor.stored);
    prepared_.push_back(std::make_unique<PreparedJob>(tensor.job, i, 1, 0, kernels));
    stored_.push_back(stored_reader(tensor, kernels));
    const Type written = tensor.job.outputs[0].type;
    const bool has_blocks = tensor.stored && !tensor.stored->pieces.empty();
    const Type type = has_blocks ? tensor.stored->pieces[0].type : written;
    if (type != written) require_values(*tensor.stored);
    compared_.push_back({prepared_[i].get(), stored_[i].get(), type, type == written});
    append_chunks(i, prepared_[i]->source, prepared_[i]->division.chunk, chunks_);
  }
  found_.resize(chunks_.size());
  pages_ = std::make_unique<PageKeeper>(prepared_, chunks_);
  const size_t wanted = std::min<size_t>(static_cast<size_t>(n_threads), std::max<size_t>(chunks_.size(), 1));
  team_.start(chunks_.size(), wanted, [this] {
    Comparer comparer(kernels_);
    team_.share([&](size_t chunk) { compare_chunk(chunk, comparer); });
  });
}

void Comparison::compare_chunk(size_t chunk, Comparer& comparer) {
  const Tile& span = chunks_[chunk].span;
  const std::optional<FileRange> stored = stored_range(chunks_[chunk]);
  pages_->begin(chunk);
  if (stored) {
    if (!stored->file->unchanged()) throw InputChanged(*stored->file);
    stored->read_ahead();
  }
  const ComparedTensor& tensor = compared_[chunks_[chunk].job];
  found_[chunk] = comparer.compare(tensor, span, team_.cancelled());
  inputs_.check_lost();
  pages_->finish(chunk);
  // Whoever of two neighbours ends last gives back the pages that they share.
  if (stored) stored->release();
  bytes_done_ += tensor.job->source.stored_bytes(span);
}

std::optional<FileRange> Comparison::stored_range(const Chunk& chunk) const {
  const ComparedTensor& tensor = compared_[chunk.job];
  if (tensor.stored == nullptr || chunk.span.elements() == 0) return std::nullopt;
  const int64_t n_cols = tensor.job->source.n_cols();
  const int64_t begin = chunk.span.r0 * n_cols + chunk.span.c0;
  const std::vector<FileRange> ranges = tensor.stored->file_ranges({0, 1, begin, begin + chunk.span.elements()});
  return ranges.empty() ? std::nullopt : std::optional(ranges[0]);
}

bool Comparison::wait(double seconds) {
  if (!team_.wait(seconds)) return false;
  inputs_.check_unchanged();
  return true;
}

std::vector<ComparisonStats> Comparison::stats() const {
  std::vector<ComparisonStats> stats(tensors_.size());
  for (size_t i = 0; i < chunks_.size(); ++i) stats[chunks_[i].job].add(found_[i]);
  return stats;
}

}  // namespace fastconv
