// Writing at offsets of a file that someone else opened, sizes, syncs and names; from many threads at once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

class OutputFile {
 public:
  // Duplicates the descriptor. Throws std::system_error.
  explicit OutputFile(int descriptor);
  OutputFile(OutputFile&& other) noexcept;
  ~OutputFile();

  // All `size` bytes at `offset`. Throws std::system_error with the system's error number.
  void write(const std::byte* data, int64_t size, int64_t offset) const;

 private:
  int descriptor_;
};

}  // namespace fastconv
