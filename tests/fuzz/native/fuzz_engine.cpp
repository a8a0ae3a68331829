// The native code as a function of arbitrary bytes: every decoder, encoder, recoding and merge of every instruction
// set, and jobs of every shape through validation and, where they pass it, through a run. For libFuzzer, or for
// driver.cpp.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "bytes.hpp"
#include "engine/run.hpp"
#include "engine/source_reader.hpp"
#include "engine/validate.hpp"
#include "io/storage.hpp"
#include "isa/kernel_table.hpp"
#include "tally.hpp"

namespace fastconv::fuzz {
namespace {

void require(bool holds, const char* what, Type type) {
  if (holds) return;
  std::fprintf(stderr, "finding: %s, type %s\n", what, std::string(type_info(type).name).c_str());
  std::abort();
}

const std::vector<const KernelTable*>& tables() {
  static const std::vector<const KernelTable*> all = [] {
    std::vector<const KernelTable*> found;
    for (const std::string_view isa : runnable_isas()) found.push_back(&kernels(isa));
    return found;
  }();
  return all;
}

Type any_type(Bytes& bytes) { return static_cast<Type>(bytes.byte() % kTypeCount); }

void decode(Bytes& bytes) {
  const Type type = any_type(bytes);
  const TypeInfo& info = type_info(type);
  const int64_t n = info.block_size * (1 + bytes.below(info.block_size > 32 ? 4 : 40));
  const auto blocks = exactly<uint8_t>(row_bytes(type, n));
  bytes.fill(blocks.get(), row_bytes(type, n));
  std::unique_ptr<float[]> first;
  for (const KernelTable* table : tables()) {
    if (table->of(type).decode == nullptr) return;
    auto values = exactly<float>(n);
    table->of(type).decode(blocks.get(), values.get(), n);
    if (first) require(same_values(first.get(), values.get(), n), "instruction sets decode differently", type);
    if (table->of(type).decode_max != nullptr) {
      auto again = exactly<float>(n);
      const float largest = table->of(type).decode_max(blocks.get(), again.get(), n);
      const float expected = table->max_abs(values.get(), n);
      require(same_values(values.get(), again.get(), n), "decode_max decodes differently", type);
      require(same_values(&largest, &expected, 1), "decode_max finds another maximum", type);
    }
    first = std::move(values);
  }
}

// Quantizers that search grids take a thousand times as long as others: one in sixteen of those that bytes ask for.
Type any_encoded_type(Bytes& bytes) {
  const Type type = any_type(bytes);
  return type >= Type::iq3_s && type <= Type::iq1_s && bytes.byte() % 16 ? Type::iq4_xs : type;
}

// Whether a quantizer may be asked: finite and within the type's range. The others are only watched by the sanitizers.
bool in_range(const float* values, int64_t n, double max_abs) {
  for (int64_t i = 0; i < n; ++i)
    if (!(std::fabs(values[i]) <= max_abs)) return false;
  return true;
}

void encode(Bytes& bytes, bool weighted) {
  const Type type = any_encoded_type(bytes);
  const TypeInfo& info = type_info(type);
  const int64_t n_cols = info.block_size * (1 + bytes.below(info.block_size > 32 ? 2 : 20));
  const int64_t n_rows = weighted ? 1 + bytes.below(info.block_size > 32 ? 2 : 3) : 1;
  const auto importance = exactly<float>(n_cols);
  for (int64_t i = 0; weighted && i < n_cols; ++i) importance[i] = static_cast<float>(bytes.byte()) / 16;
  const auto values = exactly<float>(n_rows * n_cols);
  bytes.fill(values.get(), sizeof(float) * n_rows * n_cols);
  const bool compares = in_range(values.get(), n_rows * n_cols, info.max_abs);
  const int64_t size = row_bytes(type, n_rows * n_cols);
  std::unique_ptr<uint8_t[]> first;
  for (const KernelTable* table : tables()) {
    const TypeKernels& kernels = table->of(type);
    if (weighted ? kernels.encode_weighted == nullptr : kernels.encode == nullptr) return;
    auto blocks = exactly<uint8_t>(size);
    if (weighted)
      kernels.encode_weighted(values.get(), blocks.get(), n_rows, n_cols, importance.get());
    else
      kernels.encode(values.get(), blocks.get(), n_cols);
    if (first && compares)
      require(std::memcmp(first.get(), blocks.get(), size) == 0, "instruction sets encode differently", type);
    first = std::move(blocks);
  }
}

void recode(Bytes& bytes) {
  const size_t index = bytes.byte() % kRecodeCount;
  const Recode& any = tables()[0]->recodes[index];
  const int64_t n = type_info(any.to).block_size * (1 + bytes.below(40));
  const auto blocks = exactly<uint8_t>(row_bytes(any.from, n));
  bytes.fill(blocks.get(), row_bytes(any.from, n));
  std::unique_ptr<uint8_t[]> first;
  int64_t first_rounded = 0;
  for (const KernelTable* table : tables()) {
    auto out = exactly<uint8_t>(row_bytes(any.to, n));
    const Recoded recoded = table->recodes[index].run(blocks.get(), out.get(), n);
    const int64_t rounded = recoded.rounded_blocks;
    const auto values = exactly<float>(n), expected = exactly<float>(n);
    table->of(any.to).decode(out.get(), values.get(), n);
    if (type_info(any.from).block_size == 1) {
      const auto stored = exactly<float>(n);
      const auto two_steps = exactly<uint8_t>(row_bytes(any.to, n));
      table->of(any.from).decode(blocks.get(), stored.get(), n);
      table->of(any.to).encode(stored.get(), two_steps.get(), n);
      require(std::memcmp(out.get(), two_steps.get(), row_bytes(any.to, n)) == 0, "halves encode differently", any.to);
      const float most = table->max_abs(stored.get(), n), found = table->of(any.from).stored_max(blocks.get(), n);
      require(same_values(&recoded.largest, &most, 1), "recoding finds another maximum", any.from);
      require(same_values(&found, &most, 1), "stored_max finds another maximum", any.from);
    }
    if (first) {
      table->of(any.to).decode(first.get(), expected.get(), n);
      require(rounded == first_rounded, "instruction sets round differently", any.from);
      require(same_values(expected.get(), values.get(), n), "instruction sets recode differently", any.from);
    }
    first = std::move(out);
    first_rounded = rounded;
  }
}

void merge(Bytes& bytes) {
  const int64_t n_rows = 1 + bytes.below(5), n_cols = 1 + bytes.below(80), rank = bytes.below(20);
  const int64_t stride = n_cols + bytes.below(3);
  const auto a = exactly<float>(rank * n_cols), b = exactly<float>(n_rows * rank);
  const auto rows = exactly<float>((n_rows - 1) * stride + n_cols);
  const float scale = bytes.real();
  bytes.fill(a.get(), sizeof(float) * rank * n_cols);
  bytes.fill(b.get(), sizeof(float) * n_rows * rank);
  bytes.fill(rows.get(), sizeof(float) * ((n_rows - 1) * stride + n_cols));
  std::unique_ptr<float[]> first;
  for (const KernelTable* table : tables()) {
    const int64_t size = (n_rows - 1) * stride + n_cols;
    auto out = exactly<float>(size);
    std::memcpy(out.get(), rows.get(), sizeof(float) * size);
    table->lora_add(out.get(), stride, n_rows, n_cols, b.get(), a.get(), n_cols, rank, scale);
    if (first) require(same_values(first.get(), out.get(), size), "instruction sets merge differently", Type::f32);
    first = std::move(out);
  }
}

struct JobBuilder {
  Bytes& bytes;
  std::shared_ptr<Storage> storage;

  Source source(int64_t n_rows, int64_t n_cols, bool any) {
    Source source{n_rows, n_cols, {}, {}};
    const int64_t n_pieces = bytes.byte() % 4 == 0 ? bytes.below(4) : 1;
    const bool by_columns = bytes.byte() % 2;
    int64_t row = 0, col = 0;
    for (int64_t i = 0; i < n_pieces; ++i) {
      const Type type = any ? any_type(bytes) : Type::f32;
      Piece piece{storage, type, bytes.number(64), n_cols, 1, row, n_rows, col, n_cols};
      if (i + 1 < n_pieces) (by_columns ? piece.n_cols : piece.n_rows) = bytes.below(64);
      if (by_columns) {
        if (i + 1 == n_pieces) piece.n_cols = n_cols > col ? n_cols - col : n_cols;
        col += piece.n_cols;
      } else {
        if (i + 1 == n_pieces) piece.n_rows = n_rows > row ? n_rows - row : n_rows;
        row += piece.n_rows;
      }
      if (any && bytes.byte() % 8 == 0) {
        int64_t* const fields[] = {&piece.offset, &piece.row_stride, &piece.col_stride, &piece.row,
                                   &piece.n_rows, &piece.col,        &piece.n_cols};
        *fields[bytes.byte() % 7] = bytes.number(300);
      }
      source.pieces.push_back(std::move(piece));
    }
    if (bytes.byte() % 4 == 0)
      for (int64_t i = 0; i < n_rows && i < 256; ++i) source.rows.push_back(bytes.number(n_rows < 1 ? 1 : n_rows - 1));
    return source;
  }
};

void convert(const Job& job, const Bytes& seed) {
  Bytes bytes = seed;
  static const int descriptor = memfd_create("fuzz", 0);
  RunOptions options;
  options.nonfinite = static_cast<NonFinite>(bytes.byte() % 3);
  options.tile_bytes = bytes.below(4096);
  // Mostly buffers as small as they get: large ones cost more to watch than the job does.
  options.max_memory = bytes.byte() % 64 ? 1 : 0;
  options.direct = false;
  options.kernels = tables()[bytes.byte() % tables().size()];
  try {
    Run run({job}, {descriptor}, options);
    while (!run.wait(10)) {
    }
    run.delta_stats();
    run.rounded_blocks();
  } catch (const std::invalid_argument&) {
  } catch (const NonFiniteValue&) {
  }
}

void job(Bytes& bytes) {
  const int64_t size = 64 + 64 * bytes.below(256);
  const auto memory = exactly<std::byte>(size);
  Bytes contents = bytes;
  contents.fill(memory.get(), size);
  JobBuilder build{bytes, Storage::in_memory(memory.get(), size, nullptr)};
  const int64_t n_rows = bytes.number(16), n_blocks = bytes.number(8);
  const int64_t width = bytes.byte() % 2 ? 32 : bytes.byte() % 2 ? 256 : 1;
  const int64_t n_cols = n_blocks >= 0 && n_blocks <= 8 ? n_blocks * width : n_blocks;
  Job job{"fuzzed", build.source(n_rows, n_cols, true), {}, {}};
  for (int64_t i = bytes.byte() % 3; i > 0; --i) {
    const int64_t rank = bytes.number(4);
    Delta delta{build.source(n_rows, rank, false), build.source(rank, n_cols, false), bytes.real(), {}};
    if (bytes.byte() % 4 == 0) delta.magnitude.push_back(build.source(n_rows, 1, false));
    job.deltas.push_back(std::move(delta));
  }
  for (int64_t i = 1 + bytes.byte() % 2; i > 0; --i)
    job.outputs.push_back({static_cast<int>(bytes.byte() % 16 == 0), any_encoded_type(bytes), bytes.number(4096)});
  if (bytes.byte() % 3 == 0) {
    const int64_t n_matrices = bytes.number(3);
    Importance importance{build.source(n_matrices, n_cols, false), {}};
    for (int64_t i = 0; i < n_matrices && i < 8; ++i) importance.counts.push_back(bytes.real());
    job.importance.push_back(std::move(importance));
  }
  try {
    validate(job, 1);
  } catch (const std::invalid_argument&) {
    return;
  }
  // What lies within its storage may still be wide where one of its sides is nothing.
  if (job.source.n_rows > 4096 || job.source.n_cols > 1 << 16) return;
  for (const Output& output : job.outputs)
    if (output.offset > 1 << 20) return;
  for (const Delta& delta : job.deltas)
    if (delta.a.n_rows > 4096) return;
  convert(job, bytes);
}

}  // namespace
}  // namespace fastconv::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static fastconv::fuzz::Tally tally;
  tally.add(1);
  fastconv::fuzz::Bytes bytes(data, size);
  switch (bytes.byte() % 8) {
    case 0:
    case 1:
      fastconv::fuzz::decode(bytes);
      break;
    case 2:
    case 3:
      fastconv::fuzz::encode(bytes, false);
      break;
    case 4:
      fastconv::fuzz::encode(bytes, true);
      break;
    case 5:
      fastconv::fuzz::recode(bytes);
      break;
    case 6:
      fastconv::fuzz::merge(bytes);
      break;
    default:
      fastconv::fuzz::job(bytes);
  }
  return 0;
}
