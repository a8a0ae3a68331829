// Runs a fuzz target where there is no libFuzzer: random inputs, and those before with bytes changed. Not guided.
//   fuzz_engine SECONDS [SEED] | fuzz_engine FILE...
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

Input mutated(Input input, std::mt19937_64& random) {
  for (uint64_t n = 1 + random() % 4; n > 0; --n) {
    const size_t at = random() % input.size();
    switch (random() % 5) {
      case 0:
        input[at] ^= static_cast<uint8_t>(1u << random() % 8);
        break;
      case 1:
        input[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        for (size_t i = at; i < input.size() && i < at + 4; ++i) input[i] = random() % 2 ? 0xff : 0;
        break;
      case 3:
        if (input.size() > 2) input.erase(input.begin() + static_cast<int64_t>(at));
        break;
      default:
        input.insert(input.begin() + static_cast<int64_t>(at), static_cast<uint8_t>(random()));
    }
  }
  return input;
}

int run_files(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const Input input{std::istreambuf_iterator<char>(file), {}};
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  char* end = nullptr;
  const double seconds = argc > 1 ? std::strtod(argv[1], &end) : 10;
  if (argc > 1 && *end != '\0') return run_files(argc, argv);
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  std::vector<Input> pool;
  for (int i = 0; i < 512; ++i) {
    Input input(8 + random() % 600);
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
    input[0] = static_cast<uint8_t>(i);
    pool.push_back(std::move(input));
  }
  const auto stop = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t n = 0;
  while (std::chrono::steady_clock::now() < stop) {
    Input& slot = pool[random() % pool.size()];
    Input next = mutated(slot, random);
    LLVMFuzzerTestOneInput(next.data(), next.size());
    if (next.size() < 4096 && random() % 4 == 0) slot = std::move(next);
    ++n;
  }
  std::printf("Done %llu runs\n", static_cast<unsigned long long>(n));
  return 0;
}
