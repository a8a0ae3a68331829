#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace fastconv {
namespace {

int64_t align_down(int64_t offset, int64_t unit) { return offset - offset % unit; }

}  // namespace

bool MappedFile::Identity::operator==(const Identity& other) const {
  return device == other.device && inode == other.inode && size == other.size && mtime_seconds == other.mtime_seconds &&
         mtime_nanoseconds == other.mtime_nanoseconds;
}

MappedFile::Identity MappedFile::identify(int descriptor) {
  struct stat status;
  if (fstat(descriptor, &status) != 0) throw std::system_error(errno, std::generic_category(), "fstat");
  if (!S_ISREG(status.st_mode)) throw std::invalid_argument("the descriptor is not of a regular file");
#ifdef __APPLE__
  const struct timespec& mtime = status.st_mtimespec;
#else
  const struct timespec& mtime = status.st_mtim;
#endif
  return {static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino), status.st_size, mtime.tv_sec,
          mtime.tv_nsec};
}

MappedFile::MappedFile(int descriptor) : identity_(identify(descriptor)) {
  descriptor_ = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "dup");
  if (identity_.size == 0) return;
  void* address = mmap(nullptr, static_cast<size_t>(identity_.size), PROT_READ, MAP_SHARED, descriptor_, 0);
  if (address == MAP_FAILED) {
    const int error = errno;
    close(descriptor_);
    throw std::system_error(error, std::generic_category(), "mmap");
  }
  data_ = static_cast<std::byte*>(address);
  guard_.emplace(address, static_cast<size_t>(identity_.size));
}

MappedFile::~MappedFile() {
  guard_.reset();
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(identity_.size));
  close(descriptor_);
}

bool MappedFile::unchanged() const { return identify(descriptor_) == identity_; }

bool MappedFile::cached(int64_t offset) const {
#if defined(__linux__) && defined(RWF_NOWAIT)
  char byte;
  struct iovec to = {&byte, 1};
  return preadv2(descriptor_, &to, 1, offset, RWF_NOWAIT) >= 0 || errno != EAGAIN;
#else
  (void)offset;
  return true;
#endif
}

void MappedFile::read_ahead(int64_t begin, int64_t end) const {
#ifdef __linux__
  posix_fadvise(descriptor_, begin, end - begin, POSIX_FADV_WILLNEED);
#else
  const int64_t start = align_down(begin, sysconf(_SC_PAGESIZE));
  madvise(data_ + start, static_cast<size_t>(end - start), MADV_WILLNEED);
#endif
}

void MappedFile::release(int64_t begin, int64_t end) const {
#ifdef __linux__
  const int64_t start = align_down(begin, kFaultAround);
  const int64_t stop = std::min(align_down(end + kFaultAround - 1, kFaultAround), size());
  madvise(data_ + start, static_cast<size_t>(stop - start), MADV_DONTNEED);
#else
  (void)begin, (void)end;
#endif
}

}  // namespace fastconv
