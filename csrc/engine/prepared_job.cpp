#include "engine/prepared_job.hpp"

#include <algorithm>
#include <limits>

#include "engine/validate.hpp"

namespace fastconv {
namespace {

// A tile stays in the first-level cache between decode, check and encode.
constexpr int64_t kTileBytes = 32 << 10;
// Of rows with importance several are encoded together.
constexpr int64_t kTallTileBytes = 128 << 10;
// A merged tile shares the second-level cache with A, and more rows use each load of A more often: rather beyond that
// cache than fewer rows than are merged together.
constexpr int64_t kMergedTileBytes = 128 << 10, kLargestMergedTileBytes = 1 << 20;

int64_t default_tile_bytes(const PreparedJob& job) {
  if (!job.merger) return job.importance ? kTallTileBytes : kTileBytes;
  const int64_t row_bytes =
      std::min(job.source.n_cols(), kLargestMergedTileBytes) * static_cast<int64_t>(sizeof(float));
  return std::clamp(kRowsTogether * row_bytes, kMergedTileBytes, kLargestMergedTileBytes);
}

const Job& validated(const Job& job, size_t n_files) {
  validate(job, n_files);
  return job;
}

// Whether an encoder is to heed importance, and so to be given whole rows.
bool is_weighted(const Job& job, const KernelTable& kernels) {
  return !job.importance.empty() && std::any_of(job.outputs.begin(), job.outputs.end(), [&](const Output& output) {
    return kernels.of(output.type).encode_weighted != nullptr;
  });
}

}  // namespace

PreparedJob::PreparedJob(const Job& wanted, size_t at, size_t n_files, int64_t tile_bytes, const KernelTable& kernels)
    : job(validated(wanted, n_files)),
      index(at),
      source(job.source, job.deltas.empty() && !is_weighted(job, kernels), kernels) {
  if (!job.deltas.empty()) merger = std::make_unique<Merger>(job.deltas, job.source.n_rows, job.source.n_cols, kernels);
  if (is_weighted(job, kernels)) importance = std::make_unique<ImportanceReader>(job, kernels);
  if (tile_bytes == 0) tile_bytes = default_tile_bytes(*this);
  const std::vector<Piece>& pieces = job.source.pieces;
  const bool planar = std::any_of(pieces.begin(), pieces.end(), [](const Piece& p) { return is_planar(p.type); });
  division = divide(source, merger != nullptr || importance != nullptr || planar, tile_bytes);
  element_bytes = (source.row_bytes() - 1) / std::max<int64_t>(source.n_cols(), 1) + 1;
  needs_rows = false;
  max_abs = std::numeric_limits<double>::max();
  decodes = std::all_of(pieces.begin(), pieces.end(), [](const Piece& p) { return type_info(p.type).decodes; });
  for (const Output& output : job.outputs) {
    const bool copies = !merger && source.stored_as(output.type);
    const bool same = !merger && !pieces.empty() && source.stored_as(pieces[0].type);
    const bool in_blocks = source.in_blocks(type_info(output.type).block_size);
    // Importance decides about what is encoded, not about levels that are kept.
    const bool weighs = importance && kernels.of(output.type).encode_weighted != nullptr;
    const bool may_recode = same && in_blocks && !(weighs && type_info(pieces[0].type).block_size == 1);
    encodings.push_back({copies, may_recode ? kernels.recode(pieces[0].type, output.type) : nullptr, weighs});
    needs_rows = needs_rows || !encodings.back().carries_over();
    // What is copied and cannot be encoded has no limit of its own.
    if (type_info(output.type).max_abs > 0) max_abs = std::min(max_abs, type_info(output.type).max_abs);
  }
}

ScratchBytes PreparedJob::scratch_bytes() const {
  const int64_t n = division.tile.n_rows * division.tile.n_cols, tile_bytes = n * static_cast<int64_t>(sizeof(float));
  // Decoded, and once more clamped.
  ScratchBytes scratch{2 * tile_bytes, 0, 0};
  if (merger) {
    scratch.of_thread += merger->thread_bytes(division.tile.n_rows);
    scratch.shared = merger->shared_bytes();
  }
  if (importance) scratch.of_thread += 2 * source.n_cols() * static_cast<int64_t>(sizeof(float));
  for (const Output& output : job.outputs) scratch.piece = std::max(scratch.piece, row_bytes(output.type, n));
  return scratch;
}

}  // namespace fastconv
