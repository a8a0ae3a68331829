// Differential test of the kernels: blocks of many kinds through every instruction set of this machine, bytes compared.
//   compare_isas SECONDS_PER_TYPE SEED [TYPE...]; prints a line per type: its name, blocks encoded and decoded, ISAs.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "isa/kernel_table.hpp"

namespace fastconv::fuzz {
namespace {

constexpr int64_t kElements = 16384;  // of a batch
using Random = std::mt19937_64;
using Clock = std::chrono::steady_clock;

float any_finite(Random& random, double max_abs) {
  for (;;) {
    const auto bits = static_cast<uint32_t>(random());
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    if (std::fabs(value) <= max_abs) return value;
  }
}

// Blocks of one kind each: of a normal distribution, of one magnitude, with an outlier, on a grid (ties), constant,
// zero, subnormal, of any bit pattern.
void fill_values(Random& random, float* x, int64_t n, int64_t block, double max_abs) {
  std::normal_distribution<float> normal;
  const double limit = std::fmin(max_abs, 3e38);
  for (int64_t at = 0; at < n; at += block) {
    const uint64_t kind = random() % 10;
    const float scale = std::ldexp(1.0f, static_cast<int>(random() % 24) - 16);
    const float constant = normal(random) * scale;
    for (int64_t i = at; i < at + block && i < n; ++i) {
      float value = 0;
      if (kind <= 3) value = normal(random) * scale;
      if (kind == 4) value = (random() % 2 ? 1.0f : -1.0f) * scale;
      if (kind == 5) value = static_cast<float>(static_cast<int>(random() % 33) - 16) * 0.5f * scale;
      if (kind == 6) value = constant;
      if (kind == 7) value = random() % 4 ? 0.0f : normal(random) * 1e-40f;
      if (kind >= 8) value = any_finite(random, max_abs);
      x[i] = std::fabs(value) <= limit ? value : 0.0f;
    }
    if (kind == 3) x[at] *= 1000;
  }
}

bool fail(const KernelTable& table, Type type, const char* what) {
  std::printf("DIFFERS %s: %s of %s and the first\n", std::string(type_info(type).name).c_str(), what,
              std::string(table.name).c_str());
  return false;
}

struct Batch {
  int64_t n;
  std::vector<float> values, importance, decoded, first_decoded;
  std::vector<uint8_t> encoded, first_encoded;
};

// Adds the blocks compared; false where two differ.
bool compare(Type type, const std::vector<const KernelTable*>& tables, Random& random, Batch& batch, int64_t& encoded,
             int64_t& decoded) {
  const TypeInfo& info = type_info(type);
  const int64_t size = row_bytes(type, batch.n);
  const int64_t n_cols = batch.n / 4 / info.block_size * info.block_size;
  if (info.max_abs > 0)
    fill_values(random, batch.values.data(), batch.n, info.block_size > 1 ? info.block_size : 32, info.max_abs);
  for (float& value : batch.importance) value = random() % 16 ? static_cast<float>(random() % 65536) / 256 : 0.0f;
  for (const bool weighted : {false, true}) {
    for (const KernelTable* table : tables) {
      const TypeKernels& kernels = table->of(type);
      if (weighted ? kernels.encode_weighted == nullptr : kernels.encode == nullptr) break;
      std::fill(batch.encoded.begin(), batch.encoded.end(), uint8_t{0xa5});
      if (weighted)
        kernels.encode_weighted(batch.values.data(), batch.encoded.data(), batch.n / n_cols, n_cols,
                                batch.importance.data());
      else
        kernels.encode(batch.values.data(), batch.encoded.data(), batch.n);
      if (table == tables[0]) {
        batch.first_encoded = batch.encoded;
        encoded += batch.n / info.block_size;
      } else if (batch.encoded != batch.first_encoded) {
        return fail(*table, type, weighted ? "weighted encodings" : "encodings");
      }
    }
  }
  // Half of what is decoded is what was encoded, half any bits.
  auto* bytes = batch.first_encoded.data();
  if (random() % 2 || info.max_abs == 0)
    for (int64_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(random());
  for (const KernelTable* table : tables) {
    if (table->of(type).decode == nullptr) break;
    table->of(type).decode(bytes, batch.decoded.data(), batch.n);
    if (table == tables[0]) {
      batch.first_decoded = batch.decoded;
      decoded += batch.n / info.block_size;
    } else if (!same_values(batch.decoded.data(), batch.first_decoded.data(), batch.n)) {
      return fail(*table, type, "decodings");
    }
  }
  return true;
}

int run(double seconds, uint64_t seed, const std::vector<std::string>& names) {
  std::vector<const KernelTable*> tables;
  std::string isas;
  for (const std::string_view isa : runnable_isas()) {
    tables.push_back(&kernels(isa));
    isas += (isas.empty() ? "" : ",") + std::string(isa);
  }
  int failed = 0;
  for (size_t index = 0; index < kTypeCount; ++index) {
    const auto type = static_cast<Type>(index);
    const std::string name(type_info(type).name);
    bool wanted = names.empty();
    for (const std::string& asked : names) wanted |= asked == name;
    if (!wanted || tables[0]->of(type).decode == nullptr) continue;
    Random random(seed * 1000003 + index);
    const int64_t n = kElements / 4 / type_info(type).block_size * type_info(type).block_size * 4;
    Batch batch{n, std::vector<float>(n), std::vector<float>(n), std::vector<float>(n), {}, {}, {}};
    batch.encoded.resize(row_bytes(type, n));
    batch.first_encoded.resize(row_bytes(type, n));
    int64_t encoded = 0, decoded = 0;
    const auto stop = Clock::now() + std::chrono::duration<double>(seconds);
    bool same = true;
    do {
      same = compare(type, tables, random, batch, encoded, decoded);
    } while (same && Clock::now() < stop);
    failed += !same;
    std::printf("%s %lld %lld %s\n", name.c_str(), static_cast<long long>(encoded), static_cast<long long>(decoded),
                isas.c_str());
    std::fflush(stdout);
  }
  return failed != 0;
}

}  // namespace
}  // namespace fastconv::fuzz

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  return fastconv::fuzz::run(std::strtod(argv[1], nullptr), std::strtoull(argv[2], nullptr, 10),
                             {argv + 3, argv + argc});
}
