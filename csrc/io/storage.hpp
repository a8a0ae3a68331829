// Where source bytes live: a mapped input file, or memory that someone keeps alive. It must not know what they mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "io/mapped_file.hpp"

namespace fastconv {

class Storage {
 public:
  // Maps the file behind a descriptor; descriptors of one file in one state share one mapping. Throws like MappedFile.
  static std::shared_ptr<Storage> map_file(int descriptor);

  // `size` bytes at `data`, valid as long as `keeper` lives.
  static std::shared_ptr<Storage> in_memory(const void* data, int64_t size, std::shared_ptr<void> keeper);

  const std::byte* data() const { return data_; }
  int64_t size() const { return size_; }
  // nullptr for memory.
  const MappedFile* file() const { return file_.get(); }

 private:
  Storage() = default;

  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
  std::unique_ptr<MappedFile> file_;
  std::shared_ptr<void> keeper_;
};

}  // namespace fastconv
