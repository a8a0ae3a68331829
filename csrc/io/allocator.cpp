#include "io/allocator.hpp"

#ifdef __linux__
#include <malloc.h>
#endif
#include <sys/mman.h>

namespace fastconv {

void share_one_arena() {
#ifdef M_ARENA_MAX
  mallopt(M_ARENA_MAX, 1);
#endif
}

void return_free_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

bool ReservedSpace::reserve(int64_t n_bytes) {
  release();
  if (n_bytes <= 0) return true;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* const address = mmap(nullptr, static_cast<size_t>(n_bytes), PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address == MAP_FAILED) return false;
  address_ = address;
  size_ = static_cast<size_t>(n_bytes);
  return true;
}

void ReservedSpace::release() {
  if (address_ != nullptr) munmap(address_, size_);
  address_ = nullptr;
}

}  // namespace fastconv
