// Differential test of the kernels: blocks of many kinds through every instruction set of this machine, bytes compared.
//   compare_isas SECONDS_PER_TYPE SEED [TYPE...]; prints a line per type: its name, blocks encoded and decoded, ISAs.
#include <algorithm>
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
#include "tally.hpp"

namespace fastconv::fuzz {
namespace {

constexpr int64_t kElements = 65536;  // of a batch
using Random = std::mt19937_64;
using Clock = std::chrono::steady_clock;

// Words of sixteen generators side by side (xorshift; source: G. Marsaglia, Xorshift RNGs, 2003), so that values cost
// less than the kernels that they are for.
class Noise {
 public:
  explicit Noise(Random& random) {
    for (uint32_t& state : states_) state = static_cast<uint32_t>(random()) | 1;
  }
  // n: a multiple of 16.
  void words(uint32_t* out, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) out[i + lane] = next(lane);
  }
  // Bell-shaped, within -3 and 3, any mantissa.
  void bell(float* out, int64_t n) {
    constexpr float kUnit = 1.0f / 2147483648.0f;
    for (int64_t i = 0; i < n; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const float sum = static_cast<float>(static_cast<int32_t>(next(lane))) +
                          static_cast<float>(static_cast<int32_t>(next(lane))) +
                          static_cast<float>(static_cast<int32_t>(next(lane)));
        out[i + lane] = sum * kUnit;
      }
  }

 private:
  static constexpr int64_t kLanes = 16;
  uint32_t next(int64_t lane) {
    uint32_t& state = states_[lane];
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
  }
  uint32_t states_[kLanes];
};

struct Batch {
  int64_t n;
  std::vector<uint32_t> words;
  std::vector<float> values, importance, decoded, first_decoded;
  std::vector<uint8_t> encoded, first_encoded;
};

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Blocks of one kind each: bell-shaped, of one magnitude, with an outlier, on a grid (ties), constant, zero, subnormal,
// of any bit pattern.
void fill_values(Random& random, Noise& noise, Batch& batch, int64_t block, double max_abs) {
  const auto limit = static_cast<float>(std::fmin(max_abs, 3e38));
  noise.bell(batch.values.data(), batch.n);
  noise.words(batch.words.data(), batch.n);
  for (int64_t at = 0; at < batch.n; at += block) {
    float* const x = &batch.values[at];
    const uint32_t* const words = &batch.words[at];
    const int64_t n = std::min(block, batch.n - at);
    const uint64_t choice = random();
    const uint64_t kind = choice % 16;
    const float scale = std::ldexp(1.0f, static_cast<int>(choice / 16 % 24) - 16);
    const float constant = x[0] * scale;
    if (kind <= 8)
      for (int64_t i = 0; i < n; ++i) x[i] *= scale;
    if (kind == 8) x[choice / 512 % n] *= 1000;
    if (kind == 9)
      for (int64_t i = 0; i < n; ++i) x[i] = std::copysign(scale, x[i]);
    if (kind == 10 || kind == 11)
      for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(static_cast<int>((words[i] >> 16) * 33 >> 16) - 16);
    if (kind == 10 || kind == 11)
      for (int64_t i = 0; i < n; ++i) x[i] *= 0.5f * scale;
    if (kind == 12) std::fill(x, x + n, constant);
    if (kind == 13)
      for (int64_t i = 0; i < n; ++i) x[i] = words[i] % 4 ? 0.0f : x[i] * 1e-40f;
    if (kind >= 14)
      for (int64_t i = 0; i < n; ++i) {
        const float any = from_bits(words[i]);
        x[i] = std::fabs(any) <= limit ? any : x[i] * (limit / 3);
      }
    for (int64_t i = 0; i < n; ++i) x[i] = std::fabs(x[i]) <= limit ? x[i] : 0.0f;
  }
}

bool fail(const KernelTable& table, Type type, const char* what) {
  std::printf("DIFFERS %s: %s of %s and the first\n", std::string(type_info(type).name).c_str(), what,
              std::string(table.name).c_str());
  return false;
}

// Adds the blocks compared; false where two differ.
bool compare(Type type, const std::vector<const KernelTable*>& tables, Random& random, Batch& batch, int64_t& encoded,
             int64_t& decoded) {
  const TypeInfo& info = type_info(type);
  const int64_t n_cols = batch.n / 4;
  Noise noise(random);
  if (info.max_abs > 0) fill_values(random, noise, batch, info.block_size > 1 ? info.block_size : 32, info.max_abs);
  noise.words(batch.words.data(), batch.n);
  for (int64_t i = 0; i < n_cols; ++i) {
    const uint32_t word = batch.words[i];
    batch.importance[i] = word % 16 ? static_cast<float>(word >> 16) / 256 : 0.0f;
  }
  for (const bool weighted : {false, true}) {
    for (const KernelTable* table : tables) {
      const TypeKernels& kernels = table->of(type);
      if (weighted ? kernels.encode_weighted == nullptr : kernels.encode == nullptr) break;
      std::vector<uint8_t>& to = table == tables[0] ? batch.first_encoded : batch.encoded;
      // Whatever is not written differs.
      std::fill(to.begin(), to.end(), static_cast<uint8_t>(table == tables[0] ? 0xa5 : 0x5a));
      if (weighted)
        kernels.encode_weighted(batch.values.data(), to.data(), 4, n_cols, batch.importance.data());
      else
        kernels.encode(batch.values.data(), to.data(), batch.n);
      if (table == tables[0])
        encoded += batch.n / info.block_size;
      else if (batch.encoded != batch.first_encoded)
        return fail(*table, type, weighted ? "weighted encodings" : "encodings");
    }
  }
  // Half of what is decoded is what was encoded, half any bits.
  std::vector<uint8_t>& bytes = batch.first_encoded;
  if (random() % 2 || info.max_abs == 0) {
    noise.words(batch.words.data(), static_cast<int64_t>(batch.words.size()));
    std::memcpy(bytes.data(), batch.words.data(), bytes.size());
  }
  for (const KernelTable* table : tables) {
    if (table->of(type).decode == nullptr) break;
    std::vector<float>& to = table == tables[0] ? batch.first_decoded : batch.decoded;
    table->of(type).decode(bytes.data(), to.data(), batch.n);
    if (table == tables[0])
      decoded += batch.n / info.block_size;
    else if (!same_values(batch.decoded.data(), batch.first_decoded.data(), batch.n))
      return fail(*table, type, "decodings");
  }
  return true;
}

// Of a type that cannot be encoded, those that were decoded.
int64_t blocks(int64_t encoded, int64_t decoded) { return encoded > 0 ? encoded : decoded; }

int run(double seconds, uint64_t seed, const std::vector<std::string>& names) {
  std::vector<const KernelTable*> tables;
  std::string isas;
  for (const std::string_view isa : runnable_isas()) {
    tables.push_back(&kernels(isa));
    isas += (isas.empty() ? "" : ",") + std::string(isa);
  }
  Tally tally;
  int failed = 0;
  for (size_t index = 0; index < kTypeCount; ++index) {
    const auto type = static_cast<Type>(index);
    const std::string name(type_info(type).name);
    bool wanted = names.empty();
    for (const std::string& asked : names) wanted |= asked == name;
    if (!wanted || tables[0]->of(type).decode == nullptr) continue;
    Random random(seed * 1000003 + index);
    const int64_t n = kElements / 4 / type_info(type).block_size * type_info(type).block_size * 4;
    const int64_t size = row_bytes(type, n);
    Batch batch;
    batch.n = n;
    batch.words.resize(std::max(n, size / 4 / 16 * 16 + 16));
    for (std::vector<float>* list : {&batch.values, &batch.importance, &batch.decoded, &batch.first_decoded})
      list->resize(n);
    for (std::vector<uint8_t>* list : {&batch.encoded, &batch.first_encoded}) list->resize(size);
    int64_t encoded = 0, decoded = 0;
    const auto stop = Clock::now() + std::chrono::duration<double>(seconds);
    bool same = true;
    do {
      const int64_t before = blocks(encoded, decoded);
      same = compare(type, tables, random, batch, encoded, decoded);
      if (same) tally.add(blocks(encoded, decoded) - before);
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
