#include "isa/kernel_table.hpp"

#include <cstdlib>
#include <stdexcept>

#include "isa/cpu_features.hpp"

namespace fastconv {

#if defined(__x86_64__)
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx2 {
extern const KernelTable kTable;
}
namespace baseline {
extern const KernelTable kTable;
}
#elif defined(__aarch64__)
namespace neon {
extern const KernelTable kTable;
}
#endif

namespace {

struct Implementation {
  const KernelTable* table;
  uint32_t needs;  // of CpuFeature
};

// Best first.
constexpr Implementation kImplementations[] = {
#if defined(__x86_64__)
    {&avx512::kTable, kCpuAvx512},
    {&avx2::kTable, kCpuAvx2},
    {&baseline::kTable, 0},
#elif defined(__aarch64__)
    {&neon::kTable, 0},
#else
#error "no kernels for this processor: add isa/<isa>/simd.hpp and kernels.cpp"
#endif
};

std::vector<const KernelTable*> runnable() {
  const uint32_t features = cpu_features();
  std::vector<const KernelTable*> tables;
  for (const Implementation& i : kImplementations)
    if ((features & i.needs) == i.needs) tables.push_back(i.table);
  return tables;
}

const KernelTable& find(std::string_view isa, std::string_view asked_by) {
  const std::vector<const KernelTable*> tables = runnable();
  std::string choices;
  for (const KernelTable* table : tables) {
    if (table->name == isa) return *table;
    choices += (choices.empty() ? "" : ", ") + std::string(table->name);
  }
  throw std::invalid_argument(std::string(asked_by) + ": instruction set '" + std::string(isa) +
                              "' is unknown or cannot run here; choices: " + choices);
}

}  // namespace

std::vector<std::string_view> runnable_isas() {
  std::vector<std::string_view> names;
  for (const KernelTable* table : runnable()) names.push_back(table->name);
  return names;
}

const KernelTable& kernels() {
  // A throw leaves the choice open: the next call looks again.
  static const KernelTable& chosen = []() -> const KernelTable& {
    const char* forced = std::getenv("FASTCONV_ISA");
    return forced != nullptr && *forced != '\0' ? find(forced, "FASTCONV_ISA") : *runnable().front();
  }();
  return chosen;
}

const KernelTable& kernels(std::string_view isa) { return find(isa, "isa"); }

}  // namespace fastconv
