// Writing at offsets of a file that someone else opened, sizes, syncs and names; from many threads at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastconv {

class OutputFile {
 public:
  // Duplicates the descriptor. Throws std::system_error.
  OutputFile(int descriptor, bool may_be_direct);
  OutputFile(OutputFile&& other) noexcept;
  ~OutputFile();

  // What addresses and offsets must be multiples of for bytes to go past the page cache.
  static int64_t page_bytes();

  // Whether bytes can go past the page cache, straight to the disk: not copied, not kept in memory, not left for the
  // final sync. Few file systems cannot; on systems without such a call it is false.
  bool direct() const { return direct_.load(std::memory_order_relaxed); }

  // All `size` bytes at `offset`, past the page cache where the file is direct() and whole pages of both memory and
  // file coincide. Throws std::system_error with the system's error number.
  void write(const std::byte* data, int64_t size, int64_t offset) const;

  // Up to `size` bytes from `offset`; returns how many, fewer only at the file's end. The descriptor must be open for
  // reading too. Throws std::system_error.
  int64_t read(std::byte* data, int64_t size, int64_t offset) const;

 private:
  int descriptor_;
  int direct_descriptor_ = -1;  // of the same file
  mutable std::atomic<bool> direct_{false};
};

// Gives the file `size` bytes of room on its disk. Throws std::system_error, ENOSPC among others.
void reserve(int descriptor, int64_t size);

}  // namespace fastconv
