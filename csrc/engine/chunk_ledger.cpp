#include "engine/chunk_ledger.hpp"

#include <algorithm>
#include <system_error>

#include "core/xxhash64.hpp"

namespace fastconv {
namespace {

constexpr int64_t kReadBytes = 256 << 10;

}  // namespace

ChunkLedger::ChunkLedger(const std::vector<OutputFile>& files, const std::vector<FinishedChunk>& claimed,
                         size_t n_chunks)
    : files_(files), claimed_(claimed) {
  if (claimed_.empty()) return;
  claims_.resize(n_chunks);
  for (const FinishedChunk& claim : claimed_)
    if (claim.chunk >= 0 && static_cast<size_t>(claim.chunk) < n_chunks) claims_[claim.chunk] = &claim;
}

const FinishedChunk* ChunkLedger::find(size_t chunk, const PreparedJob& job, const Tile& span) const {
  if (!claims(chunk)) return nullptr;
  std::vector<std::byte> buffer(kReadBytes);
  Xxh64 whole;
  for (const Output& output : job.job.outputs) {
    Xxh64 sum;
    const int64_t begin = job.offset_of(output, span.r0, span.c0), size = row_bytes(output.type, span.elements());
    for (int64_t done = 0; done < size; done += kReadBytes) {
      const int64_t n = std::min(kReadBytes, size - done);
      try {
        if (files_[output.file].read(buffer.data(), n, begin + done) < n) return nullptr;
      } catch (const std::system_error&) {
        return nullptr;
      }
      sum.add(buffer.data(), n);
    }
    const uint64_t digest = sum.digest();
    whole.add(reinterpret_cast<const std::byte*>(&digest), sizeof digest);
  }
  return whole.digest() == claims_[chunk]->checksum ? claims_[chunk] : nullptr;
}

void ChunkLedger::add(const FinishedChunk& finished, uint64_t buffers_put) {
  const std::lock_guard lock(mutex_);
  entries_.push_back({finished, buffers_put});
}

std::vector<FinishedChunk> ChunkLedger::take(uint64_t buffers_written) {
  const std::lock_guard lock(mutex_);
  const auto left = std::stable_partition(entries_.begin(), entries_.end(), [buffers_written](const Entry& entry) {
    return entry.buffers_put > buffers_written;
  });
  std::vector<FinishedChunk> taken;
  for (auto entry = left; entry != entries_.end(); ++entry) taken.push_back(entry->finished);
  entries_.erase(left, entries_.end());
  return taken;
}

}  // namespace fastconv
