// One kernel as a filter from stdin to stdout, for processors that only an emulator has. Built by test_other_cpus.py.
//   kernel_filter isas
//   kernel_filter encode|decode TYPE        f32 -> blocks, blocks -> f32
//   kernel_filter encode_weighted TYPE N_COLS    the importance of N_COLS columns, rows -> blocks
//   kernel_filter recode FROM TO            stored elements -> stored elements
//   kernel_filter max_abs                   f32 -> one f32
//   kernel_filter sum_of_squares|square_norm    f32 -> one f64
//   kernel_filter lora_add M N RANK SCALE   rows, b, a -> rows
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "blocks/type_table.hpp"
#include "isa/kernel_table.hpp"

namespace {

std::vector<char> read_all() {
  std::vector<char> bytes;
  char chunk[65536];
  for (size_t n; (n = std::fread(chunk, 1, sizeof chunk, stdin)) > 0;) bytes.insert(bytes.end(), chunk, chunk + n);
  return bytes;
}

template <class T>
std::vector<T> read_array() {
  const std::vector<char> bytes = read_all();
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

template <class T>
int write_array(const T* values, size_t n) {
  return std::fwrite(values, sizeof(T), n, stdout) == n && std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace fastconv;
  const std::string op = argc > 1 ? argv[1] : "";
  if (op == "isas") {
    std::string names;
    for (const std::string_view name : runnable_isas()) names += std::string(name) + "\n";
    return write_array(names.data(), names.size());
  }
  const KernelTable& table = kernels();
  if ((op == "encode" || op == "decode") && argc == 3) {
    const Type type = type_from_name(argv[2]);
    if (type == Type::count) return 2;
    const TypeInfo& info = type_info(type);
    if (op == "encode") {
      const std::vector<float> x = read_array<float>();
      std::vector<uint8_t> out(static_cast<size_t>(row_bytes(type, static_cast<int64_t>(x.size()))));
      table.of(type).encode(x.data(), out.data(), static_cast<int64_t>(x.size()));
      return write_array(out.data(), out.size());
    }
    const std::vector<uint8_t> blocks = read_array<uint8_t>();
    std::vector<float> out(blocks.size() / static_cast<size_t>(info.block_bytes) *
                           static_cast<size_t>(info.block_size));
    table.of(type).decode(blocks.data(), out.data(), static_cast<int64_t>(out.size()));
    return write_array(out.data(), out.size());
  }
  if (op == "recode" && argc == 4) {
    const Type from = type_from_name(argv[2]), to = type_from_name(argv[3]);
    const RecodeFn recode = from == Type::count || to == Type::count ? nullptr : table.recode(from, to);
    if (recode == nullptr) return 2;
    const std::vector<uint8_t> elements = read_array<uint8_t>();
    const int64_t n = static_cast<int64_t>(elements.size()) / type_info(from).block_bytes * type_info(from).block_size;
    std::vector<uint8_t> out(static_cast<size_t>(row_bytes(to, n)));
    recode(elements.data(), out.data(), n);
    return write_array(out.data(), out.size());
  }
  std::vector<float> x = read_array<float>();
  if (op == "encode_weighted" && argc == 4) {
    const Type type = type_from_name(argv[2]);
    const int64_t n_cols = std::atoll(argv[3]), n = static_cast<int64_t>(x.size()) - n_cols;
    if (type == Type::count || n_cols <= 0 || n < 0 || n % n_cols != 0) return 2;
    std::vector<uint8_t> out(static_cast<size_t>(row_bytes(type, n)));
    table.of(type).encode_weighted(x.data() + n_cols, out.data(), n / n_cols, n_cols, x.data());
    return write_array(out.data(), out.size());
  }
  if (op == "max_abs") {
    const float most = table.max_abs(x.data(), static_cast<int64_t>(x.size()));
    return write_array(&most, 1);
  }
  if (op == "sum_of_squares") {
    const double sum = table.sum_of_squares(x.data(), static_cast<int64_t>(x.size()));
    return write_array(&sum, 1);
  }
  if (op == "square_norm") {
    const double sum = table.square_norm(x.data(), static_cast<int64_t>(x.size()));
    return write_array(&sum, 1);
  }
  if (op == "lora_add" && argc == 6) {
    const int64_t m = std::atoll(argv[2]), n = std::atoll(argv[3]), rank = std::atoll(argv[4]);
    if (static_cast<int64_t>(x.size()) != m * n + m * rank + rank * n) return 2;
    float* b = x.data() + m * n;
    table.lora_add(x.data(), n, m, n, b, b + m * rank, n, rank, std::strtof(argv[5], nullptr));
    return write_array(x.data(), static_cast<size_t>(m * n));
  }
  return 2;
}
