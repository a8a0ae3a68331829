// A whole input file as read-only memory, with the advice an operating system takes about its pages.
// It must not know what the bytes mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "io/fault_guard.hpp"

namespace fastconv {

class MappedFile {
 public:
  // Duplicates the descriptor. Throws std::system_error if it cannot be mapped, std::invalid_argument if it is not a
  // regular file.
  explicit MappedFile(int descriptor);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  int64_t size() const { return identity_.size; }

  // What tells one state of one file from another.
  struct Identity {
    uint64_t device, inode;
    int64_t size, mtime_seconds, mtime_nanoseconds;
    bool operator==(const Identity& other) const;
  };
  const Identity& identity() const { return identity_; }
  // Throws std::system_error or std::invalid_argument like the constructor.
  static Identity identify(int descriptor);

  // Whether the file still is what was mapped.
  bool unchanged() const;
  // Whether pages were touched that are gone, under a FaultGuard: without one that ends the process.
  bool lost() const { return guard_ && guard_->lost(); }

  // The rest is advice: it never fails, and does nothing where the system has no such call. Byte ranges of the file.

  // A fault maps its neighbours too, within an aligned block of this size (Linux: fault_around_bytes).
  static constexpr int64_t kFaultAround = 64 << 10;

  // Whether the page at `offset` is in the page cache, as far as the system tells; true where it does not.
  bool cached(int64_t offset) const;
  // Starts reading [begin, end) into the page cache.
  void read_ahead(int64_t begin, int64_t end) const;
  // Takes the pages of [begin, end), and those mapped along with them, out of this process's page table. They can be
  // touched again.
  void release(int64_t begin, int64_t end) const;

 private:
  int descriptor_ = -1;
  std::byte* data_ = nullptr;
  Identity identity_{};
  std::optional<GuardedRange> guard_;
};

}  // namespace fastconv
