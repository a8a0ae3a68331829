#include "io/output_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace fastconv {

OutputFile::OutputFile(int descriptor) : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category());
}

OutputFile::OutputFile(OutputFile&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void OutputFile::write(const std::byte* data, int64_t size, int64_t offset) const {
  while (size > 0) {
    const ssize_t written = pwrite(descriptor_, data, static_cast<size_t>(size), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw std::system_error(errno, std::generic_category());
    }
    // A device that takes nothing and reports no error would be asked for ever.
    if (written == 0) throw std::system_error(ENOSPC, std::generic_category());
    data += written;
    size -= written;
    offset += written;
  }
}

}  // namespace fastconv
