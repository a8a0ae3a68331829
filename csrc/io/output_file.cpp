#include "io/output_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace fastconv {
namespace {

[[noreturn]] void fail(int error) { throw std::system_error(error, std::generic_category()); }

// The same file once more, opened for writing past the page cache; -1 where that cannot be.
int open_direct(int descriptor) {
#ifdef O_DIRECT
  return open(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC);
#else
  (void)descriptor;
  return -1;
#endif
}

void write_all(int descriptor, const std::byte* data, int64_t size, int64_t offset) {
  while (size > 0) {
    const ssize_t written = pwrite(descriptor, data, static_cast<size_t>(size), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(errno);
    }
    // A device that takes nothing and reports no error would be asked for ever.
    if (written == 0) fail(ENOSPC);
    data += written;
    size -= written;
    offset += written;
  }
}

}  // namespace

OutputFile::OutputFile(int descriptor, bool may_be_direct) : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
  if (descriptor_ < 0) fail(errno);
  if (may_be_direct) direct_descriptor_ = open_direct(descriptor_);
  direct_ = direct_descriptor_ >= 0;
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      direct_descriptor_(std::exchange(other.direct_descriptor_, -1)),
      direct_(other.direct()) {}

OutputFile::~OutputFile() {
  if (direct_descriptor_ >= 0) close(direct_descriptor_);
  if (descriptor_ >= 0) close(descriptor_);
}

int64_t OutputFile::page_bytes() {
  static const int64_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

void OutputFile::write(const std::byte* data, int64_t size, int64_t offset) const {
  const int64_t page = page_bytes();
  const int64_t head = std::min(size, (page - offset % page) % page), whole = (size - head) / page * page;
  if (direct() && whole > 0 && reinterpret_cast<uintptr_t>(data + head) % static_cast<uintptr_t>(page) == 0) {
    try {
      write_all(direct_descriptor_, data + head, whole, offset + head);
      write_all(descriptor_, data, head, offset);
      return write_all(descriptor_, data + head + whole, size - head - whole, offset + head + whole);
    } catch (const std::system_error& error) {
      // Some file systems take the flag and refuse the write, or want larger units.
      if (error.code().value() != EINVAL) throw;
      direct_ = false;
    }
  }
  write_all(descriptor_, data, size, offset);
}

int64_t OutputFile::read(std::byte* data, int64_t size, int64_t offset) const {
  int64_t done = 0;
  while (done < size) {
    const ssize_t n = pread(descriptor_, data + done, static_cast<size_t>(size - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(errno);
    if (n == 0) break;
    done += n;
  }
  return done;
}

void reserve(int descriptor, int64_t size) {
#ifdef __linux__
  while (size > 0 && fallocate(descriptor, 0, 0, size) != 0) {
    if (errno == EINTR) continue;
    if (errno == EOPNOTSUPP || errno == ENOSYS) break;
    fail(errno);
  }
#endif
  while (ftruncate(descriptor, size) != 0)
    if (errno != EINTR) fail(errno);
}

}  // namespace fastconv
