// What is taken of the address space, which may be limited more tightly than memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

// From now on threads share the memory that the first one has, where they would reserve 64 MB of address space each.
// For processes whose address space is limited; the engine allocates seldom.
void share_one_arena();

// What was freed goes back to the system, as far as the C library keeps it: tokenizers leave holes of many megabytes.
void return_free_memory();

// Address space that nobody else gets while this lives; it takes no memory.
class ReservedSpace {
 public:
  ReservedSpace() = default;
  ~ReservedSpace() { release(); }
  ReservedSpace(const ReservedSpace&) = delete;
  ReservedSpace& operator=(const ReservedSpace&) = delete;

  // Instead of what it holds. False where that much cannot be had.
  bool reserve(int64_t n_bytes);
  void release();

 private:
  void* address_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fastconv
