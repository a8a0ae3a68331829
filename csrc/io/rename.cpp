#include "io/rename.hpp"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#ifdef __linux__
#include <sys/syscall.h>
#endif

namespace fastconv {
namespace {

// Linux: renameat2(2); the C library may be older than the call.
#ifdef __linux__
constexpr unsigned kNew = 1, kExchange = 2;
#elif defined(__APPLE__)
constexpr unsigned kNew = RENAME_EXCL, kExchange = RENAME_SWAP;
#else
constexpr unsigned kNew = 0, kExchange = 0;
#endif

void rename_with(const char* from, const char* to, unsigned flags) {
#if defined(__linux__) && defined(SYS_renameat2)
  const long failed = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags);
#elif defined(__APPLE__)
  const int failed = renamex_np(from, to, flags);
#else
  (void)from, (void)to, (void)flags;
  const int failed = -1;
  errno = ENOSYS;
#endif
  if (failed != 0) throw std::system_error(errno, std::generic_category());
}

}  // namespace

void rename_new(const char* from, const char* to) { rename_with(from, to, kNew); }

void exchange_names(const char* one, const char* other) { rename_with(one, other, kExchange); }

}  // namespace fastconv
