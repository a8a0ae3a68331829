#include "engine/page_keeper.hpp"

#include <algorithm>

#include "engine/input_files.hpp"

namespace fastconv {
namespace {

// How far the run reads ahead when the cache is cold.
constexpr size_t kAheadChunks = 64;
// Chunks whose pages are given back together: each time interrupts the other processors.
constexpr size_t kTogether = 4;

}  // namespace

PageKeeper::PageKeeper(const std::vector<std::unique_ptr<PreparedJob>>& jobs, const std::vector<Chunk>& chunks,
                       const ChunkLedger* ledger)
    : jobs_(jobs), chunks_(chunks), ledger_(ledger), done_(chunks.size()) {}

std::vector<FileRange> PageKeeper::ranges(size_t chunk) const {
  const Tile& span = chunks_[chunk].span;
  const PreparedJob& job = *jobs_[chunks_[chunk].job];
  std::vector<FileRange> found = job.source.file_ranges(span);
  if (job.importance)
    for (const FileRange& range : job.importance->file_ranges(span.r0, span.r1)) found.push_back(range);
  return found;
}

void PageKeeper::begin(size_t chunk) {
  look_ahead(chunk);
  for (const FileRange& range : ranges(chunk)) {
    if (!range.file->unchanged()) throw InputChanged(*range.file);
  }
}

void PageKeeper::look_ahead(size_t chunk) {
  const std::unique_lock lock(ahead_mutex_, std::try_to_lock);
  if (!lock) return;
  for (ahead_ = std::max(ahead_, chunk + 1); ahead_ < std::min(chunk + kAheadChunks, chunks_.size()); ++ahead_) {
    if (ledger_ != nullptr && ledger_->claims(ahead_)) continue;
    // All chunks of a columnar tensor have the same range.
    if (jobs_[chunks_[ahead_].job]->source.columnar() && chunks_[ahead_].span.r0 != 0) continue;
    for (const FileRange& range : ranges(ahead_)) range.read_ahead();
  }
}

void PageKeeper::finish(size_t chunk) {
  size_t begin, end;
  {
    const std::lock_guard lock(done_mutex_);
    done_[chunk] = true;
    while (all_done_ < done_.size() && done_[all_done_]) ++all_done_;
    if (all_done_ - released_ >= kTogether) {
      begin = released_;
      end = released_ = all_done_;
    } else if (chunk >= all_done_ + kTogether) {
      // An earlier chunk is held up, for long perhaps, by a slow disk say.
      begin = chunk;
      end = chunk + 1;
    } else {
      return;
    }
  }
  release(begin, end);
}

void PageKeeper::release(size_t begin, size_t end) const {
  std::vector<FileRange> spent;
  for (size_t i = begin; i < end; ++i) {
    // A columnar chunk gave its pages back as it walked.
    if (jobs_[chunks_[i].job]->source.columnar()) continue;
    for (const FileRange& range : ranges(i)) {
      if (!spent.empty() && spent.back().file == range.file && spent.back().end == range.begin)
        spent.back().end = range.end;
      else
        spent.push_back(range);
    }
  }
  for (const FileRange& range : spent) range.release();
}

}  // namespace fastconv
