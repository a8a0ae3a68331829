// Preloaded into a process, makes its Nth fallible call on files of one folder fail, once or from there on, end it by a
// signal, or limits the bytes that it may write. Calls are counted by kind; allocations of the extension too.
// It must not know what the process does.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>

// The order of KINDS in harness.py.
enum Kind { kOpen, kRead, kWrite, kMap, kAdvise, kRoom, kSync, kName, kMemory, kDuplicate, kThread, kStat, kLock };
// Counts all, fails none.
constexpr int kAnyKind = -1;
// The order of MODES in harness.py. A limit takes effect at the Nth written byte.
enum Mode { kOnce, kOnwards, kShort, kSignal, kLimit };

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

// Allocations of others than the extension count from here on; Python makes millions of small ones.
constexpr size_t kLargeBytes = 16 << 10;
// Up to here they may be pybind11's own: where it cannot note an object that was made, it ends the process.
constexpr size_t kNoteBytes = 32;

std::atomic<bool> armed{false};
std::atomic<long> n_calls[kLock + 1], n_faults{0}, n_left{0};
char folder[4096];
size_t folder_size = 0;
int wanted_kind = 0, wanted_mode = 0, wanted_error = 0;
uintptr_t extension_begin = 0, extension_end = 0;

bool is_inside(const char* path) { return path != nullptr && strncmp(path, folder, folder_size) == 0; }

bool is_inside(int descriptor) {
  char link[64], path[4096];
  char* end = link + strlen(strcpy(link, "/proc/self/fd/"));
  char digits[16];
  int n = 0;
  if (descriptor < 0) return false;
  do digits[n++] = static_cast<char>('0' + descriptor % 10);
  while ((descriptor /= 10) > 0);
  while (n > 0) *end++ = digits[--n];
  *end = 0;
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return false;
  path[size] = 0;
  return is_inside(path);
}

// A descriptor's own link opens its file once more.
bool opens_inside(const char* path) {
  if (path == nullptr) return false;
  if (strncmp(path, "/proc/self/fd/", 14) != 0) return is_inside(path);
  int descriptor = 0;
  for (const char* digit = path + 14; *digit >= '0' && *digit <= '9'; ++digit)
    descriptor = descriptor * 10 + *digit - '0';
  return is_inside(descriptor);
}

bool is_armed(Kind kind) {
  return armed.load(std::memory_order_relaxed) && (kind == wanted_kind || wanted_kind == kAnyKind);
}

// Counts a call. Whether it is to fail; errno is set.
bool fails(Kind kind) {
  ++n_calls[kind];
  if (wanted_mode == kLimit || wanted_kind == kAnyKind) return false;
  const long left = --n_left;
  if (wanted_mode == kOnwards ? left > 0 : left != 0) return false;
  ++n_faults;
  if (wanted_mode == kSignal) {
    kill(getpid(), wanted_error);
    return false;
  }
  errno = wanted_error;
  return wanted_mode != kShort;
}

// Whether a call that takes up room is refused, now that the limit is reached. size: cut to what is left.
bool is_over_limit(size_t& size) {
  if (wanted_mode != kLimit) return false;
  const long before = n_left.fetch_sub(static_cast<long>(size));
  if (before >= static_cast<long>(size)) return false;
  ++n_faults;
  size = before > 0 ? static_cast<size_t>(before) : 0;
  errno = wanted_error;
  return size == 0;
}

bool is_extension(const void* address) {
  const auto at = reinterpret_cast<uintptr_t>(address);
  return at >= extension_begin && at < extension_end;
}

template <typename Function>
Function next(Function, const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

void* allocate(size_t size, size_t alignment, const void* caller) {
  if (is_armed(kMemory) && size >= (is_extension(caller) ? kNoteBytes + 1 : kLargeBytes) && fails(kMemory))
    return nullptr;
  return alignment == 0 ? __libc_malloc(size) : __libc_memalign(alignment, size);
}

void* allocate_or_throw(size_t size, size_t alignment, const void* caller) {
  void* memory = allocate(std::max<size_t>(size, 1), alignment, caller);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

#define NEXT(name) static const auto real = next(&name, #name)
#define CALLER __builtin_return_address(0)

extern "C" {

void fault_extension(uintptr_t begin, uintptr_t end) {
  extension_begin = begin;
  extension_end = end;
}

void fault_arm(const char* inside, int kind, int mode, long n, int error) {
  folder_size = strlen(strncpy(folder, inside, sizeof folder - 1));
  wanted_kind = kind;
  wanted_mode = mode;
  wanted_error = error;
  for (auto& calls : n_calls) calls = 0;
  n_faults = 0;
  n_left = n;
  armed = true;
}

void fault_disarm() { armed = false; }
long fault_calls(int kind) { return n_calls[kind]; }
long fault_count() { return n_faults; }

#define OPEN(name)                                                         \
  int name(const char* path, int flags, ...) {                             \
    NEXT(name);                                                            \
    va_list more;                                                          \
    va_start(more, flags);                                                 \
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                          \
    if (is_armed(kOpen) && opens_inside(path) && fails(kOpen)) return -1;  \
    return real(path, flags, mode);                                        \
  }
#define OPENAT(name)                                                       \
  int name(int at, const char* path, int flags, ...) {                     \
    NEXT(name);                                                            \
    va_list more;                                                          \
    va_start(more, flags);                                                 \
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                          \
    if (is_armed(kOpen) && opens_inside(path) && fails(kOpen)) return -1;  \
    return real(at, path, flags, mode);                                    \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

DIR* opendir(const char* path) {
  NEXT(opendir);
  if (is_armed(kOpen) && is_inside(path) && fails(kOpen)) return nullptr;
  return real(path);
}

ssize_t read(int descriptor, void* to, size_t size) {
  NEXT(read);
  if (is_armed(kRead) && is_inside(descriptor) && fails(kRead)) return -1;
  return real(descriptor, to, size);
}

// Half of it where a call is to be short.
#define PREAD(name, offset_type)                                             \
  ssize_t name(int descriptor, void* to, size_t size, offset_type offset) {  \
    NEXT(name);                                                              \
    if (is_armed(kRead) && is_inside(descriptor)) {                          \
      const long before = n_faults;                                          \
      if (fails(kRead)) return -1;                                           \
      if (wanted_mode == kShort && n_faults > before) size = (size + 1) / 2; \
    }                                                                        \
    return real(descriptor, to, size, offset);                               \
  }
PREAD(pread, off_t)
PREAD(pread64, off64_t)

ssize_t preadv2(int descriptor, const struct iovec* to, int count, off_t offset, int flags) {
  NEXT(preadv2);
  if (is_armed(kRead) && is_inside(descriptor) && fails(kRead)) return -1;
  return real(descriptor, to, count, offset, flags);
}

#define PWRITE(name, offset_type)                                                   \
  ssize_t name(int descriptor, const void* from, size_t size, offset_type offset) { \
    NEXT(name);                                                                     \
    if (is_armed(kWrite) && is_inside(descriptor)) {                                \
      const long before = n_faults;                                                 \
      if (is_over_limit(size) || fails(kWrite)) return -1;                          \
      if (wanted_mode == kShort && n_faults > before) size = (size + 1) / 2;        \
    }                                                                               \
    return real(descriptor, from, size, offset);                                    \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int descriptor, const void* from, size_t size) {
  NEXT(write);
  if (is_armed(kWrite) && is_inside(descriptor) && (is_over_limit(size) || fails(kWrite))) return -1;
  return real(descriptor, from, size);
}

#define MMAP(name, offset_type)                                                                           \
  void* name(void* address, size_t size, int protection, int flags, int descriptor, offset_type offset) { \
    NEXT(name);                                                                                           \
    if (is_armed(kMap) && descriptor >= 0 && is_inside(descriptor) && fails(kMap)) return MAP_FAILED;     \
    return real(address, size, protection, flags, descriptor, offset);                                    \
  }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)

int madvise(void* address, size_t size, int advice) noexcept {
  NEXT(madvise);
  if (is_armed(kAdvise) && is_extension(CALLER) && fails(kAdvise)) return -1;
  return real(address, size, advice);
}

int posix_fadvise(int descriptor, off_t offset, off_t size, int advice) noexcept {
  NEXT(posix_fadvise);
  if (is_armed(kAdvise) && is_inside(descriptor) && fails(kAdvise)) return wanted_error;
  return real(descriptor, offset, size, advice);
}

// Under a limit the file system cannot reserve, so that it is the writes that meet it.
int fallocate(int descriptor, int mode, off_t offset, off_t size) {
  NEXT(fallocate);
  if (is_armed(kWrite) && wanted_mode == kLimit && is_inside(descriptor)) {
    errno = EOPNOTSUPP;
    return -1;
  }
  if (is_armed(kRoom) && is_inside(descriptor) && fails(kRoom)) return -1;
  return real(descriptor, mode, offset, size);
}

#define FTRUNCATE(name, offset_type)                                                                       \
  int name(int descriptor, offset_type size) noexcept {                                                    \
    NEXT(name);                                                                                            \
    if (is_armed(kRoom) && wanted_error != EOPNOTSUPP && is_inside(descriptor) && fails(kRoom)) return -1; \
    return real(descriptor, size);                                                                         \
  }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                           \
  int name(int descriptor) {                                                 \
    NEXT(name);                                                              \
    if (is_armed(kSync) && is_inside(descriptor) && fails(kSync)) return -1; \
    return real(descriptor);                                                 \
  }
SYNC(fsync)
SYNC(fdatasync)

#define NAMES(name)                                                   \
  int name(const char* one, const char* other) noexcept {             \
    NEXT(name);                                                       \
    if (is_armed(kName) && is_inside(one) && fails(kName)) return -1; \
    return real(one, other);                                          \
  }
NAMES(rename)
NAMES(link)

int renameat(int at, const char* one, int there, const char* other) noexcept {
  NEXT(renameat);
  if (is_armed(kName) && is_inside(one) && fails(kName)) return -1;
  return real(at, one, there, other);
}

int mkdir(const char* path, mode_t mode) noexcept {
  NEXT(mkdir);
  if (is_armed(kName) && is_inside(path) && fails(kName)) return -1;
  return real(path, mode);
}

// The extension calls renameat2 this way.
long syscall(long number, ...) noexcept {
  NEXT(syscall);
  va_list more;
  va_start(more, number);
  long values[6];
  for (long& value : values) value = va_arg(more, long);
  va_end(more);
  if (number == SYS_renameat2 && is_armed(kName) && is_inside(reinterpret_cast<const char*>(values[1])) && fails(kName))
    return -1;
  return real(number, values[0], values[1], values[2], values[3], values[4], values[5]);
}

#define FCNTL(name)                                                                                                  \
  int name(int descriptor, int command, ...) {                                                                       \
    NEXT(name);                                                                                                      \
    va_list more;                                                                                                    \
    va_start(more, command);                                                                                         \
    void* argument = va_arg(more, void*);                                                                            \
    va_end(more);                                                                                                    \
    if (command == F_DUPFD_CLOEXEC && is_armed(kDuplicate) && is_inside(descriptor) && fails(kDuplicate)) return -1; \
    return real(descriptor, command, argument);                                                                      \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*start)(void*), void* argument) noexcept {
  NEXT(pthread_create);
  if (is_armed(kThread) && fails(kThread)) return wanted_error;
  return real(thread, how, start, argument);
}

#define STAT(name, status_type)                                        \
  int name(const char* path, struct status_type* to) noexcept {        \
    NEXT(name);                                                        \
    if (is_armed(kStat) && is_inside(path) && fails(kStat)) return -1; \
    return real(path, to);                                             \
  }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

#define FSTAT(name, status_type)                                             \
  int name(int descriptor, struct status_type* to) noexcept {                \
    NEXT(name);                                                              \
    if (is_armed(kStat) && is_inside(descriptor) && fails(kStat)) return -1; \
    return real(descriptor, to);                                             \
  }
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

// A disk that fills up after it was asked how full it is.
#define STATVFS(name, status_type)                              \
  int name(const char* path, struct status_type* to) noexcept { \
    NEXT(name);                                                 \
    const int result = real(path, to);                          \
    if (armed && is_inside(path)) to->f_bavail = 1 << 30;       \
    return result;                                              \
  }
STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)

int flock(int descriptor, int operation) noexcept {
  NEXT(flock);
  if (is_armed(kLock) && is_inside(descriptor) && fails(kLock)) return -1;
  return real(descriptor, operation);
}

void* malloc(size_t size) { return allocate(size, 0, nullptr); }

void* calloc(size_t count, size_t size) {
  if (is_armed(kMemory) && count * size >= kLargeBytes && fails(kMemory)) return nullptr;
  return __libc_calloc(count, size);
}

void* realloc(void* memory, size_t size) {
  if (is_armed(kMemory) && size >= kLargeBytes && fails(kMemory)) return nullptr;
  return __libc_realloc(memory, size);
}

int posix_memalign(void** to, size_t alignment, size_t size) {
  *to = allocate(size, alignment, nullptr);
  return *to == nullptr ? ENOMEM : 0;
}

void* aligned_alloc(size_t alignment, size_t size) { return allocate(size, alignment, nullptr); }

}  // extern "C"

void* operator new(size_t size) { return allocate_or_throw(size, 0, CALLER); }
void* operator new[](size_t size) { return allocate_or_throw(size, 0, CALLER); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocate(size, 0, CALLER); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<size_t>(alignment), CALLER);
}
