#include "engine/run.hpp"

#include <algorithm>
#include <map>
#include <new>
#include <stdexcept>
#include <utility>

#include "io/allocator.hpp"
#include "io/storage.hpp"

namespace fastconv {
namespace {

// Jobs in the order of their first bytes: files as they first appear, offsets within a file.
std::vector<size_t> input_order(const std::vector<std::unique_ptr<PreparedJob>>& jobs) {
  std::map<const Storage*, size_t> files;
  std::vector<std::pair<size_t, int64_t>> keys;
  for (const auto& job : jobs) {
    if (job->job.source.pieces.empty()) {
      keys.emplace_back(0, 0);
      continue;
    }
    const Piece& first = job->job.source.pieces[0];
    keys.emplace_back(files.emplace(first.storage.get(), files.size()).first->second, first.offset);
  }
  std::vector<size_t> order(jobs.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return keys[x] < keys[y]; });
  return order;
}

}  // namespace

Run::Run(std::vector<Job> jobs, const std::vector<int>& descriptors, const RunOptions& options)
    : jobs_(std::move(jobs)), options_(options) {
  if (options.n_threads < 1) throw std::invalid_argument("a run needs at least one thread");
  if (options.tile_bytes < 0) throw std::invalid_argument("tile_bytes is negative");
  for (int descriptor : descriptors) files_.emplace_back(descriptor, options.direct);
  for (const Job& job : jobs_) inputs_.add(job);
  for (size_t i = 0; i < jobs_.size(); ++i)
    prepared_.push_back(
        std::make_unique<PreparedJob>(jobs_[i], i, files_.size(), options.tile_bytes, *options.kernels));
  for (size_t i : input_order(prepared_)) {
    const size_t before = chunks_.size();
    append_chunks(i, prepared_[i]->source, prepared_[i]->division.chunk, chunks_);
    prepared_[i]->chunks_left = static_cast<int64_t>(chunks_.size() - before);
  }
  ledger_ = std::make_unique<ChunkLedger>(files_, options.finished, chunks_.size());
  pages_ = std::make_unique<PageKeeper>(prepared_, chunks_, ledger_.get());

  const size_t wanted = std::min<size_t>(options.n_threads, std::max<size_t>(chunks_.size(), 1));
  // Threads come with stacks; what is left of the address space must do for the buffers.
  ReservedSpace reserved;
  const bool direct = std::any_of(files_.begin(), files_.end(), [](const OutputFile& file) { return file.direct(); });
  MemoryPlan plan = plan_memory(prepared_, wanted, direct, options.max_memory);
  for (int64_t bound = options.max_memory; !reserved.reserve(plan.bytes);) {
    if (bound > 0 && plan.bytes > bound) throw std::bad_alloc();
    bound = plan.bytes / 2;
    plan = plan_memory(prepared_, wanted, direct, bound);
  }
  writer_ = std::make_unique<Writer>(files_, plan);
  const std::lock_guard starting(starting_);
  team_.start(chunks_.size(), plan.n_threads, [this] { work(); });
  reserved.release();
}

void Run::work() {
  { const std::lock_guard lock(starting_); }
  Converter converter(*writer_, options_.nonfinite, *options_.kernels, options_.keeps_ledger);
  // Whoever is last waits for all.
  team_.share([&](size_t chunk) { run_chunk(chunk, converter); }, [this] { writer_->finish(); });
}

void Run::run_chunk(size_t chunk, Converter& converter) {
  PreparedJob& job = *prepared_[chunks_[chunk].job];
  const Tile& span = chunks_[chunk].span;
  if (!was_done(chunk)) {
    pages_->begin(chunk);
    const Converter::Converted converted = converter.convert(job, span, team_.cancelled());
    if (team_.cancelled().load(std::memory_order_relaxed)) return;
    inputs_.check_lost();
    job.rounded_blocks += converted.rounded_blocks;
    if (options_.keeps_ledger) {
      const Merger::Squares squares = job.merger ? job.merger->squares(span.r0, span.r1) : Merger::Squares{};
      ledger_->add(
          {static_cast<int64_t>(chunk), converted.checksum, squares.delta, squares.base, converted.rounded_blocks},
          writer_->n_put());
    }
  }
  pages_->finish(chunk);
  bytes_done_ += job.source.stored_bytes(span);
  if (job.chunks_left.fetch_sub(1) == 1 && job.merger) job.stats = job.merger->finish();
}

bool Run::was_done(size_t chunk) {
  PreparedJob& job = *prepared_[chunks_[chunk].job];
  const Tile& span = chunks_[chunk].span;
  const FinishedChunk* const found = ledger_->find(chunk, job, span);
  if (found == nullptr) return false;
  job.rounded_blocks += found->rounded_blocks;
  if (job.merger) job.merger->restore(span.r0, span.r1, {found->delta_squares, found->base_squares});
  ++n_chunks_found_;
  return true;
}

bool Run::wait(double seconds) {
  try {
    if (!team_.wait(seconds)) return false;
  } catch (const NonFiniteValue&) {
    // What is read from a file while it changes can be anything.
    inputs_.check_unchanged();
    throw;
  }
  inputs_.check_unchanged();
  return true;
}

void Run::cancel() {
  team_.cancel();
  writer_->abort();
}

std::vector<FinishedChunk> Run::take_finished() { return ledger_->take(writer_->n_written()); }

std::vector<int64_t> Run::rounded_blocks() const {
  std::vector<int64_t> counts;
  for (const auto& job : prepared_) counts.push_back(job->rounded_blocks.load());
  return counts;
}

std::vector<std::optional<DeltaStats>> Run::delta_stats() const {
  std::vector<std::optional<DeltaStats>> stats;
  for (const auto& job : prepared_)
    stats.push_back(job->merger && !job->stats && job->source.n_rows() * job->source.n_cols() == 0 ? DeltaStats{0, 0}
                                                                                                   : job->stats);
  return stats;
}

}  // namespace fastconv
